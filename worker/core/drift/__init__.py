"""Drift: whether what machines send, and what the model makes of it, is still as in training.

cells        where a value lies among the reference's quantiles
thinning     which rows are worth counting
collector    rows, counted and sampled
partial      what a pane holds, merged exactly
wire         its bytes
reference    what was usual in training, frozen
learning     how it is made
contrasts    what a change looks like
calibration  how far means stray without drift
cycles       what is usual at an hour
statistics   distances that people know
comparison   a window beside the reference
distances    what people know, told of each column
joint        columns together, categories, alarms
columns      what is said of each column
detectable   the smallest change that a test finds
streams      tests over several windows: ADWIN, Page-Hinkley, KSWIN
judge        one window: votes, words
windows      tumbling windows of partials
episodes     events that open and close once
history      since when
advice       what it probably is, which machines
watched      rows of what scoring has at hand
monitor      all of it, for one group
"""

from worker.core.drift.collector import Collector
from worker.core.drift.learning import learn_reference
from worker.core.drift.monitor import DriftMonitor, Settings, last_words
from worker.core.drift.outputs import (
    DriftEvent,
    FeatureDrift,
    Machine,
    Outputs,
    RetrainingRequest,
    Test,
    WindowReport,
)
from worker.core.drift.partial import FLEET, Layout, Partial, merge
from worker.core.drift.reference import SCORE, Reference
from worker.core.drift.watched import remembering, watched_columns, watched_rows

__all__ = [
    "FLEET",
    "SCORE",
    "Collector",
    "DriftEvent",
    "DriftMonitor",
    "FeatureDrift",
    "Layout",
    "Machine",
    "Outputs",
    "Partial",
    "Reference",
    "RetrainingRequest",
    "Settings",
    "Test",
    "WindowReport",
    "last_words",
    "learn_reference",
    "merge",
    "remembering",
    "watched_columns",
    "watched_rows",
]
