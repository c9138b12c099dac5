"""Did anything get lost, doubled or changed? What workers left in Kafka against what they must.

What they must is one `Pipeline.step` over each whole partition of the input, without any
worker. Partitions are judged one after the other, so that memory holds one of them.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple, get_args

import msgspec
import numpy as np

from load.records import iterate_topic
from load.worker_process import load
from worker.assets import asset_dir
from worker.core.changelog import StateReader
from worker.core.events import Chunk
from worker.core.messages import Origin
from worker.core.outgoing import Outputs, Record, Stream
from worker.core.pipeline import Pipeline
from worker.core.state import PartitionState
from worker.metrics import Metrics
from worker.models.bundle import Bundle, load_bundle
from worker.models.manifest import BASELINES_NAME, MANIFEST_NAME, MODEL_NAME, REFERENCE_NAME
from worker.pipelines import create_pipeline, state_limits
from worker.tracing import Untraced
from worker.transport.driver import Transport
from worker.transport.processor import Destinations
from worker.transport.restore import Follower

STREAMS = {stream: f"topics.{stream.replace('-', '_')}" for stream in get_args(Stream)}
"""The pipeline's streams, and the settings that name their topics."""
EVERY_EVENT, MANY_EVENTS = 0.999, 0.9
"""Thresholds, and how many simulated events are anomalies by them."""
MAX_EXAMPLES = 5


class Published(NamedTuple):
    """One output: what it calls itself or its origin, and a digest of its key and value."""

    stream: str
    name: str
    digest: bytes


@dataclass
class Verdict:
    """What one application's workers left, against what they must have.

    Attributes:
        records: input records.
        outputs: outputs that they must have given.
        lost, duplicated: outputs too few and too many; a changed one is both.
        state_identical: whether the restored state is the expected one, bit for bit.
        examples: some of what is wrong, for a person.
    """

    records: int = 0
    outputs: int = 0
    lost: int = 0
    duplicated: int = 0
    state_identical: bool = True
    examples: list[str] = field(default_factory=list)

    @property
    def flawless(self) -> bool:
        """Whether nothing differs."""
        return not self.lost and not self.duplicated and self.state_identical


class _About(msgspec.Struct):
    """The part of an output that names it: its id, or the input record that it is about."""

    id: str = ""
    status: str = ""
    origin: Origin | None = None


_about = msgspec.json.Decoder(_About).decode


def revealing_bundle(folder: Path, threshold: float) -> Path:
    """Write a copy of the default bundle with which many events are anomalies.

    Each tells what was expected of it, which follows from all that its machine said before: so
    a record that is lost or applied twice shows in the outputs after it, not only in the state.

    Args:
        threshold: ``EVERY_EVENT``, or ``MANY_EVENTS`` where an explanation of each would cost more
            than all else.

    Returns:
        The bundle's folder.
    """
    source = load_bundle("machine-health", asset_dir("models")).path
    manifest = (source / MANIFEST_NAME).read_text(encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (MODEL_NAME, BASELINES_NAME, REFERENCE_NAME):
        (folder / name).write_bytes((source / name).read_bytes())
    text, replaced = re.subn(r"(?m)^budget = ", f"threshold = {threshold}\nbudget = ", manifest)
    assert replaced == 1
    (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")
    return folder


def judge(
    bundle: Bundle, source: str, applications: Sequence[Mapping[str, str]], partitions: int
) -> list[Verdict]:
    """Compare the outputs and state of applications that have scored the same topic.

    Args:
        source: their input topic.
        applications: settings of each, as its workers had them.
        partitions: of the input topic and of each output topic.
    """
    pipeline = create_pipeline(load(applications[0]), bundle)
    limits = state_limits(load(applications[0]), bundle)
    verdicts = [Verdict() for _ in applications]
    brokers = applications[0]["kafka.brokers"]
    for partition in range(partitions):
        state = PartitionState(bundle.spec, limits=limits)
        records, expected = expect(pipeline, state, brokers, source, partition)
        for verdict, settings in zip(verdicts, applications, strict=True):
            verdict.records += records
            verdict.outputs += expected.total()
            _compare(verdict, expected, Counter(published(settings, partition)), partition)
            rows = restored(settings, bundle, [partition])[partition].snapshot()
            if rows != state.snapshot():
                verdict.state_identical = False
                verdict.examples.append(f"partition {partition}: the state differs")
    return verdicts


def expect(
    pipeline: Pipeline, state: PartitionState, brokers: str, source: str, partition: int
) -> tuple[int, Counter[Published]]:
    """Apply a whole partition in one step to ``state``.

    Returns:
        Number of records, and the outputs that they give.
    """
    records = list(iterate_topic(brokers, source, [partition]))
    chunk = Chunk(
        source,
        partition,
        np.array([record.offset for record in records], np.int64),
        np.array([record.timestamp_ms for record in records], np.int64),
        [record.key for record in records],
        [record.value for record in records],
    )
    outputs = pipeline.step(state, chunk)
    return len(records), Counter(
        _published(record.stream, record.key, record.value) for record in outputs.records
    )


def published(settings: Mapping[str, str], partition: int) -> Iterator[Published]:
    """What an application's committed output holds of one partition."""
    for stream, key in STREAMS.items():
        for record in iterate_topic(settings["kafka.brokers"], settings[key], [partition]):
            yield _published(stream, record.key, record.value or b"")


def restored(
    settings: Mapping[str, str], bundle: Bundle, partitions: Sequence[int]
) -> dict[int, PartitionState]:
    """State from the changelog, as a starting worker restores it."""
    app = SimpleNamespace(conf=SimpleNamespace(broker=None))
    loaded = load(settings)
    destinations = Destinations("", loaded.changelog_topic, {})
    transport = Transport(app, loaded, OnlyRestores(), destinations, Metrics(), Untraced())
    limits = state_limits(loaded, bundle)
    readers = {
        partition: StateReader(bundle.spec, limits, f"partition {partition}")
        for partition in partitions
    }
    transport.restore({p: Follower(reader) for p, reader in readers.items()}, lambda _: True)
    return {partition: reader.finish(0) for partition, reader in readers.items()}


def _compare(
    verdict: Verdict, expected: Counter[Published], found: Counter[Published], partition: int
) -> None:
    for name, difference in (("lost", expected - found), ("too many", found - expected)):
        for output, count in sorted(difference.items())[:MAX_EXAMPLES]:
            where = f"{output.stream} of partition {partition}, {output.name}"
            verdict.examples.append(f"{where}: {count} {name}")
    verdict.lost += (expected - found).total()
    verdict.duplicated += (found - expected).total()


def _published(stream: str, key: bytes | None, value: bytes) -> Published:
    about = _about(value)
    origin = about.origin
    name = f"offset {origin.offset}" if origin else f"{about.id} {about.status}".rstrip()
    digest = hashlib.blake2b(repr(key).encode() + value, digest_size=16).digest()
    return Published(stream, name, digest)


class OnlyRestores:
    """For a transport that only restores."""

    def step(self, state: PartitionState, chunk: Chunk) -> Outputs:
        """Not to be called."""
        raise AssertionError("only restoring is wanted here")

    def summarize(self, partition: int, next_offset: int) -> list[Record]:
        """Not to be called."""
        raise AssertionError("only restoring is wanted here")
