"""What a seed lets go wrong, and how often.

Each seed draws its own mixture: some kinds not at all, others often (swarm testing), since
faults of every kind all the time would hide what a few of them do in a long quiet run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import NoReturn

from confluent_kafka import KafkaError, KafkaException

from load.simulation.scheduler import Process, Scheduler

COMMIT_STEPS = ("outputs", "rows", "send_offsets", "commit")
STEP = "step"
"""Not a request: the pipeline's step over a chunk."""
_BROKEN_AT = {
    *COMMIT_STEPS,
    STEP,
    "abort",
    "init_transactions",
    "committed",
    "list_offsets",
    "join",
    "sync",
}
_TRANSACTIONS = {*COMMIT_STEPS, "abort", "init_transactions"}
_HANDED_OUT = {"send_offsets", "commit", "init_transactions", "committed", "list_offsets"}
_STAGES = ("before", "during", "after")
EXPECTED = frozenset(
    {
        f"{what} {stage} {step}"
        for what in ("crash", "stop")
        for stage in _STAGES
        for step in COMMIT_STEPS
    }
    | {f"{what} lost: {step}" for what in ("request", "answer") for step in COMMIT_STEPS}
    | {f"refused: {step}" for step in COMMIT_STEPS}
    | {f"handed out: {call}" for call in _HANDED_OUT}
    | {f"handed out although done: {call}" for call in _HANDED_OUT}
    | {
        "zombie",
        "slow request",
        "slow marker",
        "fetch went back",
        "passing fetch error",
        "final fetch error",
        "transaction refused for good",
        "full send queue",
        "broker outage",
        "worker started",
        "worker stopped",
        "worker killed",
        "worker failed",
        "rebalance",
        "partition without owner",
        "joined anew",
        "assign callback",
        "revoke callback",
        "lost callback",
        "session expired",
        "transaction expired",
        "transaction aborted",
        "compaction",
        "late event",
        "machine refused",
        "machine forgotten",
        "maintenance refused",
        "taken over with an open episode",
        "episode opened",
        "episode updated",
        "episode closed recovered",
        "episode closed maintenance",
        "episode closed forgotten",
        *(
            f"sensor {kind} {status}"
            for kind in ("missing", "stuck", "out-of-range", "silent")
            for status in ("opened", "closed")
        ),
        "input aborted",
        "input held open",
    }
)
"""Every kind that many seeds together must have met."""


class Faults:
    """Draws faults while ``on``; after that everything works at once.

    Args:
        session_s: of the workers' group membership; stops are shorter and longer than it.
    """

    def __init__(self, random: Random, scheduler: Scheduler, session_s: float) -> None:
        self.counts: Counter[str] = Counter()
        self.told: Callable[[str, str], None] = lambda *_: None
        self.on = True
        self._random = random
        self._scheduler = scheduler
        self._session_s = session_s

        def often(*rates: float) -> float:
            return random.choice((0.0, *rates))

        self._crash = often(0.002, 0.01, 0.03)
        self._stop = often(0.002, 0.01, 0.03)
        self._loss = often(0.01, 0.05)
        self._slow = often(0.02, 0.1)
        self._slow_marker = often(0.1, 0.5)
        self._refuse = often(0.01, 0.1)
        self._hand_out = often(0.02, 0.1)
        self._final = often(0.001, 0.005)
        self._back = often(0.02, 0.1)
        self._fetch_error = often(0.002, 0.01)
        self._largest_chunk = random.choice((1, 3, 10, 30))

    def count(self, kind: str) -> None:
        """Note that something happened."""
        self.counts[kind] += 1

    def coin(self) -> bool:
        """One of two orders in which things can happen."""
        return self._random.random() < 0.5

    def latency_s(self) -> float:
        """How long one way takes."""
        if self._draw(self._slow):
            self.count("slow request")
            return self._random.uniform(0.1, 1.9)
        return self._random.uniform(0.001, 0.01)

    def marker_latency_s(self) -> float:
        """How long after a transaction's end a partition gets its marker."""
        if self._draw(self._slow_marker):
            self.count("slow marker")
            return self._random.uniform(0.1, 6.0)
        return self._random.uniform(0.0, 0.01)

    def step_s(self) -> float:
        """How long the step over a chunk takes."""
        return self._random.choice((0.0, 0.01, 0.2))

    def chunk_size(self) -> int:
        """Up to how many records a fetch returns of one partition."""
        return self._random.randint(1, self._largest_chunk)

    def steps_back(self, room: int) -> int:
        """By how many offsets a fetch returns to what was fetched before."""
        if room <= 0 or not self._draw(self._back):
            return 0
        self.count("fetch went back")
        return self._random.randint(1, min(room, 8))

    def fetch_error(self, topic: str) -> KafkaError | None:
        """An error in the place of records."""
        if not self._draw(self._fetch_error):
            return None
        if self._draw(0.2):
            self.count("final fetch error")
            return KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED, f"not allowed: {topic}")
        self.count("passing fetch error")
        return KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION)

    def may_break(self, process: Process, point: str) -> None:
        """Kill the process at this point, or stop it for a while; or not."""
        if not process.breakable or point.split(" ", 1)[1] not in _BROKEN_AT:
            return
        if self._draw(self._crash):
            self._tell(process.name, f"crash {point}")
            self._scheduler.kill(process)
        if self._draw(self._stop):
            self.stop(process, point)
            self._scheduler.wait(None, 0.0)

    def stop(self, process: Process, point: str) -> None:
        """Stop a process for a while, which may be longer than its session."""
        long = self.coin()
        duration_s = self._random.uniform(*((1.1, 2.5) if long else (0.1, 0.9))) * self._session_s
        self._tell(process.name, f"stop {point}", f" for {duration_s:.1f} s")
        if long:
            self.count("zombie")
        self._scheduler.stop(process)
        self._scheduler.at(duration_s, self._scheduler.go_on, process)

    def loss(self, kind: str) -> str | None:
        """Whether the request or its answer gets lost."""
        if not self._draw(self._loss):
            return None
        lost = "request" if self.coin() else "answer"
        self._tell("network", f"{lost} lost: {kind}")
        return lost

    def refusal(self, kind: str) -> Callable[[], NoReturn] | None:
        """An error of the broker that librdkafka repeats by itself."""
        if not self._draw(self._refuse):
            return None
        self.count(f"refused: {kind}")
        is_group = kind in ("join", "sync", "heartbeat", "leave", "committed")
        code = KafkaError.NOT_COORDINATOR if is_group else KafkaError.COORDINATOR_LOAD_IN_PROGRESS

        def refuse() -> NoReturn:
            raise KafkaException(KafkaError(code))

        return refuse

    def may_refuse(self, kind: str, retriable: bool, done: bool = False) -> None:
        """An error that reaches the worker, although (``done``) the broker may have obeyed."""
        if kind in _HANDED_OUT and self._draw(self._hand_out):
            self._tell("network", f"handed out{' although done' if done else ''}: {kind}")
            code = KafkaError._TIMED_OUT if retriable and done else KafkaError.NOT_COORDINATOR
            raise KafkaException(KafkaError(code, retriable=retriable))
        if kind in _TRANSACTIONS and not done and self._draw(self._final):
            self._tell("network", "transaction refused for good", f" ({kind})")
            raise KafkaException(KafkaError(KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED))

    def _draw(self, rate: float) -> bool:
        return self.on and self._random.random() < rate

    def _tell(self, who: str, kind: str, more: str = "") -> None:
        self.count(kind)
        self.told(who, f"** {kind}{more}")
