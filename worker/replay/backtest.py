"""What a bundle would have said of recorded readings.

Owns feeding a recording through the pipeline that the worker runs, in the order of time and
with nothing known of what comes later. How its answers become tables is in ``tables.py``.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from worker.core.channels import US_PER_S, ChannelSpec
from worker.core.events import Chunk, Readings
from worker.core.outgoing import Outputs
from worker.core.pipeline import Pipeline
from worker.core.state import PartitionState
from worker.models.bundle import Bundle
from worker.pipelines import create_pipeline
from worker.replay.drift_windows import Drifts, Keeper, judge_drift
from worker.replay.tables import Answers
from worker.settings import Settings
from worker.training.readings import MachineReadings, Recording, machine_readings
from worker.training.window import interval_us

STEP_ROWS = 20_000
TOPIC = "backtest"
DAY_US = 86_400 * US_PER_S
OTHER_RATE = 2.0
"""Readings that come so many times as often or as seldom as in training are another thing."""

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Backtest:
    """What a bundle said of a recording.

    Attributes:
        scores: a row for each row of the recording, in its order; the score is null where the
            worker would not have scored it. Columns: ``tables.SCORES``.
        episodes: a row for each episode; ``closed_at`` is null where it was still open at the
            end. Columns: ``tables.EPISODES``.
        health: a row for each condition of a sensor or machine. Columns: ``tables.HEALTH``.
        drift: what was said of windows; None: the bundle has no reference, or nobody asked.
        summary: counts and rates, ready to be written as JSON.
    """

    scores: pl.DataFrame
    episodes: pl.DataFrame
    health: pl.DataFrame
    drift: Drifts | None
    summary: dict[str, Any]


def backtest(
    bundle: Bundle,
    recording: Recording,
    *,
    settings: Settings | None = None,
    warm_up: Recording | None = None,
    watches_drift: bool = True,
    on_progress: Progress = lambda share: None,
) -> Backtest:
    """Feed a recording through the bundle's pipeline, from fresh state.

    Args:
        settings: of a worker, for what it detects and tells; None: the defaults.
        warm_up: readings from before, which the state has seen but which are not judged.
        watches_drift: whether windows are also judged for drift.
        on_progress: called with the share of all rows that is done.
    """
    spec = bundle.spec
    settings = settings or Settings()
    pipeline, state = create_pipeline(settings, bundle), PartitionState(spec)
    readings = machine_readings(recording, spec)
    before = None if warm_up is None else machine_readings(warm_up, spec)
    warming = 0 if before is None else len(before)
    total = max(warming + len(readings), 1)
    if before is not None:
        for done, _, _ in follow(pipeline, state, before):
            on_progress(done / total)
    begun_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        keeper = None
        if watches_drift and bundle.reference is not None:
            keeper = Keeper(bundle, settings.drift, 0, Path(folder) / "partials")
        answers = answers_to(
            pipeline,
            readings,
            state=state,
            keeper=keeper,
            on_progress=lambda share: on_progress((warming + share * len(readings)) / total),
        )
        drift = None if keeper is None else judge_drift(bundle, settings.drift, [keeper.finish()])
    seconds = time.perf_counter() - begun_s
    scores, episodes, health = (
        answers.scores(recording.frame, readings.rows),
        answers.episodes(),
        answers.health(),
    )
    days = machine_days(readings)
    times = scores["timestamp"]
    scored = answers.scored
    summary = {
        "model": bundle.model_version,
        "data": recording.source,
        "warm_up": None if warm_up is None else warm_up.source,
        "notes": [
            *readings.notes,
            *differences(bundle, readings.machine_ids, interval_us(readings)),
        ],
        "rows": len(scores),
        "scored": scored,
        "not_scored": len(scores) - scored,
        "machines": len(readings.machine_ids),
        "start": text_of(times.min()),
        "end": text_of(times.max()),
        "anomalies": answers.anomalies,
        "anomaly_share": answers.anomalies / max(scored, 1),
        "machine_days": days,
        "episodes": len(episodes),
        "episodes_open": episodes["closed_at"].null_count(),
        "episodes_per_machine_day": len(episodes) / days if days else None,
        **decision_of(settings, bundle),
        "health": dict(sorted(health["kind"].value_counts().iter_rows())),
        "drift": None if drift is None else drift.summary,
        "seconds": round(seconds, 3),
        "rows_per_second": round(len(readings) / max(seconds, 1e-9)),
    }
    return Backtest(scores, episodes, health, drift, summary)


def decision_of(settings: Settings, bundle: Bundle) -> dict[str, float | None]:
    """The budget, and the threshold that is pinned instead, as the pipeline takes them."""
    budget, threshold = settings.detection.budget, settings.detection.threshold
    if budget is None and threshold is None:
        threshold = bundle.threshold
    return {"budget": bundle.budget if budget is None else budget, "threshold": threshold}


def differences(bundle: Bundle, machine_ids: Iterable[str], interval_us: float | None) -> list[str]:
    """In what readings differ from those of the training, a sentence each.

    Args:
        interval_us: usual time between two readings of a machine; None: no machine has two.
    """
    notes = []
    known = set(bundle.baselines.machine_ids.tolist())
    new = sum(machine_id not in known for machine_id in machine_ids)
    if new:
        notes.append(
            f"machines that training did not have, which learn their own level first: {new:,}"
        )
    then_us = bundle.manifest.training.interval_s * US_PER_S
    if interval_us is not None and not 1 / OTHER_RATE <= interval_us / then_us <= OTHER_RATE:
        then_s = then_us / US_PER_S
        notes.append(
            f"a reading comes each {interval_us / US_PER_S:g} s, in training each {then_s:g} s: "
            "what is unusual depends on that, so train on readings of this rate"
        )
    return notes


def answers_to(
    pipeline: Pipeline,
    readings: MachineReadings,
    *,
    state: PartitionState | None = None,
    keeper: Keeper | None = None,
    on_progress: Progress = lambda share: None,
) -> Answers:
    """What the pipeline says of readings, from fresh state or from ``state`` on.

    Args:
        keeper: also gathers what was scored.
    """
    answers = Answers(pipeline.spec, len(readings))
    for done, at, outputs in follow(pipeline, state or PartitionState(pipeline.spec), readings):
        answers.take(at, outputs)
        if keeper is not None:
            keeper.take(outputs)
        on_progress(done / len(readings))
    on_progress(1.0)
    return answers


def follow(
    pipeline: Pipeline, state: PartitionState, readings: MachineReadings
) -> Iterator[tuple[int, NDArray[np.int64], Outputs]]:
    """Apply readings to the state in the order of time.

    A reading counts as recorded at its own time. Readings without any usable value are left
    out, as the worker does.

    Yields:
        How many readings are done, positions (k,) of the latest, and what they gave; rows of the
        outputs are positions among these k.
    """
    keys = [machine_id.encode() for machine_id in readings.machine_ids]
    machines = readings.machines
    order = np.argsort(readings.times_us, kind="stable")
    usable = order[~np.isnan(readings.values[order]).all(axis=1)]
    for start in range(0, len(usable), STEP_ROWS):
        at = usable[start : start + STEP_ROWS]
        machine_ids = [keys[machine] for machine in machines[at].tolist()]
        chunk = Chunk(
            topic=TOPIC,
            partition=0,
            offsets=state.next_offset + np.arange(len(at)),
            timestamps_ms=readings.times_us[at] // 1000,
            keys=machine_ids,
            values=[None] * len(at),
        )
        found = pipeline.apply(state, chunk, _readings(pipeline.spec, readings, at, machine_ids))
        yield start + len(at), at, found


def _readings(
    spec: ChannelSpec,
    readings: MachineReadings,
    at: NDArray[np.int64],
    machine_ids: Sequence[bytes],
) -> Readings:
    """The readings at positions (k,) as the pipeline takes them."""
    nothing: list[str | None] = [None] * len(at)
    positions = at.tolist()
    others = {name: [column[i] for i in positions] for name, column in readings.categories.items()}
    return Readings(
        rows=np.arange(len(at)),
        machine_ids=machine_ids,
        times_us=readings.times_us[at],
        record_times_us=readings.times_us[at],
        values=readings.values[at],
        impossible=readings.impossible[at],
        categories={c.name: others.get(c.name, nothing) for c in spec.categorical},
        codes={c.name: others.get(c.name, nothing) for c in spec.events},
        notices={},
    )


def machine_days(readings: MachineReadings) -> float:
    """For how long machines were watched: each reading stands for its machine's usual interval."""
    usual_us = interval_us(readings) or 0.0
    days = 0.0
    for start, end in pairwise(readings.starts.tolist()):
        gaps_us = np.diff(readings.times_us[start:end])
        gaps_us = gaps_us[gaps_us > 0]
        typical_us = float(np.median(gaps_us)) if len(gaps_us) else usual_us
        # Readings of the same moment stand for it once.
        days += (len(gaps_us) + 1) * typical_us / DAY_US
    return days


def text_of(moment: Any) -> str | None:
    """RFC 3339, as everywhere."""
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")
