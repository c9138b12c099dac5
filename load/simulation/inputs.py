"""The events of one seed, and the worker's pipeline that judges them."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from load.simulation.consumer import EPOCH_MS
from worker.core.channels import parse_spec
from worker.core.detection.detector import Detector
from worker.core.drift import FLEET, Layout
from worker.core.drift.cells import EDGES
from worker.core.episodes import EpisodeRules, Episodes
from worker.core.health import Health, HealthProfile
from worker.core.pipeline import Pipeline
from worker.core.state import StateLimits
from worker.training.fit import fit
from worker.training.readings import MachineReadings

SPEC = parse_spec(
    """
    name = "simulation"
    [window]
    length = "3m"
    pane = "1m"
    grace = "1m"
    max_future = "5m"
    [[channel]]
    name = "load"
    min = 0.0
    max = 100.0
    [[channel]]
    name = "speed"
    """
)
LAYOUT = Layout(
    columns=(*SPEC.feature_names, "model_score"),
    edges=np.tile(np.linspace(-1.0, 120.0, EDGES, dtype=np.float32), (len(SPEC.features) + 1, 1)),
    center=np.zeros(len(SPEC.features) + 1),
    scale=np.ones(len(SPEC.features) + 1),
    categories=(),
    groups=(FLEET,),
    fingerprint=7,
    stride_us=20_000_000,
)
"""How scored rows are counted for drift; of one group, so that one panel of numbers tells all."""
LIMITS = StateLimits(retention_us=6 * 60_000_000, max_machines=4)
START_US = (EPOCH_MS - 3_600_000) * 1000
THRESHOLD = 0.2
"""So high that many events are anomalies."""
RULES = EpisodeRules(merge_gap_us=20_000_000, cool_down_us=20_000_000, minimum_us=0)
"""So short that episodes open and close within the few events of a seed."""
TROUBLE = 0.1
"""Share of readings with which a sensor's trouble begins, for the next few of its machine."""

Event = tuple[bytes | None, bytes | None]
"""Key and value."""


def _model(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Any function of every feature will do, if the last bit of each of them shows."""
    weights = np.linspace(0.5, 1.5, rows.shape[1], dtype=np.float32)
    scores: NDArray[np.float32] = np.sin((rows * weights).sum(axis=1)) * 0.5 - np.float32(0.5)
    return scores


def make_pipeline() -> Pipeline:
    """The worker's pipeline around a free model, which knows each partition's first machine."""
    rows, channels, known = 100, len(SPEC.continuous), 4
    fitted = fit(
        SPEC,
        MachineReadings(
            source="simulation",
            machine_ids=tuple(f"m{partition}-0" for partition in range(known)),
            starts=np.arange(known + 1) * rows,
            times_us=START_US + np.tile(np.arange(rows), known) * 15_000_000,
            values=np.random.default_rng(1).uniform(45.0, 55.0, (known * rows, channels)),
            impossible=np.zeros((known * rows, channels), np.bool_),
            categories={},
            rows=np.arange(known * rows),
        ),
    )
    return Pipeline(
        "simulation/1",
        1,
        Detector(
            SPEC, fitted.baselines, fitted.codes, _model, fitted.expected, threshold=THRESHOLD
        ),
        Health(SPEC, _profile()),
        Episodes(SPEC, RULES),
    )


def _profile() -> HealthProfile:
    """Limits for machines that training did not have: few events are enough for a fault."""
    channels = len(SPEC.continuous)
    return HealthProfile(
        machine_ids=(),
        ranges=np.tile(np.array([0.0, 100.0, np.inf], np.float32), (1, channels, 1)),
        limits=np.full((1, channels, 2), 3, np.uint16),
        usual_us=np.array([[30_000_000, 90_000_000]]),
    )


def events(random: Random, partition: int, count: int) -> list[Event]:
    """Events of a few machines: in order, late, from the future, unusable; some fall silent.

    Their sensors fail for a while, and maintenance is announced.
    """
    machines = [f"m{partition}-{i}" for i in range(random.randint(1, 5))]
    silent_after = {m: random.randint(count // 2, 2 * count) for m in machines}
    troubles: dict[str, list[str]] = {m: [] for m in machines}
    return [
        _event(random, random.choice(machines), number, silent_after, troubles)
        for number in range(count)
    ]


def _event(
    random: Random,
    machine: str,
    number: int,
    silent_after: dict[str, int],
    troubles: dict[str, list[str]],
) -> Event:
    if number > silent_after[machine]:
        machine = min(silent_after, key=lambda m: (-silent_after[m], m))
    time_us = START_US + (15 * number + random.randint(-20, 20)) * 1_000_000
    body: dict[str, Any] = {"machine_id": machine, **_readings(random, troubles[machine])}
    kind = random.random()
    if kind < 0.05:
        return machine.encode(), random.choice((b"", b"{", b'{"machine_id": 7}', b"\xff", None))
    if kind < 0.08:
        return b"another", json.dumps(body).encode()
    if kind < 0.15:
        time_us -= random.randint(2, 10) * 60_000_000
    elif kind < 0.17:
        time_us += 2 * 3_600_000_000
    elif kind < 0.24:
        body["maintenance"] = _maintenance(random, time_us)
    if kind > 0.95:
        body["load"] = body["speed"] = None
    body["timestamp"] = time_us
    return machine.encode(), json.dumps(body).encode()


def _readings(random: Random, trouble: list[str]) -> dict[str, float | None]:
    """Readings of one event; ``trouble`` is what is wrong with the machine's next ones."""
    readings: dict[str, float | None] = {
        "load": round(random.uniform(-5.0, 110.0), 3),
        "speed": round(random.uniform(0.0, 100.0), 3),
    }
    if not trouble and random.random() < TROUBLE:
        trouble += [random.choice(("stuck", "missing", "impossible"))] * random.randint(4, 8)
    what = trouble.pop() if trouble else ""
    if what == "stuck":
        readings["speed"] = 50.0
    elif what == "missing":
        readings["speed"] = None
    elif what == "impossible":
        readings["load"] = -1.0
    return readings


def _maintenance(random: Random, time_us: int) -> dict[str, Any]:
    """A notice: of now, or of a time to come that the machine may not reach."""
    begin_us = time_us + random.choice((0, 0, 600_000_000)) + random.randint(0, 9) * 1_000_000
    end_us = begin_us + random.randint(0, 3) * 60_000_000
    return {"from": begin_us, "until": end_us, "relearn": random.random() < 0.5}
