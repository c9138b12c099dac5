"""The simulator's machines, with every fault of machines and of sensors, split by time.

Two weeks of a run are simulated, with one event a minute (milling machines) or in five (pumps). The
first days are learned, the others judged. ``healthy`` learns from days without faults, as after
commissioning; ``unlabelled`` from days with as many faults as the test; ``newcomers`` from
other machines of the same kind than are judged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from load.detection.cases import US_PER_DAY, Case, Event, Frame
from worker.assets import asset_dir
from worker.core.channels import US_PER_S, ChannelSpec, parse_spec
from worker.simulator import FaultRates, Simulator

TRAINING_DAYS = 5
TEST_DAYS = 10
SEEDS_TO_LEARN = 1
"""Design choices were made on seeds below this one."""

_START_US = 1_767_225_600 * US_PER_S

PUMP = """
name = "pump"

[window]
length = "5h"
pane = "5m"
grace = "30m"

[[channel]]
name = "pressure"
min = 0.0
max = 40.0
typical = [6.0, 9.0]

[[channel]]
name = "flow"
min = 0.0
max = 500.0
typical = [180.0, 260.0]

[[channel]]
name = "current"
min = 0.0
max = 90.0
typical = [22.0, 31.0]

[[channel]]
name = "motor_temperature"
min = -40.0
max = 250.0
typical = [48.0, 71.0]

[[channel]]
name = "oil_temperature"
min = -40.0
max = 200.0
typical = [35.0, 52.0]

[[channel]]
name = "vibration"
min = 0.0
max = 100.0
typical = [1.2, 2.6]

[[derived]]
name = "hydraulic_power_w"
unit = "W"
product = ["pressure", "flow"]
factor = 1.6666666667
"""


@dataclass(frozen=True)
class Plant:
    """Simulated machines of one kind.

    Attributes:
        healthy_training: whether the days to learn from are without faults.
        newcomers: whether half of the machines are learned from and the others judged.
    """

    name: str
    spec: ChannelSpec
    interval_s: float
    machines: int
    healthy_training: bool = True
    newcomers: bool = False


def plants() -> tuple[Plant, ...]:
    """What ``--sets simulator`` runs."""
    file = asset_dir("models") / "machine-health" / "channels.toml"
    mills = parse_spec(file.read_text(), str(file))
    return (
        Plant("healthy", mills, 60.0, 20),
        Plant("unlabelled", mills, 60.0, 20, healthy_training=False),
        Plant("pumps", parse_spec(PUMP, "pump"), 300.0, 40),
        Plant("newcomers", mills, 30.0, 40, newcomers=True),
    )


def plant_cases(plant: Plant, seeds: range) -> Iterator[Case]:
    """One case a seed."""
    for seed in seeds:
        yield plant_case(plant, seed)


def plant_case(
    plant: Plant, seed: int, training_days: float = TRAINING_DAYS, test_days: float = TEST_DAYS
) -> Case:
    """A run of a plant; its name and the seed decide everything."""
    split_us = _START_US + int(training_days * US_PER_DAY)
    end_us = split_us + int(test_days * US_PER_DAY)
    faulty = _simulator(plant, seed, FaultRates())
    before = _frame(faulty, split_us)
    if plant.healthy_training:
        # Faults have random numbers of their own, so this is the same past without them.
        before = _frame(_simulator(plant, seed, FaultRates.none()), split_us)
    test = _frame(faulty, end_us)
    judged = set(faulty.machine_ids)
    if plant.newcomers:
        known = set(faulty.machine_ids[: plant.machines // 2])
        judged -= known
        before, test = _of(before, known), _of(test, judged)
    events = tuple(
        Event(f.machine_id, f.kind, max(f.start_us, split_us), f.end_us, f.channels, f.category)
        for f in faulty.truth().faults
        if f.end_us > split_us and f.machine_id in judged
    )
    labels = np.zeros(len(test.times_us), np.bool_)
    for event in events:
        if event.category == "machine":
            of_machine = test.machine_ids == event.machine_id
            labels |= (
                of_machine & (test.times_us >= event.start_us) & (test.times_us < event.end_us)
            )
    kinds = _machine_types(plant, seed)
    return Case(
        name=f"{plant.name}/{seed}",
        group=f"simulator-{plant.name}",
        role="learn" if seed < SEEDS_TO_LEARN else "confirm",
        spec=plant.spec,
        train=before,
        test=test,
        labels=labels,
        events=events,
        slices=np.array([kinds.get(m, "") for m in test.machine_ids.tolist()]),
    )


def _simulator(plant: Plant, seed: int, faults: FaultRates) -> Simulator:
    return Simulator(
        plant.spec,
        start_us=_START_US,
        machines=plant.machines,
        interval_s=plant.interval_s,
        seed=seed,
        faults=faults,
    )


def _frame(simulator: Simulator, until_us: int) -> Frame:
    readings = simulator.readings(until_us)
    ids = np.array(simulator.machine_ids)[readings.machines]
    return Frame(ids, readings.times_us, readings.values)


def _of(frame: Frame, machine_ids: set[str]) -> Frame:
    """The rows of some machines."""
    rows = np.isin(frame.machine_ids, sorted(machine_ids))
    return Frame(frame.machine_ids[rows], frame.times_us[rows], frame.values[rows])


def _machine_types(plant: Plant, seed: int) -> dict[str, str]:
    """Which type each machine is of, where the specification has types."""
    if not plant.spec.categorical:
        return {}
    name = plant.spec.categorical[0].name
    first = _simulator(plant, seed, FaultRates.none()).advance(
        _START_US + int(2 * plant.interval_s * US_PER_S)
    )
    events = [json.loads(value) for _, value in first]
    return {event["machine_id"]: event[name] for event in events}
