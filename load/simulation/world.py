"""One seed from beginning to end: brokers, workers, what happens to them, and the verdict."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from load.simulation.broker import Broker
from load.simulation.checks import Checks, ViolationError
from load.simulation.consumer import Consumer
from load.simulation.faults import Faults
from load.simulation.inputs import LAYOUT, LIMITS, SPEC, Event, events, make_pipeline
from load.simulation.network import Network
from load.simulation.producer import Admin
from load.simulation.program import APP_ID, CHANGELOG, PARTIALS, SOURCE, STREAMS, Program
from load.simulation.scheduler import Process, Scheduler, StuckError, activate
from load.simulation.threads import simulated_threads
from worker.core.changelog import StateReader
from worker.core.errors import DriftDetectorError
from worker.core.scoring import Scoring
from worker.core.state import PartitionState
from worker.transport import poller
from worker.transport.restore import Follower, restore

SESSION_S = 6.0
FETCH_WAIT_S = 0.1
"""Longer than the worker's own, so that an idle worker costs fewer turns."""
ORPHANED_FOR_S = 10
OWNED_WITHIN_S = 60
EVENT_LIMIT = 30_000
TRACE_LINES = 60
_PIPELINE = make_pipeline()


@dataclass(frozen=True)
class Outcome:
    """How a seed went.

    Attributes:
        violation: what did not hold, None when all did.
        trace: the last lines of what happened, or all of it when asked for.
        digest: of the whole trace; equal for equal runs.
        happened: counts by kind.
        duration_s: virtual.
    """

    seed: int
    violation: str | None
    trace: list[str]
    digest: str
    happened: Counter[str]
    duration_s: float


def simulate(seed: int, *, whole_trace: bool = False) -> Outcome:
    """Run one seed to its end."""
    patience = poller.FETCH_WAIT_S
    poller.FETCH_WAIT_S = FETCH_WAIT_S
    try:
        with simulated_threads():
            return World(seed, whole_trace).run()
    finally:
        poller.FETCH_WAIT_S = patience


class World:
    """Everything of one seed."""

    def __init__(self, seed: int, whole_trace: bool) -> None:
        self._seed = seed
        self._random = random = Random(seed)
        self._scheduler = Scheduler(EVENT_LIMIT)
        activate(self._scheduler)
        self._trace: deque[str] = deque(maxlen=None if whole_trace else TRACE_LINES)
        self._digest = hashlib.blake2b(digest_size=8)
        self._faults = Faults(random, self._scheduler, SESSION_S)
        self._faults.told = self.tell
        self._broker = Broker(self._now_s, self._later)
        self._broker.on_decided = self._decided
        self._broker.group(APP_ID).told = lambda text: self.tell("group", text)
        self._network = Network(self._scheduler, self._broker, self._faults)
        self._partitions = random.randint(1, 3)
        for topic in (SOURCE, CHANGELOG, *STREAMS, PARTIALS):
            self._broker.create(topic, self._partitions)
        self._checks = Checks(self._broker, _PIPELINE, self._partitions)
        self._programs: dict[str, Program] = {}
        self._wanted: set[str] = set()
        self._healed_s = random.uniform(10.0, 30.0)
        self._everything_fed = 0
        self._orphaned_s = 0

    def tell(self, who: str, text: str) -> None:
        """Add a line to the trace."""
        line = f"{self._scheduler.now_s:8.3f}  {who:<10} {text}"
        self._digest.update(line.encode())
        self._trace.append(line)

    def run(self) -> Outcome:
        """Let it all happen."""
        violation = None
        log = _TraceHandler(self.tell)
        logger = logging.getLogger("worker")
        before = logger.level, logger.propagate
        logger.addHandler(log)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        try:
            self._plan()
            self._scheduler.run(self._is_over)
            self._checks.finish(self._restored())
        except (ViolationError, StuckError, DriftDetectorError) as error:
            violation = f"{type(error).__name__}: {error}"
            self.tell("checks", violation)
        finally:
            logger.removeHandler(log)
            logger.level, logger.propagate = before
            self._bury()
        self._faults.counts["rebalance"] += self._broker.group(APP_ID).rebalances
        return Outcome(
            self._seed,
            violation,
            list(self._trace),
            self._digest.hexdigest(),
            self._faults.counts,
            self._scheduler.now_s,
        )

    # -- what happens when ------------------------------------------------------------------

    def _plan(self) -> None:
        random, at = self._random, self._scheduler.at
        for partition in range(self._partitions):
            self._plan_input(partition, events(random, partition, random.randint(5, 60)))
        for number in range(random.choice((1, 2, 2, 3, 3))):
            name = f"worker-{number}"
            self._wanted.add(name)
            at(random.uniform(0.0, 8.0), self._start, name)
            for _ in range(random.choice((0, 1, 2, 6))):
                at(random.uniform(1.0, self._healed_s), self._disturb, name)
        for _ in range(random.choice((0, 0, 1, 2))):
            at(random.uniform(1.0, self._healed_s), self._outage, random.uniform(0.2, 12.0))
        for _ in range(random.choice((0, 2, 10))):
            at(random.uniform(1.0, self._healed_s + 5.0), self._compact)
        at(1.0, self._every_second)
        at(self._healed_s, self._heal)

    def _plan_input(self, partition: int, feed: list[Event]) -> None:
        random = self._random
        time_s = 0.0
        while feed:
            size = random.randint(1, 12)
            batch, feed = feed[:size], feed[size:]
            self._everything_fed += 1
            self._scheduler.at(time_s, self._feed, partition, batch)
            time_s += random.uniform(0.0, 2.0)

    def _feed(self, partition: int, batch: list[Event]) -> None:
        """Publish a batch: plainly, or by a gateway with transactions, which may fail before."""
        log = self._broker.log(SOURCE, partition)
        kind = self._random.random() if self._faults.on else 1.0
        if kind < 0.1:
            gateway = f"gateway-{len(self._broker.producers)}"
            _, epoch = self._broker.init_producer(gateway, self._random.choice((1.0, 5.0)))
            self._broker.produce(gateway, epoch, 0, SOURCE, partition, batch[:3])
            if self._random.random() < 0.5:
                self._faults.count("input aborted")
                self._broker.end_transaction(gateway, epoch, commit=False)
            else:
                self._faults.count("input held open")
        for key, value in batch:
            log.append(self._now_s(), key, value, None)
        self._everything_fed -= 1

    def _start(self, name: str) -> None:
        if name not in self._wanted or name in self._programs:
            return
        self._faults.count("worker started")
        self.tell(name, "starts")
        self._programs[name] = Program(
            self._network,
            name,
            Scoring(_PIPELINE, LAYOUT),
            self._partitions,
            SESSION_S,
            self._random,
            self.tell,
        )

    def _disturb(self, name: str) -> None:
        """SIGTERM, SIGKILL or SIGSTOP at any moment; or start again."""
        if not self._faults.on:
            return
        program = self._programs.get(name)
        if program is None or not program.process.alive:
            self._wanted.add(name)
            self._start(name)
            return
        what = self._random.choice(("stop", "terminate", "terminate", "kill"))
        if what == "stop":
            self._faults.stop(program.process, "by a signal")
        elif what == "terminate":
            self.tell(name, "** SIGTERM")
            self._faults.count("worker stopped")
            self._wanted.discard(name)
            program.terminate()
        else:
            self.tell(name, "** SIGKILL")
            self._faults.count("worker killed")
            if self._random.random() < 0.5:
                self._wanted.discard(name)
            self._scheduler.kill(program.process)

    def _outage(self, duration_s: float) -> None:
        if not self._faults.on or self._network.down:
            return
        self.tell("broker", f"** away for {duration_s:.1f} s")
        self._faults.count("broker outage")
        self._network.down = True
        self._network.up_again.clear()
        self._scheduler.at(duration_s, self._back_again)

    def _back_again(self) -> None:
        # A coordinator that comes back gives every member a fresh session.
        for member in self._broker.group(APP_ID).members.values():
            member.seen_s = self._now_s()
        self._network.down = False
        self._network.up_again.set()

    def _compact(self) -> None:
        log = self._broker.log(CHANGELOG, self._random.randrange(self._partitions))
        upto = self._random.randint(0, log.end)
        gone = log.compact(self._now_s(), upto, keep_tombstones_s=self._random.choice((0.0, 10.0)))
        if gone:
            self._faults.count("compaction")
            self.tell("broker", f"compacts the changelog up to {upto}: {gone} records go")

    def _every_second(self) -> None:
        """The coordinators' timers, and the orchestrator's eye on its processes."""
        self._scheduler.at(1.0, self._every_second)
        for name, program in list(self._programs.items()):
            if not program.process.alive:
                self._faults.counts["worker failed"] += program.failure is not None
                del self._programs[name]
                if name in self._wanted:
                    self._scheduler.at(self._random.uniform(0.1, 2.0), self._start, name)
        if self._network.down:
            self._orphaned_s = 0
            return
        self._watch_orphans()
        for name in self._broker.expire():
            self.tell("broker", f"aborts the transaction of {name}: open for too long")
            self._faults.count("transaction expired")
        for member in self._broker.group(APP_ID).expire(self._now_s()):
            self.tell("broker", f"session of {member} has expired")
            self._faults.count("session expired")

    def _watch_orphans(self) -> None:
        """See that the workers give every partition an owner while they can.

        Kafka may forget one (worker.transport.group says how), and then nobody is given it
        until somebody joins or leaves.
        """
        orphans = self._broker.group(APP_ID).orphans()
        running = any(p.process.alive and not p.process.stopped for p in self._programs.values())
        self._orphaned_s = self._orphaned_s + 1 if orphans and running else 0
        if self._orphaned_s == ORPHANED_FOR_S:
            self._faults.count("partition without owner")
            self.tell("group", f"nobody owns {orphans} for {ORPHANED_FOR_S} s")
        if self._orphaned_s > OWNED_WITHIN_S:
            raise ViolationError(f"owners: nobody owns {orphans} for {OWNED_WITHIN_S} s")

    def _heal(self) -> None:
        self.tell("world", "** from now on nothing goes wrong")
        self._faults.on = False
        if not self._wanted:
            self._wanted.add("worker-0")
        for name in sorted(self._wanted):
            self._start(name)

    # -- the end ----------------------------------------------------------------------------

    def _is_over(self) -> bool:
        return (
            not self._faults.on
            and self._everything_fed == 0
            and not self._network.down
            and self._checks.is_finished()
        )

    def _decided(self, name: str, commit: bool, offsets: dict[tuple[str, int], int]) -> None:
        self.tell("broker", f"transaction of {name} is {'committed' if commit else 'aborted'}")
        if commit:
            self._checks.committed(
                {partition: offset for (_, partition), offset in offsets.items()}
            )
        else:
            self._faults.count("transaction aborted")

    def _restored(self) -> dict[int, PartitionState]:
        """State as the next worker would restore it, after one more compaction."""
        readers = {p: StateReader(SPEC, LIMITS) for p in range(self._partitions)}
        followers = {p: Follower(reader) for p, reader in readers.items()}
        for partition in followers:
            log = self._broker.log(CHANGELOG, partition)
            log.compact(self._now_s(), log.end, keep_tombstones_s=0.0)
        process = Process("reader")

        def read() -> None:
            reader = Consumer(self._network, process, "reader", tell_end=True)
            admin = Admin(self._network, process)
            restore(reader, admin, CHANGELOG, followers, lambda _: True)  # type: ignore[arg-type]

        task = self._scheduler.spawn(process, read)
        self._scheduler.run(lambda: task.done.is_set)
        return {p: reader.finish(0) for p, reader in readers.items()}

    def _bury(self) -> None:
        for program in self._programs.values():
            program.process.stopped = False
            self._scheduler.kill(program.process)

    def _now_s(self) -> float:
        return self._scheduler.now_s

    def _later(self, call: Callable[[], None]) -> None:
        self._scheduler.at(self._faults.marker_latency_s(), call)


class _TraceHandler(logging.Handler):
    """What the worker logs, as lines of the trace."""

    def __init__(self, tell: Callable[[str, str], None]) -> None:
        super().__init__()
        self._told = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Add a line."""
        self._told("log", record.getMessage())
