"""What tests need of Kafka, under the name that they know; it lives in load/records.py."""

from __future__ import annotations

from load.records import (
    QUIET,
    KafkaRecord,
    NewRecord,
    committed_offsets,
    create_topics,
    produce,
    read_topic,
    unique,
    wait_until,
)

__all__ = [
    "QUIET",
    "KafkaRecord",
    "NewRecord",
    "committed_offsets",
    "create_topics",
    "produce",
    "read_topic",
    "unique",
    "wait_until",
]
