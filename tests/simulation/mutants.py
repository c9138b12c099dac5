"""Defects put in on purpose: each is one small change of the worker's own code."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from load.simulation.broker import Member
from worker.core.episode_kernel import NONE
from worker.core.events import Chunk
from worker.core.outgoing import Record
from worker.transport import restore
from worker.transport.group import Orphans
from worker.transport.poller import Poller
from worker.transport.processor import Processor
from worker.transport.producer import Publisher

Mutant = Callable[[pytest.MonkeyPatch], None]


def offsets_are_committed_before_state(patch: pytest.MonkeyPatch) -> None:
    def commit(self: Any) -> None:
        if not self._uncommitted:
            return
        source = self._destinations.source
        offsets = [TopicPartition(source, p, offset) for p, offset in self._uncommitted.items()]
        self._publisher.commit(self._group, offsets)
        for partition in self._uncommitted:
            for key, value in self.owned[partition].state.take_changes():
                self._publish(self._destinations.changelog, partition, key, value)
        self._publisher.commit(self._group, offsets)
        self._uncommitted.clear()

    patch.setattr(Processor, "_commit", commit)


def what_was_gathered_is_told_twice(patch: pytest.MonkeyPatch) -> None:
    original = Processor._tell

    def tell(self: Any, partition: int, records: Iterable[Record], *more: Any) -> None:
        records = list(records)
        twice = [*records, *(record for record in records if record.gathered)]
        original(self, partition, twice, *more)

    patch.setattr(Processor, "_tell", tell)


def the_groups_generation_is_not_told(patch: pytest.MonkeyPatch) -> None:
    original = Publisher.commit

    class Nobody:
        def call(self, _request: Any) -> Any:
            return self

        def result(self, _timeout_s: float) -> Member:
            return Member("app", -1, "", None)

    patch.setattr(Publisher, "commit", lambda self, _, offsets: original(self, Nobody(), offsets))


def a_loss_is_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Poller, "_on_lost", lambda *_: None)


def what_was_seen_is_applied_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Chunk, "since", lambda self, _offset: self)


def restore_stops_a_row_early(patch: pytest.MonkeyPatch) -> None:
    original = restore.ask_ends
    # The last offset is a transaction's marker, the last row is before it.
    patch.setattr(restore, "ask_ends", lambda *a: {p: e - 2 for p, e in original(*a).items()})


def episodes_are_forgotten_at_a_take_over(patch: pytest.MonkeyPatch) -> None:
    original = Processor.take_over

    def take_over(self: Any, partition: int, state: Any, *rest: Any) -> Any:
        state.table["episode_state"][:] = NONE
        return original(self, partition, state, *rest)

    patch.setattr(Processor, "take_over", take_over)


def partitions_are_given_back_without_a_commit(patch: pytest.MonkeyPatch) -> None:
    def give_back(self: Any, partitions: list[int]) -> None:
        for partition in partitions:
            self.owned.pop(partition, None)
            self._uncommitted.pop(partition, None)

    patch.setattr(Processor, "_give_back", give_back)


def a_repeated_commit_forgets_its_records(patch: pytest.MonkeyPatch) -> None:
    original = Publisher.publish

    def publish(self: Any, *record: Any) -> None:
        original(self, *record)
        self._pending.clear()

    patch.setattr(Publisher, "publish", publish)


def after_a_failed_commit_work_goes_on(patch: pytest.MonkeyPatch) -> None:
    def guarded(self: Any, job: Callable[[], Any]) -> Any:
        try:
            return job()
        except Exception:  # noqa: BLE001
            self._uncommitted.clear()
            self._publisher._in_transaction = False
            self._publisher._pending.clear()
            return None

    patch.setattr(Processor, "_guarded", guarded)


def a_commit_without_an_answer_is_done_again(patch: pytest.MonkeyPatch) -> None:
    original = Publisher._commit_transaction

    def commit(self: Any, group: Any, offsets: Any) -> None:
        records = list(self._pending)
        ask = self._client.commit_transaction

        def once(timeout_s: float) -> None:
            try:
                ask(timeout_s)
            except KafkaException as error:
                if error.args[0].code() != KafkaError._TIMED_OUT:
                    raise
                ask(timeout_s)
                self._client.begin_transaction()
                for record in records:
                    self._produce(record)
                ask(timeout_s)

        self._client.commit_transaction = once
        try:
            original(self, group, offsets)
        finally:
            self._client.commit_transaction = ask

    patch.setattr(Publisher, "_commit_transaction", commit)


def partitions_without_an_owner_are_never_looked_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Orphans, "look", lambda _self: None)
