"""The group coordinator: Kafka's classic protocol with cooperative-sticky assignment.

Modelled after Kafka 4.1 and librdkafka 2.15 where a client can tell the difference:
static members keep their place while they are gone and come back without a rebalance,
generations are checked when offsets are committed, a partition is given to a member only
after its earlier owner has given it up. Left out: other assignors, the leader's part in
assigning (the coordinator computes what the leader would), the rebalance timeout of five
minutes (sessions end long before it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from confluent_kafka import KafkaError, KafkaException

State = Literal["empty", "joining", "syncing", "stable"]


def _refused(code: int) -> KafkaException:
    return KafkaException(KafkaError(code))


@dataclass(eq=False)
class GroupMember:
    """What the coordinator knows of a member; ``partitions`` is what it was given last."""

    id: str
    instance: str | None
    session_s: float
    seen_s: float
    joined: bool = False
    synced: bool = False
    owned: frozenset[int] = frozenset()
    partitions: frozenset[int] = frozenset()


@dataclass
class Group:
    """One consumer group of one topic.

    ``changed`` is called when a member that waits for its join or sync could be answered,
    ``told`` with what a person who reads the trace wants to know.
    """

    topic: str = ""
    partitions: int = 0
    state: State = "empty"
    generation: int = 0
    members: dict[str, GroupMember] = field(default_factory=dict)
    offsets: dict[tuple[str, int], int] = field(default_factory=dict)
    pending: dict[int, dict[tuple[str, int], int]] = field(default_factory=dict)
    rebalances: int = 0
    changed: Callable[[], None] = lambda: None
    told: Callable[[str], None] = lambda _: None
    _ids: int = 0

    def join(
        self,
        member_id: str,
        instance: str | None,
        session_s: float,
        owned: frozenset[int],
        now_s: float,
    ) -> str:
        """JoinGroup: begins a rebalance, or takes part in one; :meth:`joined` tells of its end.

        A static member that comes back as a new process takes its old place, and its old
        process is fenced from then on; in a stable group nobody else notices.

        Raises:
            KafkaException: the member is unknown, or another process has its place.
        """
        replaced = self._static(instance) if instance is not None else None
        if member_id:
            self.check_member(member_id, instance)
            member = self.members[member_id]
        else:
            self._ids += 1
            member = GroupMember(f"{instance or 'member'}-{self._ids}", instance, session_s, now_s)
            if replaced is not None:
                del self.members[replaced.id]
                member.partitions = replaced.partitions
                self.members[member.id] = member
                member.seen_s = now_s
                self.told(f"{member.id} takes the place of {replaced.id}")
                if self.state == "stable":
                    member.joined = True
                    return member.id
            self.members[member.id] = member
        member.owned, member.seen_s = owned, now_s
        member.joined = True
        if self.state in ("empty", "stable", "syncing"):
            self._begin_rebalance(joining=member)
        self._end_join(now_s)
        return member.id

    def joined(self, member_id: str, instance: str | None) -> int | None:
        """The generation once everybody has joined, None before.

        Raises:
            KafkaException: the member is not part of the group any more.
        """
        self.check_member(member_id, instance)
        return None if self.state == "joining" else self.generation

    def sync(
        self, member_id: str, instance: str | None, generation: int, now_s: float
    ) -> frozenset[int] | None:
        """SyncGroup: the member's partitions; None while the group waits for its leader.

        Raises:
            KafkaException: the member or its generation is not the group's, or the next
                rebalance has begun.
        """
        self.check_member(member_id, instance)
        if generation != self.generation:
            raise _refused(KafkaError.ILLEGAL_GENERATION)
        if self.state == "joining":
            raise _refused(KafkaError.REBALANCE_IN_PROGRESS)
        member = self.members[member_id]
        member.seen_s = now_s
        if self.state == "syncing":
            member.synced = True
            leader = next(iter(self.members.values()))
            if leader.synced:
                self.state = "stable"
                self.changed()
        return member.partitions if self.state == "stable" else None

    def heartbeat(
        self, member_id: str, instance: str | None, generation: int, now_s: float
    ) -> None:
        """Heartbeat.

        Raises:
            KafkaException: what the member has to react to.
        """
        self.check_member(member_id, instance)
        if generation != self.generation:
            raise _refused(KafkaError.ILLEGAL_GENERATION)
        self.members[member_id].seen_s = now_s
        if self.state == "joining":
            raise _refused(KafkaError.REBALANCE_IN_PROGRESS)

    def leave(self, member_id: str, now_s: float) -> None:
        """LeaveGroup; unknown members have left already."""
        if self.members.pop(member_id, None) is not None:
            self._without_somebody(now_s)

    def expire(self, now_s: float) -> list[str]:
        """Remove members that were silent for longer than their session."""
        # Who waits for an answer to join or sync sends no heartbeats, and is not missed.
        silent = [
            member.id
            for member in self.members.values()
            if now_s - member.seen_s > member.session_s
            and not (self.state == "joining" and member.joined)
            and not (self.state == "syncing" and member.synced)
        ]
        for member_id in silent:
            del self.members[member_id]
        if silent:
            self._without_somebody(now_s)
        return silent

    def check_commit(
        self, member_id: str, instance: str | None, generation: int, transactional: bool
    ) -> None:
        """Whether offsets may be committed for this member and generation.

        Raises:
            KafkaException: they may not.
        """
        if generation < 0 and self.state == "empty":
            return  # nobody is a member, and the client claims to be none: Kafka lets it pass
        if generation >= 0 or member_id or instance is not None:
            self.check_member(member_id, instance)
            if generation != self.generation:
                raise _refused(KafkaError.ILLEGAL_GENERATION)
        elif not transactional and self.state != "empty":
            raise _refused(KafkaError.UNKNOWN_MEMBER_ID)
        if not transactional and self.state == "syncing":
            raise _refused(KafkaError.REBALANCE_IN_PROGRESS)

    def check_member(self, member_id: str, instance: str | None) -> None:
        """Whether the group knows the member.

        Raises:
            KafkaException: UNKNOWN_MEMBER_ID, or FENCED_INSTANCE_ID when another process
                has come under the same instance id.
        """
        if instance is not None:
            known = self._static(instance)
            if known is None:
                raise _refused(KafkaError.UNKNOWN_MEMBER_ID)
            if known.id != member_id:
                raise _refused(KafkaError.FENCED_INSTANCE_ID)
        if member_id not in self.members:
            raise _refused(KafkaError.UNKNOWN_MEMBER_ID)

    def fetch_offsets(self, partitions: list[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """OffsetFetch of stable offsets: -1 where nothing was committed.

        Raises:
            KafkaException: a transaction is about to change one of them.
        """
        if any(
            partition in offsets for offsets in self.pending.values() for partition in partitions
        ):
            raise _refused(KafkaError.UNSTABLE_OFFSET_COMMIT)
        return {partition: self.offsets.get(partition, -1) for partition in partitions}

    def finish(self, pid: int, commit: bool) -> None:
        """The marker of a transaction that committed offsets."""
        offsets = self.pending.pop(pid, {})
        if commit:
            self.offsets.update(offsets)

    def orphans(self) -> list[int]:
        """Partitions that no member was given last."""
        given = {p for member in self.members.values() for p in member.partitions}
        return sorted(set(range(self.partitions)) - given)

    def _static(self, instance: str) -> GroupMember | None:
        return next((m for m in self.members.values() if m.instance == instance), None)

    def _begin_rebalance(self, joining: GroupMember | None = None) -> None:
        self.state = "joining"
        self.rebalances += 1
        for member in self.members.values():
            member.joined = member is joining
            member.synced = False
        self.changed()

    def _without_somebody(self, now_s: float) -> None:
        if not self.members:
            self.state = "empty"
            self.generation += 1
        elif self.state == "joining":
            self._end_join(now_s)
        else:
            self._begin_rebalance()
        self.changed()

    def _end_join(self, now_s: float) -> None:
        if self.state != "joining" or not all(m.joined for m in self.members.values()):
            return
        self.generation += 1
        self.state = "syncing"
        self._assign()
        given = {m.id: sorted(m.partitions) for m in self.members.values()}
        self.told(f"generation {self.generation}: {given}")
        for member in self.members.values():
            member.seen_s = now_s
        self.changed()

    def _assign(self) -> None:
        """Cooperative-sticky: balanced, few moves, and nobody gets what another still owns."""
        members = sorted(self.members.values(), key=lambda m: m.instance or m.id)
        share, more = divmod(self.partitions, len(members))
        wanted: dict[str, list[int]] = {m.id: [] for m in members}
        free = set(range(self.partitions))
        by_load = sorted(members, key=lambda m: -len(m.owned))
        room = {m.id: share + (1 if i < more else 0) for i, m in enumerate(by_load)}
        for member in members:
            kept = sorted(member.owned & free)[: room[member.id]]
            wanted[member.id] = kept
            free -= set(kept)
        for member in members:
            while len(wanted[member.id]) < room[member.id]:
                partition = min(free)
                free.discard(partition)
                wanted[member.id].append(partition)
        for member in members:
            others = {p for m in members if m is not member for p in m.owned}
            member.partitions = frozenset(p for p in wanted[member.id] if p not in others)
