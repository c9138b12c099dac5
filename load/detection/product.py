"""DriftDetector as a detector: what training learns, and what detection then says."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from load.detection.cases import Frame, runs
from load.detection.detectors import CLOSING_ROWS, Detections, Episode, bridged, rank_channels
from worker.core.channels import ChannelSpec
from worker.core.detection.detector import Detector, Scores
from worker.core.explanation import channel_contributions
from worker.core.features import mask_impossible
from worker.core.state import PartitionState
from worker.core.table import MachineTable
from worker.training.fit import fit
from worker.training.readings import MachineReadings, machine_readings, recording_of


class DriftDetector:
    """See :class:`load.detection.detectors.Detector`."""

    def fit(self, spec: ChannelSpec, train: Frame, seed: int) -> None:
        """Learn baselines and the forest."""
        self._spec = spec
        self._fitted = fit(spec, _readings(spec, train), seed=seed)

    def detect(self, test: Frame, budget: float) -> Detections:
        """See :class:`load.detection.detectors.Detector`."""
        scores = self.scores(test, budget)
        abnormal = scores.anomaly_score < scores.threshold
        names = [channel.name for channel in self._spec.continuous]
        shares = channel_contributions(self._spec, scores.contributions)
        tops: list[tuple[str, ...]] = [()] * len(abnormal)
        for row, top in rank_channels(shares, names, np.flatnonzero(abnormal)).items():
            tops[row] = top
        episodes = []
        for machine, rows in test.by_machine().items():
            for first, last in runs(bridged(abnormal[rows], CLOSING_ROWS)):
                own = rows[first : last + 1]
                span = int(test.times_us[own[0]]), int(test.times_us[own[-1]])
                order = np.argsort(-shares[own[abnormal[own]]].mean(axis=0), kind="stable")
                episodes.append(Episode(machine, *span, tuple(names[c] for c in order)))
        episodes.sort(key=lambda episode: (episode.opened_us, episode.machine_id))
        return Detections(scores.anomaly_score, scores.threshold, abnormal, tops, episodes)

    def scores(self, test: Frame, budget: float) -> Scores:
        """Scores of readings in order, by machines whose state is fresh."""
        fitted = self._fitted

        def model(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.asarray(fitted.forest.score_samples(inputs), np.float32)

        detector = Detector(
            self._spec, fitted.baselines, fitted.codes, model, fitted.expected, budget=budget
        )
        values = mask_impossible(self._spec, test.values)
        signals = detector.signals(values, [])
        state = PartitionState(self._spec)
        places = state.indices([name.encode() for name in test.machine_ids.tolist()])
        aggregates, _ = state.add(places, test.times_us, values)
        names, machines = np.unique(test.machine_ids, return_inverse=True)
        lengths = {"channel": test.values.shape[1], "signal": signals.shape[1]}
        table = MachineTable(detector.fields, lengths, len(names))
        rows = np.arange(len(names))
        table.reset(rows)
        detector.begin(table, rows, names.tolist())
        never = np.zeros(len(signals), np.bool_)
        return detector.score(table, machines, test.times_us, signals, aggregates, never, never)


def _readings(spec: ChannelSpec, frame: Frame) -> MachineReadings:
    columns = {c.name: frame.values[:, i] for i, c in enumerate(spec.continuous)}
    table = pl.DataFrame(
        {
            "machine_id": pl.Series(frame.machine_ids.tolist(), dtype=pl.String),
            "timestamp": frame.times_us,
            **columns,
        }
    )
    return machine_readings(recording_of(table, spec, "benchmark"), spec)
