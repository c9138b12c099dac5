"""Requests between clients and the broker, and everything that can go wrong on the way.

A request that was sent is carried out, even when its sender is dead by then. An answer
may come late or never; then librdkafka asks again, as it does here, until its caller's
time is over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException

from load.simulation.broker import Broker
from load.simulation.faults import Faults
from load.simulation.scheduler import Process, Scheduler, Signal

T = TypeVar("T")

ANSWER_WITHIN_S = 2.0
RETRY_AFTER_S = 0.2
_REPEATED = {
    KafkaError.CONCURRENT_TRANSACTIONS,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NOT_COORDINATOR,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.UNSTABLE_OFFSET_COMMIT,
}
"""What librdkafka repeats by itself."""


class Network:
    """The way to the broker.

    Attributes:
        group_changed: wakes clients that wait for others to join or to sync.
        down: whether the broker is away; what reached it before is kept.
    """

    def __init__(self, scheduler: Scheduler, broker: Broker, faults: Faults) -> None:
        self.scheduler = scheduler
        self.broker = broker
        self.faults = faults
        self.group_changed = Signal()
        self.down = False
        self.up_again = Signal()

    def call(
        self,
        process: Process,
        kind: str,
        request: Callable[[], T],
        timeout_s: float,
        *,
        retriable: bool = False,
    ) -> T:
        """Send a request, and wait for its answer.

        Args:
            kind: what it is, for the trace and the counts.
            timeout_s: after which the caller gets ``_TIMED_OUT``.
            retriable: how that error is marked; librdkafka does so for transactions.

        Raises:
            KafkaException: the broker's answer, or no answer in time.
        """
        end_s = self.scheduler.now_s + timeout_s
        self.faults.may_break(process, f"before {kind}")
        while self.scheduler.now_s < end_s:
            if self.down:
                self.scheduler.wait(self.up_again, end_s - self.scheduler.now_s)
                continue
            self.faults.may_refuse(kind, retriable)
            answer = self._attempt(process, kind, request)
            if not answer:
                continue
            result, error = answer[0]
            if error is None:
                self.faults.may_break(process, f"after {kind}")
                self.faults.may_refuse(kind, retriable, done=True)
                return result  # type: ignore[no-any-return]
            if error.args[0].code() not in _REPEATED:
                raise error
            self.scheduler.wait(None, RETRY_AFTER_S)
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, retriable=retriable))

    def _attempt(
        self, process: Process, kind: str, request: Callable[[], T]
    ) -> list[tuple[Any, KafkaException | None]]:
        answer: list[tuple[Any, KafkaException | None]] = []
        arrived = Signal()
        lost = self.faults.loss(kind)

        def carry_out() -> None:
            if self.down:
                return
            result: tuple[Any, KafkaException | None]
            try:
                result = (self.faults.refusal(kind) or request)(), None
            except KafkaException as error:
                result = None, error
            if lost != "answer":
                self.scheduler.at(self.faults.latency_s(), deliver, result)

        def deliver(result: tuple[Any, KafkaException | None]) -> None:
            answer.append(result)
            arrived.set()

        if lost != "request":
            self.scheduler.at(self.faults.latency_s(), carry_out)
        self.faults.may_break(process, f"during {kind}")
        self.scheduler.wait(arrived, ANSWER_WITHIN_S)
        return answer
