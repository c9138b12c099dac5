"""What the drift monitor says: plain records of text, numbers and tuples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ordinary", "drift", "blind", "sparse", "health"]
EventKind = Literal["drift", "health"]
EventStatus = Literal["opened", "updated", "closed"]
CloseReason = Literal["recovered", "accepted", "new-reference"]
Advice = Literal[
    "sensor-fault", "recalibrated-sensor", "new-regime", "gradual-wear", "seasonal", "unclear"
]
Direction = Literal["up", "down", "wider", "narrower", "shape", "missing", "none"]


@dataclass(frozen=True)
class Test:
    """One statistic of a window against the reference.

    Attributes:
        name: as docs/drift.md calls it.
        value: the statistic.
        p_value: chance of one as extreme without drift; None: it is told, not tested.
        effect: by how much it differs, in ``unit``.
        unit: the channel's, or "" for shares and plain numbers.
        effective_rows: how many independent rows the window is worth to this test.
        smallest_detectable: the smallest effect that is found nine times in ten.
        voted: whether it counts as a vote for drift.
    """

    __test__ = False  # pytest: not a test class

    name: str
    value: float
    p_value: float | None
    effect: float
    unit: str
    effective_rows: float
    smallest_detectable: float | None
    voted: bool


@dataclass(frozen=True)
class FeatureDrift:
    """What all tests say of one column.

    Attributes:
        drifted: whether it is significant, with regard to how much else was tested.
        score: Wasserstein distance in standard deviations of the reference; usual limit 0.3.
        effect: shift of the mean in ``unit``.
        p_value: of the test that is most significant, corrected for the number of its tests.
    """

    feature: str
    unit: str
    drifted: bool
    score: float
    direction: Direction
    effect: float
    p_value: float
    effective_rows: float
    smallest_detectable: float
    tests: tuple[Test, ...]


@dataclass(frozen=True)
class Machine:
    """A machine and its share of the change, in [0, 1]."""

    machine_id: str
    share: float


@dataclass(frozen=True)
class WindowReport:
    """What was found in one window.

    Attributes:
        verdict: "blind": the reference is too short for windows of this length; "sparse": too
            few rows; "health": so much is missing that there is nothing to compare.
        sentence: who voted how, or what cannot be seen.
        score: of the column that drifted most.
        p_value: of the whole window, corrected for all that was tested in it.
        features: all columns, the most significant first.
        joint: tests of all columns together.
    """

    group: str
    window_us: int
    start_us: int
    end_us: int
    rows: int
    machines: float
    verdict: Verdict
    sentence: str
    score: float
    p_value: float
    features: tuple[FeatureDrift, ...] = ()
    joint: tuple[Test, ...] = ()


@dataclass(frozen=True)
class DriftEvent:
    """A drift that was opened, updated or closed.

    Attributes:
        id: of the whole event, ``group@opened-at``.
        sequence: 1 for ``opened``, then counting on.
        began_us: since when, by a change-point estimate.
        opened_us, last_us: end of the window that opened it, and of the last that showed it.
        window_us: length of the windows that showed it.
        features: those that drifted, the most significant first.
        machines: those that contribute most.
        reason: in one sentence, for people.
        reference: hash of the reference; of the new one, if that is why the event was closed.
    """

    id: str
    group: str
    kind: EventKind
    status: EventStatus
    sequence: int
    began_us: int
    opened_us: int
    last_us: int
    closed_us: int | None
    close_reason: CloseReason | None
    window_us: int
    score: float
    p_value: float
    features: tuple[FeatureDrift, ...]
    machines: tuple[Machine, ...]
    advice: Advice
    reason: str
    reference: str
    model_version: str


@dataclass(frozen=True)
class RetrainingRequest:
    """Drift lasts and the model behaves differently since."""

    id: str
    group: str
    event_id: str
    at_us: int
    reason: str
    reference: str
    model_version: str


@dataclass(frozen=True)
class Outputs:
    """What came of a partial; ``late`` and ``repeated`` count partials that added nothing."""

    windows: tuple[WindowReport, ...] = ()
    events: tuple[DriftEvent, ...] = ()
    requests: tuple[RetrainingRequest, ...] = ()
    late: int = 0
    repeated: int = 0
