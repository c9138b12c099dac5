"""A worker with a bug put in on purpose: ``python -m tests.support.mutant_worker worker``.

``MUTANT`` names it. Each shows its bug at a commit of its own choice, so that a test
need not hit a moment.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from confluent_kafka import Consumer, TopicPartition
from mode.utils.queues import ThrowableQueue

from worker.cli.main import run
from worker.transport.delivery import Delivery
from worker.transport.processor import Processor
from worker.transport.producer import GroupMember, Publisher

BUG_AT = 4
"""The commit at which it shows: state and offsets are there already."""
SLOW_STEP_S = 0.03
"""A little longer than chunks take to come, one of each of four partitions ten times a second."""

LONG_COMMIT_S = 1.0
"""Longer than the stop takes to reach the agent."""


class Count:
    """Counts calls."""

    def __init__(self) -> None:
        self.calls = 0

    def reached(self) -> bool:
        self.calls += 1
        return self.calls == BUG_AT


def offsets_before_state() -> None:
    """Commit outputs and offsets first, state afterwards; end in between."""
    counted = Count()
    commit = Publisher.commit

    def mutant(self: Publisher, group: GroupMember, offsets: list[TopicPartition]) -> None:
        if counted.reached():
            rows = [r for r in self._pending if r.topic.endswith("-changelog")]
            outputs = [r for r in self._pending if r not in rows]
            assert rows
            self._client.abort_transaction(30)
            self._in_transaction = False
            self._pending = []
            for record in outputs:
                self.publish(*record)
            commit(self, group, offsets)
            os.kill(os.getpid(), signal.SIGKILL)
        commit(self, group, offsets)

    Publisher.commit = mutant  # type: ignore[method-assign]


def no_fence() -> None:
    """Stop while outputs are not committed yet; commit them when woken up, whatever happened."""
    counted = Count()
    commit = Publisher.commit

    class Anyone:
        """Stands for no member of the group in particular."""

        def call(self, request: Any) -> Any:
            group = {"bootstrap.servers": os.environ["DRIFTDETECTOR_KAFKA__BROKERS"]}
            group["group.id"] = os.environ["DRIFTDETECTOR_WORKER__APP_ID"]
            outsider = Consumer(group)

            class Now:
                @staticmethod
                def result(_timeout_s: float) -> Any:
                    return outsider.consumer_group_metadata()

            return Now

    def mutant(self: Publisher, group: GroupMember, offsets: list[TopicPartition]) -> None:
        if not counted.reached():
            commit(self, group, offsets)
            return
        # Rows that nobody commits would hold up who restores; they come after waking up.
        records = list(self._pending)
        self._client.abort_transaction(30)
        self._in_transaction = False
        self._pending = []
        os.kill(os.getpid(), signal.SIGSTOP)
        for record in records:
            self.publish(*record)
        commit(self, Anyone(), offsets)  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGKILL)

    Publisher.commit = mutant  # type: ignore[method-assign]


def a_chunk_twice() -> None:
    """Apply one chunk a second time."""
    counted = Count()
    apply = Processor._apply

    def mutant(self: Processor, delivery: Delivery) -> None:
        apply(self, delivery)
        owned = self.owned.get(delivery.chunk.partition)
        if owned is not None and counted.reached():
            owned.state.next_offset = delivery.begin
            apply(self, delivery)

    Processor._apply = mutant  # type: ignore[method-assign]


def slow_steps() -> None:
    """No bug: only so slow that chunks always wait for their turn."""
    apply = Processor._apply

    def mutant(self: Processor, delivery: Delivery) -> None:
        time.sleep(SLOW_STEP_S)
        apply(self, delivery)

    Processor._apply = mutant  # type: ignore[method-assign]


def a_chunk_overtakes_the_stop() -> None:
    """No bug: the fetcher hands a chunk over just after Faust has emptied the agents' queues."""
    slow_steps()
    clear = ThrowableQueue.clear

    def mutant(self: Any) -> None:
        newest = list(self._queue)[-1:]
        clear(self)
        self._queue.extend(newest)

    ThrowableQueue.clear = mutant


def stopped_during_a_commit() -> None:
    """No bug: told to stop, by itself, while two chunks wait for a commit that takes its time."""
    commit = Processor._commit

    def mutant(self: Processor) -> None:
        waiting = self._thread._work_queue
        end_s = time.monotonic() + LONG_COMMIT_S
        while waiting.qsize() < 2 and time.monotonic() < end_s:
            time.sleep(0.01)
        if waiting.qsize() >= 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(LONG_COMMIT_S)
        commit(self)

    Processor._commit = mutant  # type: ignore[method-assign]


MUTANTS = {
    "offsets-before-state": offsets_before_state,
    "no-fence": no_fence,
    "a-chunk-twice": a_chunk_twice,
    "slow-steps": slow_steps,
    "a-chunk-overtakes-the-stop": a_chunk_overtakes_the_stop,
    "stopped-during-a-commit": stopped_during_a_commit,
}


if __name__ == "__main__":
    MUTANTS[os.environ["MUTANT"]]()
    sys.exit(run(sys.argv[1:]))
