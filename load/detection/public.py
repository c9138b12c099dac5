"""Public data: AI4I 2020, SKAB valve1 and NAB; none of it is part of this repository.

They are read from the folders ``ai4i2020``, ``skab`` and ``nab`` below the folder that the
environment variable DRIFTDETECTOR_DATA names.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from load.detection.cases import Case, Event, Frame, make_spec, median_interval_us, runs
from worker.core.channels import US_PER_S
from worker.core.errors import ConfigError

VARIABLE = "DRIFTDETECTOR_DATA"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_START_US = 1_767_225_600 * US_PER_S

AI4I_COLUMNS = {
    "air_temperature": "Air temperature [K]",
    "process_temperature": "Process temperature [K]",
    "rotational_speed": "Rotational speed [rpm]",
    "torque": "Torque [Nm]",
    "tool_wear": "Tool wear [min]",
}
AI4I_DERIVED = (
    {
        "name": "power_w",
        "unit": "W",
        "product": ["torque", "rotational_speed"],
        "factor": 0.10471975512,
    },
    {"name": "strain", "unit": "N*m*min", "product": ["torque", "tool_wear"]},
    {"name": "cooling", "unit": "K", "difference": ["process_temperature", "air_temperature"]},
)
AI4I_FAULTS = {
    "TWF": ("tool_wear",),
    "HDF": ("air_temperature", "process_temperature", "rotational_speed"),
    "PWF": ("torque", "rotational_speed"),
    "OSF": ("torque", "tool_wear"),
}
"""Channels that the data set's description names for each kind of failure."""

SKAB_TRAINING_ROWS = 400
NAB_PROBATION = 0.15
NAB_LONGEST_PROBATION = 750


class NabTruth(NamedTuple):
    """What NAB's scorer needs besides detections.

    Attributes:
        rows: length of the whole series.
        probation: rows at its beginning that are not scored.
        windows: first and last row of each labelled window.
    """

    rows: int
    probation: int
    windows: tuple[tuple[int, int], ...]


def data_folder() -> Path | None:
    """Where the public data are, or None where the environment does not say."""
    folder = os.environ.get(VARIABLE)
    return Path(folder) if folder else None


def required_folder(name: str) -> Path:
    """The folder of one data set.

    Raises:
        ConfigError: the environment does not say where it is, or it is not there.
    """
    folder = data_folder()
    if folder is None:
        raise ConfigError(
            f"{VARIABLE} is not set; let it name the folder that holds {name}, or choose other "
            "--sets."
        )
    if not (folder / name).is_dir():
        raise ConfigError(
            f"{VARIABLE}: {folder / name} is not a folder; put the data there, or choose other "
            "--sets."
        )
    return folder / name


def ai4i_cases() -> Iterator[Case]:
    """10,000 rows in order, taken as one machine that sends a reading a minute.

    Once the first half is learned and the second judged, once all of it is both.
    """
    with (required_folder("ai4i2020") / "ai4i2020.csv").open(encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    values = np.array([[float(row[c]) for c in AI4I_COLUMNS.values()] for row in rows])
    times_us = _START_US + 60 * US_PER_S * np.arange(len(rows), dtype=np.int64)
    whole = Frame(np.full(len(rows), "mill"), times_us, values)
    labels = np.array([row["Machine failure"] == "1" for row in rows])
    types = np.array([row["Type"] for row in rows])
    spec = make_spec("ai4i", list(AI4I_COLUMNS), 60 * US_PER_S, AI4I_DERIVED)
    half = len(rows) // 2
    for name, train, test in (
        ("ai4i-half", slice(0, half), slice(half, None)),
        ("ai4i-whole", slice(None), slice(None)),
    ):
        picked = np.arange(len(rows))[test]
        yield Case(
            name=name,
            group=name,
            role="learn" if name == "ai4i-half" else "confirm",
            spec=spec,
            train=whole.where(train),
            test=whole.where(test),
            labels=labels[test],
            events=tuple(
                event for k in picked for event in _ai4i_events(rows[k], int(times_us[k]))
            ),
            slices=types[test],
            unit="row",
        )


def _ai4i_events(row: dict[str, str], time_us: int) -> Iterator[Event]:
    for kind, channels in AI4I_FAULTS.items():
        if row[kind] == "1":
            yield Event("mill", kind, time_us, time_us, channels)


def skab_cases() -> Iterator[Case]:
    """Sixteen experiments at a pump; of each the first 400 rows are learned, the rest judged."""
    folder = required_folder("skab") / "valve1"
    for file in sorted(folder.glob("*.csv"), key=lambda path: int(path.stem)):
        with file.open(encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream, delimiter=";"))
        columns = [c for c in rows[0] if c not in ("datetime", "anomaly", "changepoint")]
        values = np.array([[float(row[c]) for c in columns] for row in rows])
        times_us = _times_us([row["datetime"] for row in rows])
        labels = np.array([float(row["anomaly"]) > 0 for row in rows])
        frame = Frame(np.full(len(rows), "pump"), times_us, values)
        train = frame.where(slice(0, SKAB_TRAINING_ROWS))
        test = frame.where(slice(SKAB_TRAINING_ROWS, None))
        judged = labels[SKAB_TRAINING_ROWS:]
        yield Case(
            name=f"valve1/{file.stem}",
            group="skab",
            role="confirm" if int(file.stem) % 2 else "learn",
            spec=make_spec("skab", [_name(c) for c in columns], median_interval_us(train)),
            train=train,
            test=test,
            labels=judged,
            events=tuple(
                Event("pump", "valve", int(test.times_us[first]), int(test.times_us[last]))
                for first, last in runs(judged)
            ),
            slices=np.full(len(judged), ""),
        )


def nab_cases() -> Iterator[Case]:
    """58 series; the first 15 % (at most 750 rows) of each are learned, the rest judged."""
    folder = required_folder("nab")
    labelled = json.loads((folder / "labels" / "combined_windows.json").read_text())
    for number, name in enumerate(sorted(labelled)):
        with (folder / "data" / name).open(encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        times_us = _times_us([row["timestamp"] for row in rows])
        values = np.array([[float(row["value"])] for row in rows])
        windows = tuple(
            (
                int(np.searchsorted(times_us, _time_us(first))),
                int(np.searchsorted(times_us, _time_us(last), side="right")) - 1,
            )
            for first, last in labelled[name]
        )
        probation = int(min(NAB_PROBATION * len(rows), NAB_LONGEST_PROBATION))
        labels = np.zeros(len(rows), np.bool_)
        for first_row, last_row in windows:
            labels[first_row : last_row + 1] = True
        frame = Frame(np.full(len(rows), "series"), times_us, values)
        train = frame.where(slice(0, probation))
        yield Case(
            name=name.removesuffix(".csv"),
            group="nab",
            role="confirm" if number % 2 else "learn",
            spec=make_spec("nab", ["value"], median_interval_us(train)),
            train=train,
            test=frame.where(slice(probation, None)),
            labels=labels[probation:],
            events=tuple(
                Event("series", "window", int(times_us[first_row]), int(times_us[last_row]))
                for first_row, last_row in windows
            ),
            slices=np.full(len(rows) - probation, name.split("/", maxsplit=1)[0]),
            extra=NabTruth(len(rows), probation, windows),
        )


def _times_us(texts: list[str]) -> NDArray[np.int64]:
    return np.array([_time_us(text) for text in texts], np.int64)


def _time_us(text: str) -> int:
    moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _name(column: str) -> str:
    return column.lower().replace(" ", "_")
