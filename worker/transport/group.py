"""The workers' consumer group as the brokers see it: who is in it, and who owns what.

Also finds partitions that the group has forgotten. With static members and cooperative
rebalances Kafka lets that happen: a member dies after the group has told it to give a
partition up, and before it has joined again; when it comes back it takes its old place
without a rebalance, and nobody is given the partition until somebody joins or leaves.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from worker.kafka_config import describe
from worker.transport.poller import Poller

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 3.0
RANDOM_ID_CHARS = 37
ORPHANED_AFTER_S = 10.0
"""Longer than a partition is on its way between two members of a group that is stable."""
LONGEST_PATIENCE_S = 600.0

Members = Mapping[str, Collection[int]]
"""Partitions owned by each member of the group, by its instance id."""


@dataclass(frozen=True)
class Group:
    """The workers' consumer group and the topic they share.

    Attributes:
        instance: ``group.instance.id`` of this process's member.
    """

    name: str
    source: str
    instance: str


def ask_members(admin: AdminClient, group: Group) -> Members | None:
    """Who owns what; None while the group changes, or does not exist.

    Raises:
        KafkaException: the brokers do not answer.
    """
    # Deprecated, but its successor ends the whole process when the coordinator goes away
    # at the wrong moment (https://github.com/confluentinc/librdkafka/issues/4605).
    groups = admin.list_groups(group.name, timeout=REQUEST_TIMEOUT_S)
    return members_of(groups[0], group.source) if groups else None


def members_of(group: Any, topic: str) -> Members | None:
    """Who owns what of a topic; None while the group changes.

    Args:
        group: the client's ``GroupMetadata``, whose declared types are incomplete.
    """
    if group.state != "Stable":
        return None
    return {
        # The broker makes a static member's id of its instance id and a random one.
        member.id[:-RANDOM_ID_CHARS]: _owned(member.assignment, topic)
        for member in group.members
    }


def _owned(assignment: bytes, topic: str) -> list[int]:
    """Read a member's assignment: Kafka's "consumer protocol", the same start in all versions."""
    owned: list[int] = []
    if not assignment:  # the leader has left the member out
        return owned
    _version, topics = struct.unpack_from(">hi", assignment)
    at = 6
    for _ in range(topics):
        (length,) = struct.unpack_from(">h", assignment, at)
        name, at = assignment[at + 2 : at + 2 + length], at + 2 + length
        (count,) = struct.unpack_from(">i", assignment, at)
        partitions = struct.unpack_from(f">{count}i", assignment, at + 4)
        at += 4 + 4 * count
        if name == topic.encode():
            owned += partitions
    return owned


class OrphanJudge:
    """Says when a member is to join the group anew, so that it divides the partitions again."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._since_s: dict[int, float] = {}
        self._patience_s = ORPHANED_AFTER_S

    def look(self, members: Members | None, partitions: int, now_s: float) -> list[int]:
        """Judge one view of the group.

        Args:
            members: None while the group changes.
            partitions: how many there are to own.
            now_s: monotonic.

        Returns:
            The partitions that nobody has owned for ``ORPHANED_AFTER_S``, if it falls to this
            member to do something about them: it has the least to give back. Each time that
            has not helped, the next is twice as far off.
        """
        if not members:
            self._since_s = {}
            return []
        owned = {partition for owned in members.values() for partition in owned}
        self._since_s = {
            partition: self._since_s.get(partition, now_s)
            for partition in range(partitions)
            if partition not in owned
        }
        if not self._since_s:
            self._patience_s = ORPHANED_AFTER_S
        orphans = [p for p, since_s in self._since_s.items() if now_s - since_s >= self._patience_s]
        chosen = min(members, key=lambda member: (len(members[member]), member))
        if not orphans or chosen != self._instance:
            return []
        self._since_s = {}
        self._patience_s = min(2 * self._patience_s, LONGEST_PATIENCE_S)
        return orphans


class Orphans:
    """Looks for partitions without an owner, and joins the group anew when there are some."""

    def __init__(self, admin: AdminClient, group: Group, poller: Poller) -> None:
        self._admin = admin
        self._group = group
        self._poller = poller
        self._judge = OrphanJudge(group.instance)

    def look(self) -> None:
        """Ask the brokers, for a few seconds at most, and act."""
        topic = self._group.source
        try:
            members = ask_members(self._admin, self._group)
            topics = self._admin.list_topics(topic, timeout=REQUEST_TIMEOUT_S).topics
        except KafkaException as error:
            log.debug("the group cannot be looked at: %s", describe(error))
            return
        orphans = self._judge.look(members, len(topics[topic].partitions), time.monotonic())
        if orphans:
            log.warning(
                "nobody owns partitions %s: joining the group anew",
                orphans,
                extra={"partitions": orphans},
            )
            self._poller.join_anew()
