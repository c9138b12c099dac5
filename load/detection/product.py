"""DriftDetector as a detector, through the functions that ``train`` and ``backtest`` call."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from load.detection.cases import Frame
from load.detection.detectors import Condition, Detections, Episode
from worker.core.channels import ChannelSpec
from worker.core.errors import ConfigError
from worker.models.bundle import Bundle, load_bundle
from worker.replay.backtest import backtest
from worker.training.readings import Recording, machine_readings, recording_of
from worker.training.train import train

DATE = "2026-01-01"


class DriftDetector:
    """See :class:`load.detection.detectors.Detector`.

    Readings that training refuses, because nothing in them ever moves, are not judged.
    """

    def fit(self, spec: ChannelSpec, train: Frame, seed: int) -> None:
        """Train a bundle in a temporary folder, and load it."""
        self._bundle: Bundle | None = None
        with contextlib.suppress(ConfigError):
            self._bundle = train_bundle(spec, train, seed)

    def detect(self, test: Frame, budget: float) -> Detections:
        """Backtest from fresh state."""
        if self._bundle is None:
            unknown = np.full(len(test.times_us), np.nan)
            return Detections(unknown, unknown, unknown > 0.0, [()] * len(unknown), [])
        bundle = dataclasses.replace(self._bundle, budget=budget)
        found = backtest(bundle, _recording(bundle.spec, test))
        scores = found.scores
        return Detections(
            scores["anomaly_score"].fill_null(np.nan).to_numpy(),
            scores["threshold"].fill_null(np.nan).to_numpy(),
            scores["is_anomaly"].fill_null(value=False).to_numpy(),
            [tuple(names or ()) for names in scores["top_channels"].to_list()],
            [
                Episode(machine_id, opened_us, closed_us, tuple(channels))
                for machine_id, opened_us, closed_us, channels in found.episodes.select(
                    "machine_id",
                    pl.col("opened_at").dt.epoch("us"),
                    pl.col("closed_at").fill_null(scores["timestamp"].max()).dt.epoch("us"),
                    "top_channels",
                ).iter_rows()
            ],
            [
                Condition(*row)
                for row in found.health.select(
                    "machine_id", "kind", "channel", pl.col("opened_at").dt.epoch("us")
                ).iter_rows()
            ],
        )


def train_bundle(spec: ChannelSpec, frame: Frame, seed: int) -> Bundle:
    """A bundle trained on readings, as ``driftdetector train`` makes it."""
    readings = machine_readings(_recording(spec, frame), spec)
    with tempfile.TemporaryDirectory() as folder:
        result = train(spec, readings, Path(folder), training_date=DATE, seed=seed)
        return load_bundle(str(result.path), Path(folder))


def _recording(spec: ChannelSpec, frame: Frame) -> Recording:
    columns = {c.name: frame.values[:, i] for i, c in enumerate(spec.continuous)}
    table = pl.DataFrame(
        {
            "machine_id": pl.Series(frame.machine_ids.tolist(), dtype=pl.String),
            "timestamp": frame.times_us,
            **columns,
        }
    )
    return recording_of(table, spec, "benchmark")
