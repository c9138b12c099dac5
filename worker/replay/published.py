"""What a partition would have published, kept as a recording of each stream's topic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from worker.core.outgoing import Record
from worker.recording.parquet import FIELDS
from worker.recording.writing import PartitionWriter
from worker.settings import TopicSettings

FILE_BYTES = 128 * 2**20


class Published:
    """Writes the messages of one partition.

    Args:
        root: folder of the recording.
        names: of the topics.
    """

    def __init__(self, root: Path, names: TopicSettings, partition: int) -> None:
        self._root, self._partition = root, partition
        self._topics: dict[str, str] = {
            "anomalies": names.anomalies,
            "anomaly-episodes": names.anomaly_episodes,
            "sensor-health": names.sensor_health,
            "late-events": names.late_events,
            "dead-letters": names.dead_letters,
            "drift-events": names.drift_events,
            "retraining-requests": names.retraining_requests,
        }
        self._writers: dict[str, PartitionWriter] = {}
        self._ends: Counter[str] = Counter()

    def take(self, records: Sequence[Record], time_ms: int) -> None:
        """Keep messages that were caused by records up to a Kafka timestamp."""
        by_stream: dict[str, list[Record]] = {}
        for record in records:
            by_stream.setdefault(record.stream, []).append(record)
        for stream, own in by_stream.items():
            begin = self._ends[stream]
            end = self._ends[stream] = begin + len(own)
            columns = dict(
                zip(
                    FIELDS,
                    (
                        list(range(begin, end)),
                        [time_ms] * len(own),
                        ["create"] * len(own),
                        [record.key for record in own],
                        [record.value for record in own],
                        [None] * len(own),
                    ),
                    strict=True,
                )
            )
            self._writer(stream).write(columns, end)

    def finish(self) -> None:
        """Let the files appear."""
        for writer in self._writers.values():
            writer.finish()

    def _writer(self, stream: str) -> PartitionWriter:
        writer = self._writers.get(stream)
        if writer is None:
            topic = self._topics[stream]
            writer = PartitionWriter(self._root, topic, self._partition, 0, FILE_BYTES)
            self._writers[stream] = writer
        return writer
