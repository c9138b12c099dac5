"""Copies of other workers' state, kept warm so that taking a partition over reads only the rest.

One thread with a consumer of its own follows the changelogs of the partitions for which
this worker is standby. Nothing that happens here can harm scoring: whatever fails, copies
are dropped and begun again, and a partition without a copy is restored from the beginning.

Who keeps which copies follows from the group's present members and their partitions, by
rendezvous hashing (D. G. Thaler, C. V. Ravishankar, 1998): each worker computes it alone, and
when a member comes or goes, only its share moves. The group's assignor does not know of copies.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Collection

from confluent_kafka import (
    Consumer,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from worker.kafka_config import describe
from worker.transport.group import REQUEST_TIMEOUT_S, Group, Members, ask_members
from worker.transport.restore import Follower, follow

log = logging.getLogger(__name__)

BATCH_ROWS = 10_000
FETCH_WAIT_S = 0.1
LOOK_EVERY_S = 3.0
"""How often the group is asked for its members: bounds how long a moved partition has no copy."""
LAG_EVERY_S = 1.0
REST_AFTER_FAILURE_S = 30.0
RENEW_AFTER_S = 24 * 3600.0
"""A reader keeps a place for each machine it has ever met, also for those forgotten since; and it
must have read a deletion before ``delete.retention.ms`` lets Kafka drop it."""
STOP_DEADLINE_S = 5.0


def copies_of(instance: str, members: Members, replicas: int) -> set[int]:
    """The partitions of others of which a member keeps a copy.

    Args:
        instance: the member.
        members: all of them.
        replicas: how many members besides its owner keep a copy of each partition.
    """
    return {
        partition
        for owner, partitions in members.items()
        for partition in partitions
        if instance
        in sorted(members.keys() - {owner}, key=lambda other: _rank(partition, other))[:replicas]
    }


def _rank(partition: int, instance: str) -> bytes:
    return hashlib.blake2b(f"{partition} {instance}".encode(), digest_size=8).digest()


class Standbys(threading.Thread):
    """Keeps the copies that fall to one member of a group.

    Args:
        replicas: how many other members keep a copy of each partition.
        changelog: topic of the rows.
        make_consumer: makes one that reads committed records, reports ends of partitions and
            fails (``auto.offset.reset=error``) where its position is no longer in the log.
        new_follower: makes the empty copy of a partition.
        owned: the partitions that are this member's own now.
    """

    def __init__(
        self,
        group: Group,
        replicas: int,
        changelog: str,
        admin: AdminClient,
        make_consumer: Callable[[], Consumer],
        new_follower: Callable[[int], Follower],
        owned: Callable[[], Collection[int]],
    ) -> None:
        super().__init__(name="kafka-standby", daemon=True)
        self._group = group
        self._replicas = replicas
        self._changelog = changelog
        self._admin = admin
        self._make_consumer = make_consumer
        self._new_follower = new_follower
        self._owned = owned
        self._lock = threading.Lock()
        self._copies: dict[int, Follower] = {}
        self._begun_s: dict[int, float] = {}
        self._followed: dict[int, Follower] = {}
        self._topic_id: str | None = None
        self._look_at_s = 0.0
        self._lag: dict[int, int] = {}
        self._lag_read_s = 0.0
        self._stopping = threading.Event()

    def take(self, partition: int) -> Follower | None:
        """Hand over a copy, which is not followed any more; None when there is none."""
        with self._lock:
            return self._copies.pop(partition, None)

    def look_again(self) -> None:
        """Ask for the group's members soon, as the assignment has changed."""
        self._look_at_s = 0.0

    def lag(self) -> dict[int, int]:
        """Rows of the changelog that each copy did not have a second ago or less."""
        return self._lag

    def stop(self) -> None:
        """End the thread; returns when it has ended, or after a few seconds."""
        self._stopping.set()
        if self.is_alive():
            self.join(STOP_DEADLINE_S)

    def run(self) -> None:
        """Follow until told to stop."""
        while not self._stopping.is_set():
            try:
                self._follow()
            except Exception as error:  # noqa: BLE001 (whatever it is, scoring goes on)
                log.warning(
                    "standby copies are dropped and begun again in %.0f s: %s",
                    REST_AFTER_FAILURE_S,
                    describe(error) if isinstance(error, KafkaException) else error,
                )
                self._drop_all()
                self._stopping.wait(REST_AFTER_FAILURE_S)

    def _follow(self) -> None:
        self._followed = {}
        consumer = self._make_consumer()
        try:
            while not self._stopping.is_set():
                self._look_around()
                self._assign(consumer)
                self._read(consumer.consume(BATCH_ROWS, FETCH_WAIT_S))
                self._read_lag(consumer)
        finally:
            consumer.close()

    def _look_around(self) -> None:
        """Ask who owns what, and begin and drop copies accordingly."""
        now_s = time.monotonic()
        if now_s < self._look_at_s:
            return
        self._look_at_s = now_s + LOOK_EVERY_S
        try:
            topic_id = self._ask_topic_id()
            members = ask_members(self._admin, self._group)
        except KafkaException as error:
            # The copies are still good, and the next look may succeed.
            log.info("standby copies: the group cannot be looked at: %s", describe(error))
            return
        if topic_id != self._topic_id:
            # The consumer would read on at the same offset, in the middle of other rows.
            if self._topic_id is not None:
                log.warning("%s was created again; standby copies are begun anew", self._changelog)
            self._topic_id = topic_id
            self._drop_all()
        if members is not None:
            me = self._group.instance
            others = {p for name in members if name != me for p in members[name]}
            self._rearrange(copies_of(me, members, self._replicas), others)

    def _ask_topic_id(self) -> str:
        topics = TopicCollection([self._changelog])
        future = self._admin.describe_topics(topics, request_timeout=REQUEST_TIMEOUT_S)
        return str(future[self._changelog].result(REQUEST_TIMEOUT_S).topic_id)

    def _rearrange(self, wanted: set[int], others: set[int]) -> None:
        """Begin copies that are wanted, drop those that are not.

        Args:
            others: all partitions of other members.
        """
        with self._lock:
            owned = set(self._owned())
            now_s = time.monotonic()
            # A partition on its way between members, or just assigned to this one, is about
            # to be taken over: its copy stays until then.
            kept = {
                partition: copy
                for partition, copy in self._copies.items()
                if (partition in wanted and now_s - self._begun_s[partition] < RENEW_AFTER_S)
                or partition in owned
                or partition not in others
            }
            begun = wanted - owned - kept.keys()
            self._begun_s |= dict.fromkeys(begun, now_s)
            dropped = self._copies.keys() - kept.keys()
            self._copies = kept | {partition: self._new_follower(partition) for partition in begun}
            copies = sorted(self._copies)
        if begun or dropped:
            log.info(
                "standby copies of partitions %s: %s are new, %s dropped",
                copies,
                sorted(begun),
                sorted(dropped),
            )

    def _drop_all(self) -> None:
        with self._lock:
            self._copies = {}
        self._lag = {}

    def _assign(self, consumer: Consumer) -> None:
        """Make the consumer follow exactly the copies there are."""
        with self._lock:
            copies = dict(self._copies)
        ended = [p for p, copy in self._followed.items() if copies.get(p) is not copy]
        begun = [p for p, copy in copies.items() if self._followed.get(p) is not copy]
        if ended:
            consumer.incremental_unassign([TopicPartition(self._changelog, p) for p in ended])
        if begun:
            consumer.incremental_assign(
                [TopicPartition(self._changelog, p, copies[p].position) for p in begun]
            )
        self._followed = copies

    def _read(self, messages: list[Message]) -> None:
        with self._lock:
            # A copy may have been handed over since these were fetched.
            copies = {p: c for p, c in self._followed.items() if self._copies.get(p) is c}
            follow(self._changelog, copies, [m for m in messages if m.partition() in copies])

    def _read_lag(self, consumer: Consumer) -> None:
        now_s = time.monotonic()
        if now_s - self._lag_read_s < LAG_EVERY_S:
            return
        self._lag_read_s = now_s
        lag = {}
        for partition, copy in self._followed.items():
            _, end = consumer.get_watermark_offsets(
                TopicPartition(self._changelog, partition), cached=True
            )
            lag[partition] = max(0, end - copy.position)
        self._lag = lag
