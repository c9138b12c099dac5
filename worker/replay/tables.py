"""The answers of the pipeline as tables: scores, episodes and the health of sensors.

Owns the columns of what a backtest writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from worker.core.channels import ChannelSpec
from worker.core.explanation import channel_contributions
from worker.core.outgoing import Outputs

MAX_CHANNELS = 5
"""How many channels are listed, at most."""

MOMENT = pl.Datetime("us", "UTC")

SCORES: dict[str, Any] = {
    "machine_id": pl.String,
    "timestamp": MOMENT,
    "anomaly_score": pl.Float64,
    "threshold": pl.Float64,
    "is_anomaly": pl.Boolean,
    "top_channels": pl.List(pl.String),
}
EPISODES: dict[str, Any] = {
    "episode_id": pl.String,
    "machine_id": pl.String,
    "opened_at": MOMENT,
    "closed_at": MOMENT,
    "severity": pl.String,
    "top_channels": pl.List(pl.String),
}
HEALTH: dict[str, Any] = {
    "condition_id": pl.String,
    "machine_id": pl.String,
    "kind": pl.String,
    "channel": pl.String,
    "opened_at": MOMENT,
    "closed_at": MOMENT,
}


class Told:
    """The episodes and conditions that the pipeline told of, each as it was told last."""

    def __init__(self) -> None:
        self._latest: dict[str, dict[str, dict[str, Any]]] = {
            "anomaly-episodes": {},
            "sensor-health": {},
        }

    def take(self, outputs: Outputs) -> None:
        """Keep what was told."""
        for record in outputs.records:
            latest = self._latest.get(record.stream)
            if latest is not None:
                message = msgspec.json.decode(record.value)
                latest[message["id"]] = message

    def join(self, other: Told) -> None:
        """Add what was told of other machines."""
        for stream, latest in other._latest.items():
            self._latest[stream] |= latest

    def open(self, stream: str) -> list[dict[str, Any]]:
        """The messages of a stream's episodes or conditions that are open."""
        return [one for one in self._latest[stream].values() if one["status"] != "closed"]

    def episodes(self) -> pl.DataFrame:
        """A row for each episode, in the order of opening; see ``EPISODES``."""
        told = self._latest["anomaly-episodes"].values()
        return table_of(
            EPISODES,
            [
                {
                    **one,
                    "episode_id": one["id"],
                    "top_channels": [c["channel"] for c in one["causes"]],
                }
                for one in told
            ],
        )

    def health(self) -> pl.DataFrame:
        """A row for each condition, in the order of opening; see ``HEALTH``."""
        told = self._latest["sensor-health"].values()
        return table_of(HEALTH, [{**one, "condition_id": one["id"]} for one in told])


class Answers:
    """Gathers what the pipeline says of n readings.

    Args:
        spec: of the bundle.
        count: n.
        told: what was told of readings before these.
    """

    def __init__(self, spec: ChannelSpec, count: int, told: Told | None = None) -> None:
        self._spec = spec
        self._names = np.array([*(c.name for c in spec.continuous), *(c.name for c in spec.events)])
        self._score = np.full(count, np.nan)
        self._threshold = np.full(count, np.nan)
        self._top = np.full((count, min(MAX_CHANNELS, len(self._names))), -1, np.int32)
        self._told = Told() if told is None else told

    @property
    def scored(self) -> int:
        """How many readings were scored."""
        return int((~np.isnan(self._score)).sum())

    @property
    def anomalies(self) -> int:
        """How many readings are anomalies."""
        return int(self.anomalous.sum())

    @property
    def anomalous(self) -> NDArray[np.bool_]:
        """Which readings (n,) are anomalies."""
        found: NDArray[np.bool_] = self._score < self._threshold
        return found

    def take(self, at: NDArray[np.int64], outputs: Outputs) -> None:
        """Keep what was said of the readings at positions (k,)."""
        for part in outputs.scored_events:
            rows = at[part.readings.rows]
            self._score[rows] = part.scores.anomaly_score
            self._threshold[rows] = part.scores.threshold
            self._top[rows] = self._ranked(part.scores.contributions)
        self._told.take(outputs)

    def scores(self, recorded: pl.DataFrame, rows: NDArray[np.int64]) -> pl.DataFrame:
        """A row for each row of the recording; see ``SCORES``.

        Args:
            recorded: N rows with ``machine_id`` and ``timestamp``.
            rows: (n,) where each reading stood among them.
        """
        answers = self.table().with_columns(row=pl.Series(rows.astype(np.uint32)))
        return (
            recorded.select("machine_id", "timestamp")
            .with_row_index("row")
            .join(answers, on="row", how="left", maintain_order="left")
            .with_columns(
                pl.col("is_anomaly").fill_null(False), pl.col("top_channels").fill_null([])
            )
            .drop("row")
        )

    def table(self) -> pl.DataFrame:
        """A row for each reading: those columns of ``SCORES`` that are answers."""
        return pl.DataFrame(
            {
                "anomaly_score": pl.Series(self._score).fill_nan(None),
                "threshold": pl.Series(self._threshold).fill_nan(None),
                # The comparison that defines an anomaly; false where there is no score.
                "is_anomaly": self._score < self._threshold,
                "top_channels": self._top_channels(),
            }
        )

    def episodes(self) -> pl.DataFrame:
        """A row for each episode; see :meth:`Told.episodes`."""
        return self._told.episodes()

    def health(self) -> pl.DataFrame:
        """A row for each condition; see :meth:`Told.health`."""
        return self._told.health()

    def _ranked(self, contributions: NDArray[np.float32]) -> NDArray[np.int32]:
        """The channels (k, 5) that contributed most, -1 where fewer did."""
        shares = channel_contributions(self._spec, contributions)
        order = np.argsort(-shares, axis=1, kind="stable")[:, : self._top.shape[1]]
        some = np.take_along_axis(shares, order, axis=1) > 0.0
        return np.where(some, order, -1).astype(np.int32)

    def _top_channels(self) -> pl.Series:
        names = pl.Series([*self._names.tolist(), None], dtype=pl.String)
        flat = names.gather(self._top.ravel() % len(names))
        return flat.reshape(self._top.shape).arr.to_list().list.drop_nulls()


def table_of(
    schema: dict[str, Any], rows: Sequence[dict[str, Any]], named: str = "machine_id"
) -> pl.DataFrame:
    """Messages as a table with the columns of ``schema``, in the order of opening.

    Moments are text in messages; what was opened at once is ordered by the ``named`` column.
    """
    text = {name: pl.String if kind == MOMENT else kind for name, kind in schema.items()}
    moments = [name for name, kind in schema.items() if kind == MOMENT]
    frame = pl.DataFrame([{name: row[name] for name in schema} for row in rows], schema=text)
    return frame.with_columns(
        pl.col(moments).str.to_datetime(time_unit="us", time_zone="UTC")
    ).sort("opened_at", named, maintain_order=True)
