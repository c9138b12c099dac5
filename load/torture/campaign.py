"""One campaign: continuous load, injections at random moments, and the verdict.

Everything random follows from the seed; how far a worker has come when it is hit does not.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from load import transactions
from load.feed import Aborter, Feeder, events
from load.local_kafka import HOST, LocalKafka
from load.network import Proxy
from load.records import wait_until
from load.torture.compaction import Compactions, sizes
from load.torture.fleet import Exit, Fleet
from load.torture.recovery import Injection, Watch
from load.verdict import MANY_EVENTS, STREAMS, Verdict, judge, revealing_bundle
from load.worker_process import WorkerProcess, create_topics, load
from worker.assets import asset_dir
from worker.core.channels import ChannelSpec
from worker.core.errors import BrokerError, FencedError
from worker.gateway import now_us
from worker.models.bundle import load_bundle

APP_ID = "torture"
UNDISTURBED = "undisturbed"
SOURCE = "torture-events"
PARTITIONS = 4
MOST_WORKERS = 3
SESSION_S = 8
SHORTENED = {"session.timeout.ms": str(SESSION_S * 1000), "transaction.timeout.ms": "10000"}
"""For workers to which things happen, which would take long otherwise."""
RECOVERY_DEADLINE_S = 90.0
ZOMBIE_END_S = 30.0
ABORTER_S = 4.0
COMMIT_S = 0.25
LONGEST_PAUSE_S = 1.5
OVERLAPPING = 0.3
CATCH_UP_S = 600.0
MACHINES = 200
RETENTION_H = 2  # event time: machines with a silent fault are forgotten, and come back
INTERVAL_S = 15.0
EXPECTED_EXITS = {FencedError.exit_code, BrokerError.exit_code}
"""Of a worker that was cut off for longer than its session, or found no broker."""
HISTORY_US = 20 * 24 * 3600 * 1_000_000
"""Events are that old at first, so that the load can be much faster than time."""
# The smallest segments that Kafka allows, compacted as soon as they are full: while workers
# restore, the cleaner is at work on what they read.
CHANGELOG = {
    "segment.bytes": str(1024 * 1024),
    "segment.ms": "5000",
    "min.cleanable.dirty.ratio": "0.01",
    "max.compaction.lag.ms": "1000",
    "delete.retention.ms": "1000",
}


@dataclass(frozen=True)
class Plan:
    """How often what is done, and how many events a second come meanwhile."""

    kills: int = 50
    rebalances: int = 20
    zombies: int = 10
    broker_restarts: int = 5
    network_cuts: int = 10
    slow_networks: int = 5
    events_per_s: int = 1_000
    seed: int = 1

    @property
    def injections(self) -> int:
        """How many there are in all."""
        return len(self.shuffled(random.Random(self.seed)))

    def shuffled(self, rng: random.Random) -> list[str]:
        """The kinds of injections, in the order of the campaign."""
        kinds = [
            *["kill -9"] * self.kills,
            *["rebalance"] * self.rebalances,
            *["zombie"] * self.zombies,
            *["broker restart"] * self.broker_restarts,
            *["network cut"] * self.network_cuts,
            *["network slow"] * self.slow_networks,
        ]
        rng.shuffle(kinds)
        return kinds


@dataclass(frozen=True)
class Zombie:
    """A frozen worker that woke up after its session.

    Attributes:
        successor: which instance took its place.
        status: its exit status; None: it did not end.
        commits: transactions that it committed after it had woken up.
    """

    instance_id: str
    successor: str
    status: int | None
    commits: int

    @property
    def fenced(self) -> bool:
        """Whether it ended as it must, without having written anything."""
        return self.status == FencedError.exit_code and self.commits == 0


@dataclass
class Result:
    """What a campaign found.

    Attributes:
        exits: workers that ended without being asked to, and were started again.
        undisturbed: the verdict on a worker that nothing happened to, over the same input.
        transactions: how often the workers' transactions reached each state.
        input_aborted: transactions on the input topic that its producer aborted.
        compacted: injections with a compaction of the changelog until they had recovered.
        changelog_written, changelog_left: records of the changelog.
        failures: what else was not as it must be.
    """

    plan: Plan
    injections: list[Injection]
    zombies: list[Zombie]
    exits: list[Exit]
    verdict: Verdict
    undisturbed: Verdict
    transactions: Counter[str]
    input_aborted: int
    compacted: int
    changelog_written: int
    changelog_left: int
    duration_s: float
    failures: list[str]

    @property
    def passed(self) -> bool:
        """Whether nothing was lost, doubled or changed, and everything recovered."""
        return (
            self.verdict.flawless
            and self.undisturbed.flawless
            and not self.failures
            and all(zombie.fenced for zombie in self.zombies)
            and all(injection.recovery_s is not None for injection in self.injections)
        )


class Campaign:
    """Runs a plan.

    Args:
        folder: for logs, the broker's data and the bundle.
        tell: is given each step in words, and how many of the plan's are done.
    """

    def __init__(self, plan: Plan, folder: Path, tell: Callable[[str, int], None]) -> None:
        self.plan = plan
        self._rng = random.Random(plan.seed)
        self._folder = folder
        self._tell = tell
        self._done = 0
        self._growing = True
        self._zombies: list[Zombie] = []
        self._failures: list[str] = []

    def run(self) -> Result:
        """Do everything, and judge.

        Raises:
            TimeoutError, RuntimeError: the campaign could not go on, for instance because
                workers no longer commit; logs are in its folder.
        """
        started_s = time.monotonic()
        bundle_folder = revealing_bundle(self._folder / "bundle", MANY_EVENTS)
        bundle = load_bundle(bundle_folder, asset_dir("models"))
        with (
            Proxy() as self._proxy,
            LocalKafka(self._folder / "kafka", proxy_port=self._proxy.port) as self._kafka,
        ):
            self._proxy.forward_to(self._kafka.proxied_port)
            brokers = self._kafka.bootstrap_servers
            settings = {
                **_settings(APP_ID, f"{HOST}:{self._proxy.port}", bundle_folder),
                "kafka.client": json.dumps(SHORTENED),
            }
            create_topics(settings, {"machine-state-changelog": CHANGELOG})
            changelog = load(settings).changelog_topic
            compactions = Compactions(self._kafka.data / "topics", changelog)
            with Watch(brokers, APP_ID, SOURCE) as self._watch:
                aborted = self._torture(bundle.spec, settings, compactions)
            undisturbed = _settings(UNDISTURBED, brokers, bundle_folder)
            self._run_undisturbed(undisturbed)
            self._tell("comparing with a plain step over each partition", self._done)
            verdicts = judge(
                bundle, SOURCE, [{**settings, "kafka.brokers": brokers}, undisturbed], PARTITIONS
            )
            written, left = sizes(brokers, changelog)
            return Result(
                plan=self.plan,
                injections=self._watch.injections,
                zombies=self._zombies,
                exits=self._fleet.exits,
                verdict=verdicts[0],
                undisturbed=verdicts[1],
                transactions=transactions.count(brokers, f"{APP_ID}-"),
                input_aborted=aborted,
                compacted=sum(compactions.during(i) > 0 for i in self._watch.injections),
                changelog_written=written,
                changelog_left=left,
                duration_s=time.monotonic() - started_s,
                failures=self._failures,
            )

    def _torture(
        self, spec: ChannelSpec, settings: dict[str, str], compactions: Compactions
    ) -> int:
        """Do what is planned under load; returns how many transactions the input saw aborted."""
        brokers = self._kafka.bootstrap_servers
        source = events(
            spec,
            machines=MACHINES,
            interval_s=INTERVAL_S,
            start_us=now_us() - HISTORY_US,
            seed=self.plan.seed,
            troubled=True,
        )
        aborter = Aborter(brokers, SOURCE, source)
        feeder = Feeder(brokers, SOURCE, source, self.plan.events_per_s)
        with Fleet(settings, self._folder) as self._fleet:
            for background in (compactions, aborter, feeder):
                background.start()
            self._wait_for_events(self._fleet.grow())
            self._inject_all()
            aborter.stop()
            # Until what it left open is aborted: each partition must end with an event.
            time.sleep(ABORTER_S)
            feeder.stop()
            self._tell("waiting until the rest is committed", self._done)
            self._watch.wait_for_all(RECOVERY_DEADLINE_S)
            for instance_id in self._fleet.instance_ids:
                self._shrink(instance_id)
            compactions.stop()
            for exit_ in self._fleet.exits:
                if exit_.status not in EXPECTED_EXITS:
                    self._failures.append(
                        f"worker {exit_.instance_id} ended with {exit_.status}: {exit_.last_line}"
                    )
        return aborter.aborted

    def _inject_all(self) -> None:
        do = {
            "kill -9": self._kill,
            "rebalance": self._rebalance,
            "zombie": self._make_zombie,
            "broker restart": self._restart_broker,
            "network cut": self._cut,
            "network slow": self._slow,
        }
        for kind in self.plan.shuffled(self._rng):
            self._tell(kind, self._done)
            time.sleep(self._rng.uniform(0.1, LONGEST_PAUSE_S))
            do[kind]()
            self._done += 1
            if self._rng.random() >= OVERLAPPING:  # else the next comes during this one's recovery
                self._recover()
        self._recover()

    def _kill(self) -> None:
        self._watch.begin("kill -9")
        self._fleet.kill(self._rng.choice(self._fleet.instance_ids))

    def _rebalance(self) -> None:
        self._recover()
        workers = self._fleet.instance_ids
        if len(workers) in (1, MOST_WORKERS):
            self._growing = len(workers) == 1
        if self._growing:
            begun_s = time.perf_counter()
            self._wait_for_events(self._fleet.grow())
            self._watch.begin("rebalance", begun_s)
        else:
            self._watch.begin("rebalance")
            self._shrink(self._rng.choice(workers))

    def _make_zombie(self) -> None:
        self._recover()
        victim = self._rng.choice(self._fleet.instance_ids)
        self._wait_for_events(victim)
        brokers, transactional_id = self._kafka.bootstrap_servers, f"{APP_ID}-{victim}"
        epoch = transactions.epoch_of(brokers, transactional_id)
        time.sleep(self._rng.random() * COMMIT_S)
        self._watch.begin("zombie")
        worker = self._fleet.freeze(victim)
        frozen_s = time.monotonic()
        replaced = self._rng.random() < 0.5
        if replaced:  # under the same instance id, or by a new one once the session is over
            self._fleet.start(victim)
        successor = victim if replaced else self._fleet.grow()
        self._recover()
        time.sleep(max(0.0, frozen_s + SESSION_S + 1.0 - time.monotonic()))
        woken = transactions.ends(brokers)
        status = self._fleet.thaw(worker, ZOMBIE_END_S)
        commits = sum(
            change.transactional_id == transactional_id
            and change.state in ("committing", "committed")
            and (not replaced or change.epoch <= epoch)
            for change in transactions.changes(brokers, woken)
        )
        self._zombies.append(Zombie(victim, successor, status, commits))

    def _restart_broker(self) -> None:
        self._watch.begin("broker restart")
        self._kafka.kill()
        time.sleep(self._rng.uniform(0.1, 3.0))
        self._kafka.start()

    def _cut(self) -> None:
        self._watch.begin("network cut")
        self._rng.choice((self._proxy.cut, self._proxy.hold))()
        time.sleep(self._rng.uniform(0.3, 4.0))
        self._proxy.mend()

    def _slow(self) -> None:
        self._watch.begin("network slow")
        self._proxy.slow(self._rng.uniform(0.05, 0.2), self._rng.randrange(200_000, 800_000))
        time.sleep(self._rng.uniform(3.0, 6.0))
        self._proxy.mend()

    def _shrink(self, instance_id: str) -> None:
        status = self._fleet.shrink(instance_id)
        if status != 0:
            self._failures.append(f"worker {instance_id} ended with {status} on SIGTERM")

    def _recover(self) -> None:
        if not self._watch.wait(RECOVERY_DEADLINE_S):
            kinds = {i.kind for i in self._watch.injections if i.recovery_s is None}
            raise TimeoutError(f"no recovery within {RECOVERY_DEADLINE_S:.0f} s from {kinds}")

    def _wait_for_events(self, instance_id: str) -> None:
        wait_until(
            lambda: self._fleet.worker(instance_id).metrics().get("events_processed_total", 0) > 0,
            f"worker {instance_id} has processed events",
            RECOVERY_DEADLINE_S,
        )

    def _run_undisturbed(self, settings: dict[str, str]) -> None:
        self._tell("scoring the same events undisturbed", self._done)
        create_topics(settings)
        with (
            Watch(settings["kafka.brokers"], UNDISTURBED, SOURCE) as watch,
            WorkerProcess(settings, self._folder / "undisturbed.log") as worker,
        ):
            watch.wait_for_all(CATCH_UP_S)
            if worker.terminate() != 0:
                self._failures.append("the undisturbed worker did not end in order")


def _settings(app_id: str, brokers: str, bundle: Path) -> dict[str, str]:
    return {
        "kafka.brokers": brokers,
        "topics.sensor_events": SOURCE,
        **{key: f"{app_id}-{stream}" for stream, key in STREAMS.items()},
        "worker.app_id": app_id,
        "worker.instance_id": "0",
        "worker.bundle": str(bundle.resolve()),
        "worker.machine_retention_h": str(RETENTION_H),
    }
