"""The Faust transport: makes librdkafka clients, and Faust services around them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, Protocol

from confluent_kafka import Consumer as LibrdkafkaConsumer
from confluent_kafka import Producer as LibrdkafkaProducer
from confluent_kafka import libversion
from confluent_kafka.admin import AdminClient
from faust.transport import base

from worker.kafka_config import create_tuned
from worker.settings import Settings
from worker.tracing import Tracing
from worker.transport.assignment import PollerListener
from worker.transport.consumer import Consumer
from worker.transport.group import Group, Orphans
from worker.transport.observe import Ends, Observer
from worker.transport.poller import Poller
from worker.transport.processor import (
    Application,
    Destinations,
    Processor,
    ProcessorListener,
    Witness,
)
from worker.transport.producer import TRANSACTION_TIMEOUT_MS, Producer, Publisher
from worker.transport.restore import Follower, restore
from worker.transport.stall import Observation
from worker.transport.standby import Standbys

RECONNECT_WITHIN_MS = 1_000
"""Longest pause between attempts to reach a broker that is down; librdkafka's own is 10 s."""
SESSION_TIMEOUT_MS = 30_000
"""Long enough for a broker's restart. It costs nothing when a worker stops (it leaves) or
is killed and comes back (it is a static member), only when a machine is gone for good."""


class Listener(ProcessorListener, Protocol):
    """What the transport reports for metrics."""

    def on_restored(self, duration_s: float) -> None:
        """Partitions were restored from the changelog."""

    def on_deleted_unread(self, partition: int, offsets: int) -> None:
        """Retention deleted records before they were read."""


class Transport(base.Transport):  # type: ignore[misc]
    """Chunked, exactly-once transport on librdkafka.

    Args:
        settings: of the cluster, and under which names to be a member of which group.
        application: what the processor applies to each chunk.
        destinations: the topics.
        listener: hears of chunks, commits and restores.
        tracing: is told of chunks, commits and what they publish.
        witness: sees what becomes final.
    """

    Consumer: ClassVar[type[Consumer]] = Consumer
    Producer: ClassVar[type[Producer]] = Producer
    default_port = 9092
    driver_version = f"librdkafka={libversion()[0]}"

    def __init__(
        self,
        app: Any,
        settings: Settings,
        application: Application,
        destinations: Destinations,
        listener: Listener,
        tracing: Tracing,
        witness: Witness | None = None,
    ) -> None:
        super().__init__(app.conf.broker, app)
        self._settings = settings
        self._destinations = destinations
        self.listener = listener
        self.publisher = Publisher(self.make_producer, self.exactly_once)
        self._tracing = tracing
        self.processor = Processor(
            application, destinations, self.publisher, listener, tracing, witness
        )
        self._observer: Observer | None = None
        self._orphans: Orphans | None = None
        self._restoring: Collection[Follower] = ()

    @property
    def exactly_once(self) -> bool:
        """Whether outputs, state and offsets are one transaction."""
        return self._settings.worker.processing_guarantee == "exactly_once"

    def make_poller(self, topic: str, listener: PollerListener) -> Poller:
        """The polling thread, not started; from now on there is something to observe."""
        poller = Poller(self.make_consumer(), topic, listener, self._tracing.reads_headers)
        admin = self._create(AdminClient, {})
        self._observer = Observer(poller, self.processor, Ends(admin, topic))
        self._orphans = Orphans(admin, self._group, poller)
        return poller

    def look_for_orphans(self) -> None:
        """See that every partition has an owner; waits for the brokers."""
        if self._orphans is not None:
            self._orphans.look()

    def observations(self) -> Iterable[Observation]:
        """What should move; see :class:`worker.transport.observe.Observer`."""
        if self._observer is None:
            return ()
        return self._observer.look(sum(follower.position for follower in self._restoring))

    def make_consumer(self) -> LibrdkafkaConsumer:
        """The consumer that is a member of the worker's group.

        Static membership: a process that comes back under its instance id gets its
        partitions at once instead of after a session timeout.
        """
        worker = self._settings.worker
        consumer: LibrdkafkaConsumer = self._create(
            LibrdkafkaConsumer,
            {
                "group.id": worker.app_id,
                "group.instance.id": self._instance,
                "session.timeout.ms": SESSION_TIMEOUT_MS,
                "partition.assignment.strategy": "cooperative-sticky",
                # Records that are gone are told and counted before reading goes on after them.
                "auto.offset.reset": "error",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "reconnect.backoff.max.ms": RECONNECT_WITHIN_MS,
                "fetch.wait.max.ms": 50,
                "queued.min.messages": 100_000,
                "queued.max.messages.kbytes": 65_536,
                # librdkafka waits a second, by default, once its queue has been full.
                "fetch.queue.backoff.ms": 10,
            },
        )
        return consumer

    def make_producer(self) -> LibrdkafkaProducer:
        """The producer of outputs and changelog rows."""
        config: dict[str, Any] = {
            "enable.idempotence": True,
            "reconnect.backoff.max.ms": RECONNECT_WITHIN_MS,
            "linger.ms": 5,
            "compression.type": "lz4",
            "delivery.report.only.error": True,
            "queue.buffering.max.messages": 500_000,
        }
        if self.exactly_once:
            config["transactional.id"] = self._instance
            config["transaction.timeout.ms"] = TRANSACTION_TIMEOUT_MS
        producer: LibrdkafkaProducer = self._create(LibrdkafkaProducer, config)
        return producer

    def restore(self, followers: Mapping[int, Follower], wanted: Callable[[int], bool]) -> int:
        """Read on in the changelog; see :func:`worker.transport.restore.restore`."""
        reader = self._make_reader({"fetch.wait.max.ms": 10, "auto.offset.reset": "earliest"})
        admin = self._create(AdminClient, {})
        self._restoring = tuple(followers.values())
        try:
            return restore(reader, admin, self._destinations.changelog, followers, wanted)
        finally:
            self._restoring = ()  # what the readers hold is large

    def make_standbys(
        self, new_follower: Callable[[int], Follower], owned: Callable[[], Collection[int]]
    ) -> Standbys | None:
        """What keeps copies of other workers' state; None when the settings ask for none."""
        worker = self._settings.worker
        if worker.standby_replicas == 0:
            return None
        return Standbys(
            self._group,
            worker.standby_replicas,
            self._destinations.changelog,
            self._create(AdminClient, {}),
            # What is not in the log any more must be noticed, not jumped over.
            lambda: self._make_reader(
                {"auto.offset.reset": "error", "queued.max.messages.kbytes": 16_384}
            ),
            new_follower,
            owned,
        )

    @property
    def _group(self) -> Group:
        return Group(self._settings.worker.app_id, self._destinations.source, self._instance)

    @property
    def _instance(self) -> str:
        return f"{self._settings.worker.app_id}-{self._settings.worker.instance_id}"

    def _make_reader(self, more: dict[str, Any]) -> LibrdkafkaConsumer:
        reader: LibrdkafkaConsumer = self._create(
            LibrdkafkaConsumer,
            {
                "group.id": f"{self._settings.worker.app_id}-restore",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "reconnect.backoff.max.ms": RECONNECT_WITHIN_MS,
                "fetch.message.max.bytes": 8 * 1024 * 1024,
                "fetch.queue.backoff.ms": 10,
                "check.crcs": True,
                **more,
            },
        )
        return reader

    def _create(self, make: Callable[[dict[str, Any]], Any], defaults: dict[str, Any]) -> Any:
        return create_tuned(partial(make), self._settings.kafka, defaults)
