"""Synthetic fleets: twenty machines over 120 days, hourly, with thirty known faults.

Four channels follow a common load and noise of their own, both with the same autocorrelation. All
machines have their own levels and scales. The first 40 days are learned. In the other 80, thirty
faults move one or two channels by 1 to 2 standard deviations for 2 to 7 days.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from load.detection.cases import Case, Event, Floats, Frame, make_spec
from worker.core.channels import US_PER_S

MACHINES = 20
CHANNELS = 4
TRAINING_DAYS = 40
TEST_DAYS = 80
ROWS_A_DAY = 24
FAULTS = 30
FAULT_SIZE_SD = (1.0, 2.0)
FAULT_DAYS = (2.0, 7.0)
SEEDS_TO_LEARN = 5
"""Design choices were made on seeds below this one."""

_START_US = 1_767_225_600 * US_PER_S
_HOUR_US = 3600 * US_PER_S


@dataclass(frozen=True)
class Fleet:
    """What machines of one fleet do.

    Attributes:
        phi: autocorrelation of neighbouring hours.
        trend_sd: how far levels wander in a straight line over all 120 days, at most.
        season_sd: amplitude of a daily cycle.
        regimes: modes of operation, each with levels of its own, for some days each; all of
            them occur in training.
        contaminated: share of machines that have a fault in training too.
    """

    name: str
    phi: float = 0.0
    trend_sd: float = 0.0
    season_sd: float = 0.0
    regimes: int = 1
    contaminated: float = 0.0


FLEETS = (
    Fleet("iid"),
    Fleet("ar-0.5", phi=0.5),
    Fleet("ar-0.8", phi=0.8),
    Fleet("ar-0.95", phi=0.95),
    Fleet("trend", phi=0.5, trend_sd=1.0),
    Fleet("season", phi=0.5, season_sd=1.0),
    Fleet("regimes", phi=0.5, regimes=3),
    Fleet("contaminated", phi=0.5, contaminated=0.3),
)


def fleet_cases(fleet: Fleet, seeds: range, machines: int = MACHINES) -> Iterator[Case]:
    """One case a seed."""
    for seed in seeds:
        yield fleet_case(fleet, seed, machines)


def fleet_case(fleet: Fleet, seed: int, machines: int = MACHINES) -> Case:
    """A fleet; name and seed decide everything."""
    rng = np.random.default_rng([seed, zlib.crc32(fleet.name.encode())])
    rows = (TRAINING_DAYS + TEST_DAYS) * ROWS_A_DAY
    sd_values = _healthy(fleet, rows, machines, rng)
    names = tuple(f"channel_{c}" for c in range(CHANNELS))
    faults = list(_faults(round(FAULTS * machines / MACHINES), machines, rng))
    labels = np.zeros((rows, machines), np.bool_)
    events = []
    for machine, first, last, shift_sd in faults:
        sd_values[first : last + 1, machine] += shift_sd
        labels[first : last + 1, machine] = True
        hit = tuple(name for name, size in zip(names, shift_sd, strict=True) if size)
        times = (_START_US + _HOUR_US * first, _START_US + _HOUR_US * last)
        events.append(Event(_machine_id(machine), "shift", *times, hit))
    for machine in range(round(fleet.contaminated * machines)):
        first = int(rng.integers(0, (TRAINING_DAYS - 4) * ROWS_A_DAY))
        sd_values[first : first + 4 * ROWS_A_DAY, machine] += _shift(rng)
    level = rng.normal(50.0, 10.0, (machines, CHANNELS))
    scale = np.exp(rng.normal(0.0, 0.3, (machines, CHANNELS)))
    values = level + scale * sd_values

    split = TRAINING_DAYS * ROWS_A_DAY
    times_us = _START_US + _HOUR_US * np.arange(rows, dtype=np.int64)
    ids = np.array([_machine_id(m) for m in range(machines)])
    whole = Frame(np.tile(ids, rows), np.repeat(times_us, machines), values.reshape(-1, CHANNELS))
    return Case(
        name=f"{fleet.name}/{seed}",
        group=f"fleet-{fleet.name}",
        role="learn" if seed < SEEDS_TO_LEARN else "confirm",
        spec=make_spec("fleet", names, _HOUR_US),
        train=whole.where(slice(0, split * machines)),
        test=whole.where(slice(split * machines, None)),
        labels=labels[split:].reshape(-1),
        events=tuple(events),
        slices=np.full((rows - split) * machines, ""),
    )


def _healthy(fleet: Fleet, rows: int, machines: int, rng: np.random.Generator) -> Floats:
    """Readings in standard deviations, (rows, machines, C)."""
    noise = _autoregression(fleet.phi, (rows, machines, CHANNELS + 1), rng)
    weight = rng.uniform(0.6, 0.9, CHANNELS) * rng.choice([-1.0, 1.0], CHANNELS)
    values: Floats = weight * noise[:, :, :1] + np.sqrt(1.0 - weight**2) * noise[:, :, 1:]
    progress = np.linspace(0.0, 1.0, rows)[:, None, None]
    values += progress * rng.uniform(-1.0, 1.0, (machines, CHANNELS)) * fleet.trend_sd
    phase = rng.normal(0.0, 0.3, (machines, 1)) + rng.normal(0.0, 0.3, CHANNELS)
    hours = np.arange(rows)[:, None, None] * (2.0 * np.pi / ROWS_A_DAY)
    values += fleet.season_sd * np.sin(hours + phase)
    levels = rng.normal(0.0, 1.5, (fleet.regimes, CHANNELS)) * (fleet.regimes > 1)
    for machine in range(machines):
        values[:, machine] += levels[_regime(fleet.regimes, rows, rng)]
    return values


def _autoregression(phi: float, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """AR(1) of unit variance along the first axis."""
    path = rng.standard_normal(shape)
    for k in range(1, len(path)):
        path[k] = phi * path[k - 1] + np.sqrt(1.0 - phi**2) * path[k]
    return path


def _regime(regimes: int, rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Which mode each row is in; each lasts one to five days."""
    course = np.zeros(rows, np.int64)
    row = 0
    while row < rows:
        end = row + int(rng.integers(ROWS_A_DAY, 5 * ROWS_A_DAY))
        course[row:end] = rng.integers(regimes)
        row = end
    return course


def _faults(
    count: int, machines: int, rng: np.random.Generator
) -> Iterator[tuple[int, int, int, Floats]]:
    """Machine, first and last row, and shift (C,) of each; a machine has one at a time."""
    gap = 3 * ROWS_A_DAY
    busy: list[tuple[int, int, int]] = []
    while len(busy) < count:
        machine = int(rng.integers(machines))
        length = round(ROWS_A_DAY * rng.uniform(*FAULT_DAYS))
        begin = (TRAINING_DAYS + 2) * ROWS_A_DAY
        first = int(rng.integers(begin, (TRAINING_DAYS + TEST_DAYS) * ROWS_A_DAY - length))
        last = first + length - 1
        if all(m != machine or last + gap < a or first - gap > b for m, a, b in busy):
            busy.append((machine, first, last))
            yield machine, first, last, _shift(rng)


def _shift(rng: np.random.Generator) -> Floats:
    shift: Floats = rng.uniform(*FAULT_SIZE_SD, CHANNELS) * rng.choice([-1.0, 1.0], CHANNELS)
    shift[rng.permutation(CHANNELS)[int(rng.integers(1, 3)) :]] = 0.0
    return shift


def _machine_id(machine: int) -> str:
    return f"m-{machine:02d}"
