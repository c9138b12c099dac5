"""One worker process: the transport's own parts, and around them what Faust and the app do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from random import Random
from typing import Any, get_args

import msgspec

from load.simulation.consumer import Consumer
from load.simulation.faults import STEP
from load.simulation.inputs import LIMITS, SPEC
from load.simulation.network import Network
from load.simulation.producer import Admin, Producer
from load.simulation.scheduler import Process, Signal
from worker.core.changelog import StateReader
from worker.core.episode_kernel import OPEN
from worker.core.errors import BrokerError, DriftDetectorError
from worker.core.events import Chunk
from worker.core.outgoing import Outputs, Record, Stream
from worker.core.scoring import Scoring
from worker.core.state import PartitionState
from worker.transport.group import Group, Orphans
from worker.transport.poller import Poller
from worker.transport.processor import Destinations, Processor
from worker.transport.producer import Publisher
from worker.transport.restore import Follower, restore
from worker.transport.takeover import take_over

APP_ID = "app"
SOURCE = "sensor-events"
CHANGELOG = "app-machine-state-changelog"
STREAMS = get_args(Stream)
PARTIALS = "drift-partials"
LEAVE_WITHIN_S = 30.0
LOOK_FOR_ORPHANS_EVERY_S = 5.0
"""As in worker.app."""


class _Told(msgspec.Struct):
    """The parts of an output that say what happened."""

    status: str = ""
    close_reason: str | None = None
    kind: str = ""
    reason: str = ""


_decode = msgspec.json.Decoder(_Told).decode


class Program:
    """A worker from its start to its end, as PollerListener, ProcessorListener and Application.

    Attributes:
        done: set when the process has ended by itself, after a failure or as it was told.
        failure: what ended it, None when it was told to stop.
    """

    def __init__(
        self,
        network: Network,
        instance: str,
        scoring: Scoring,
        partitions: int,
        session_s: float,
        random: Random,
        tell: Callable[[str, str], None],
    ) -> None:
        self.process = Process(instance, breakable=True)
        self.done = Signal()
        self.failure: BaseException | None = None
        self._network = network
        self._scheduler = network.scheduler
        self._instance = instance
        self._scoring = scoring
        self._partitions = partitions
        self._session_s = session_s
        self._commit_every_s = random.choice((0.25, 0.5, 1.0, 3.0))
        self._told = tell
        self._ending = Signal()
        self._closed = False
        self._known: dict[int, PartitionState] = {}
        self._ready, self._changed = Signal(), Signal()
        self._scheduler.spawn(self.process, self._run)

    def terminate(self) -> None:
        """SIGTERM."""
        self._ending.set()

    # -- what Faust and worker.app do -----------------------------------------------------

    def _run(self) -> None:
        network, process = self._network, self.process
        streams = {stream: (stream, self._partitions) for stream in (*STREAMS, PARTIALS)}
        # As long as the session, as in worker.transport.driver.
        new_client = lambda: Producer(network, process, self._instance, self._session_s)  # noqa: E731
        publisher = Publisher(new_client, transactional=True)  # type: ignore[arg-type]
        self._processor = Processor(self, Destinations(SOURCE, CHANGELOG, streams), publisher, self)
        poller_ended = Signal()
        try:
            publisher.connect()
            consumer = Consumer(
                network, process, APP_ID, self._instance, self._session_s, tell_end=True
            )
            self._poller = Poller(consumer, SOURCE, self)  # type: ignore[arg-type]
            self._processor.join(self._poller)
            poller_ended = self._start(self._poll).done
            for work in (
                self._follow_assignment,
                self._deliver,
                self._commit_regularly,
                self._look_for_orphans,
            ):
                self._start(work)
            self._wait(self._ending, None)
            self._tell("ending")
            if self.failure is None:
                self._processor.commit().result()
            self._poller.leave()
        except DriftDetectorError as error:
            self._fail(error)
        if hasattr(self, "_poller"):
            self._wait(poller_ended, LEAVE_WITHIN_S)
        self._closed = True
        self._processor.close()
        self._tell(f"ended: {self.failure or 'as told'}")
        self.done.set()
        self._scheduler.kill(process)

    def _start(self, work: Callable[[], None]) -> Any:
        def guarded() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 (ends the worker, as in the app)
                if not self._closed:
                    self._fail(error)

        return self._scheduler.spawn(self.process, guarded)

    def _fail(self, error: BaseException) -> None:
        if not isinstance(error, DriftDetectorError):
            raise error  # a defect, not a fault
        if self.failure is None:
            self._tell(f"fails: {error}")
            self.failure = error
        self._ending.set()

    def _poll(self) -> None:
        try:
            self._poller.run()
        except BrokerError as error:  # closing the consumer asks for a last commit
            self._tell(f"the polling thread ends with: {error}")

    def _follow_assignment(self) -> None:
        while True:
            self._wait(self._changed, None)
            self._changed.clear()
            _run(
                take_over(
                    self._poller, self._processor, self._new_follower, self._restore, _call_here
                )
            )

    def _deliver(self) -> None:
        in_hand: Future[None] | None = None
        while True:
            delivery = self._poller.take()
            if delivery is None:
                self._wait(self._ready, None)
                self._ready.clear()
                continue
            applied = self._processor.apply(delivery)
            if in_hand is not None:
                in_hand.result()
            in_hand = applied

    def _commit_regularly(self) -> None:
        while not self._ending.is_set:
            self._wait(self._ending, self._commit_every_s)
            self._processor.commit().result()

    def _look_for_orphans(self) -> None:
        admin: Any = Admin(self._network, self.process)
        orphans = Orphans(admin, Group(APP_ID, SOURCE, self._instance), self._poller)
        while not self._ending.is_set:
            self._wait(self._ending, LOOK_FOR_ORPHANS_EVERY_S)
            orphans.look()

    # -- Application, as worker.core.scoring, with pauses and counts ---------------------

    def step(self, state: PartitionState, chunk: Chunk) -> Outputs:
        """Apply a chunk, slowly."""
        self._network.faults.may_break(self.process, f"before {STEP}")
        if self._known.get(chunk.partition) is not state:
            self._known[chunk.partition] = state
            is_open = (state.table["episode_state"] == OPEN).any()
            self._network.faults.counts["taken over with an open episode"] += int(is_open)
        machines = len(state)
        outputs = self._scoring.step(state, chunk)
        counts = self._network.faults.counts
        counts["late event"] += outputs.late
        counts["machine refused"] += outputs.dead["too-many-machines"]
        counts["machine forgotten"] += max(0, machines - len(state))
        self._count(counts, outputs)
        self._wait(None, self._network.faults.step_s())
        self._network.faults.may_break(self.process, f"after {STEP}")
        return outputs

    def summarize(self, partition: int, next_offset: int) -> list[Record]:
        """What is told once a commit."""
        return self._scoring.summarize(partition, next_offset)

    @staticmethod
    def _count(counts: Counter[str], outputs: Outputs) -> None:
        """Note what became of machines and their sensors."""
        for record in outputs.records:
            told = _decode(record.value)
            if record.stream == "anomaly-episodes":
                counts[f"episode {told.status} {told.close_reason or ''}".rstrip()] += 1
            elif record.stream == "sensor-health":
                counts[f"sensor {told.kind} {told.status}"] += 1
            elif told.reason == "too-many-windows":
                counts["maintenance refused"] += 1

    def _new_follower(self, _partition: int) -> Follower:
        return Follower(StateReader(SPEC, LIMITS))

    def _restore(self, followers: Mapping[int, Follower], wanted: Callable[[int], bool]) -> int:
        reader = Consumer(self._network, self.process, f"{APP_ID}-restore", tell_end=True)
        admin = Admin(self._network, self.process)
        return restore(reader, admin, CHANGELOG, followers, wanted)  # type: ignore[arg-type]

    def _wait(self, signal: Signal | None, timeout_s: float | None) -> None:
        self._scheduler.wait(signal, timeout_s)

    def _tell(self, text: str) -> None:
        self._told(self.process.name, text)

    # -- PollerListener and ProcessorListener, as worker.transport.consumer does it -------

    def on_ready(self) -> None:
        """Deliveries can be taken."""
        self._ready.set()

    def on_assignment_changed(self) -> None:
        """Partitions came or went."""
        self._tell(f"owns {sorted(self._poller.assignments)}")
        self._changed.set()

    def on_revoking(self, partitions: list[int]) -> Future[None]:
        """Commit what was applied before the partitions go."""
        self._tell(f"gives back {partitions}")
        return self._processor.give_back(partitions)

    def on_lost(self, partitions: list[int]) -> None:
        """Others own the partitions already."""
        self._tell(f"has lost {partitions}")
        self.on_failed(self._processor.lose(partitions))

    def on_deleted_unread(self, partition: int, offsets: int) -> None:
        """Nothing is ever deleted here."""
        raise AssertionError(f"{offsets} offsets of partition {partition} are gone")

    def on_failed(self, error: BaseException) -> None:
        """The polling thread ends."""
        self._fail(error)

    def on_applied(self, partition: int, outputs: Outputs, duration_s: float) -> None:
        """A chunk was applied."""
        self._tell(f"applied {outputs.events} events of partition {partition}")

    def on_committed(self, duration_s: float) -> None:
        """A commit has succeeded."""
        self._tell("committed")


async def _call_here(call: Callable[[], Any]) -> Any:
    return call()


def _run(coroutine: Coroutine[Any, Any, Any]) -> None:
    # Its awaits are calls of this task, so it runs to its end at once.
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("take_over waited for something outside the simulation")
