"""The torture campaign in short, and that its verdict catches what it is there to catch."""

from __future__ import annotations

import io
import json
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka import Producer
from rich.console import Console

from load import transactions
from load.feed import Feeder, events
from load.local_kafka import LocalKafka
from load.records import QUIET, unique, wait_until
from load.torture.campaign import Campaign, Plan, Result, Zombie
from load.torture.fleet import Exit, Fleet
from load.torture.recovery import Injection, Watch
from load.torture.report import figures, tables
from load.verdict import MANY_EVENTS, Verdict, judge, revealing_bundle
from load.worker_process import WorkerProcess
from tests.transport.conftest import Job
from worker.gateway import now_us
from worker.models.bundle import load_bundle

WAIT_S = 60.0
PLAN = Plan(
    kills=2,
    rebalances=1,
    zombies=1,
    broker_restarts=1,
    network_cuts=1,
    slow_networks=0,
    events_per_s=600,
    seed=5,
)


@pytest.mark.kafka
@pytest.mark.timeout(600)  # what it waits for has deadlines of its own
def test_a_short_campaign_loses_doubles_and_changes_nothing(tmp_path: Path) -> None:
    steps: list[str] = []
    result = Campaign(PLAN, tmp_path, lambda step, _: steps.append(step)).run()

    assert result.passed, figures(result)
    assert Counter(i.kind for i in result.injections) == Counter(steps[: PLAN.injections])
    assert len(result.injections) == PLAN.injections == 6
    assert result.verdict.records == result.undisturbed.records > 5_000
    assert result.verdict.outputs == result.undisturbed.outputs > result.verdict.records / 20
    assert [zombie.fenced for zombie in result.zombies] == [True]
    assert result.transactions["aborted"] > 0
    assert result.input_aborted > 0
    assert result.changelog_left < result.changelog_written  # compacted, and markers


@dataclass
class Trial:
    """A worker with a bug put in on purpose, under load, and what is made of its traces."""

    job: Job
    settings: dict[str, str]
    feeder: Feeder
    watch: Watch
    bad: WorkerProcess

    def verdict(self) -> Verdict:
        """Of everything in the input, once the group has committed it."""
        self.watch.wait_for_all(WAIT_S)
        (verdict,) = judge(self.job.bundle, self.job.source, [self.settings], 4)
        return verdict


@pytest.fixture
def trial(
    job: Job, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Trial]:
    folder = revealing_bundle(job.folder / "bundle", MANY_EVENTS)
    job = replace(job, bundle=load_bundle(folder, job.folder))
    start_us = now_us() - 24 * 3600 * 1_000_000
    source = events(
        job.bundle.spec, machines=50, interval_s=15.0, start_us=start_us, seed=4, troubled=True
    )
    settings = job.settings(
        unique(request.param),
        kafka__client='{"session.timeout.ms": "6000"}',
        worker__bundle=str(folder),
    )
    brokers, app_id = settings["kafka.brokers"], settings["worker.app_id"]
    monkeypatch.setenv("MUTANT", request.param)
    feeder = Feeder(brokers, job.source, source, 500)
    feeder.start()
    with (
        Watch(brokers, app_id, job.source) as watch,
        WorkerProcess(settings, job.folder / "bad.log", "tests.support.mutant_worker") as bad,
    ):
        yield Trial(job, settings, feeder, watch, bad)
        if bad.process.poll() is None:
            bad.kill()


@pytest.mark.parametrize("trial", ["offsets-before-state"], indirect=True)
def test_offsets_that_are_committed_before_state_are_caught(trial: Trial) -> None:
    assert trial.bad.process.wait(WAIT_S) == -signal.SIGKILL
    trial.feeder.stop()
    with trial.job.worker(trial.settings) as good:
        verdict = trial.verdict()
        assert good.terminate() == 0
    assert not verdict.flawless
    assert not verdict.state_identical


@pytest.mark.parametrize("trial", ["no-fence"], indirect=True)
def test_a_zombie_that_is_not_fenced_is_caught(trial: Trial) -> None:
    process = psutil.Process(trial.bad.process.pid)
    wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "the mutant stops", WAIT_S)
    trial.feeder.stop()
    with trial.job.worker({**trial.settings, "worker.instance_id": "1"}) as good:
        trial.watch.wait_for_all(WAIT_S)
        trial.bad.process.send_signal(signal.SIGCONT)
        assert trial.bad.process.wait(WAIT_S) == -signal.SIGKILL
        assert good.terminate() == 0
    (verdict,) = judge(trial.job.bundle, trial.job.source, [trial.settings], 4)
    assert verdict.duplicated > 0
    assert not verdict.flawless


@pytest.mark.parametrize("trial", ["a-chunk-twice"], indirect=True)
def test_a_chunk_that_is_applied_twice_is_caught(trial: Trial) -> None:
    trial.bad.wait_for_events(trial.feeder.sent + 1, WAIT_S)
    trial.feeder.stop()
    verdict = trial.verdict()
    assert trial.bad.terminate() == 0
    assert verdict.duplicated > 0
    assert not verdict.state_identical
    assert any("too many" in example for example in verdict.examples)


def test_the_broker_tells_commits_from_aborts_and_processes_by_their_epoch(
    kafka: LocalKafka, job: Job
) -> None:
    brokers, name = kafka.bootstrap_servers, unique("transactional")
    config = {"bootstrap.servers": brokers, "transactional.id": name}
    woken: dict[int, int] = {}
    for end in (Producer.commit_transaction, Producer.abort_transaction):
        woken = transactions.ends(brokers)
        producer = Producer(config, logger=QUIET)
        producer.init_transactions(WAIT_S)
        producer.begin_transaction()
        producer.produce(job.source, b"in a transaction")
        producer.flush(WAIT_S)
        end(producer, WAIT_S)

    def seen(since: dict[int, int] | None) -> list[tuple[int, str]]:
        found = transactions.changes(brokers, since)
        return [(c.epoch, c.state) for c in found if c.transactional_id == name]

    wait_until(lambda: (1, "aborted") in seen(None), "the abort is noted", WAIT_S)
    assert (0, "committed") in seen(None)
    assert {epoch for epoch, _ in seen(woken)} == {1}
    assert "committed" not in {state for _, state in seen(woken)}
    assert transactions.epoch_of(brokers, name) == 1
    assert transactions.count(brokers, name)["aborted"] == 1


def test_a_worker_that_ends_is_started_again_and_the_reason_kept(
    kafka: LocalKafka, tmp_path: Path
) -> None:
    settings = {"kafka.brokers": kafka.bootstrap_servers, "topics.sensor_events": "missing"}
    with Fleet(settings, tmp_path) as fleet:
        instance_id = fleet.grow()
        wait_until(lambda: fleet.starts >= 2, "the worker was started again", WAIT_S)
    assert fleet.exits[0].instance_id == instance_id == "0"
    assert fleet.exits[0].status == 69
    assert "missing" in fleet.exits[0].last_line


def make_result(**more: Any) -> Result:
    injections = [
        Injection("kill -9", 0.0, {}, 2.0),
        Injection("kill -9", 0.0, {}, 4.0),
        Injection("network cut", 0.0, {}, 1.0),
    ]
    facts: dict[str, Any] = {
        "plan": PLAN,
        "injections": injections,
        "zombies": [Zombie("0", "1", 75, 0)],
        "exits": [Exit("1", 75, "error: gone")],
        "verdict": Verdict(10, 10),
        "undisturbed": Verdict(10, 10),
        "transactions": Counter(committed=3, aborted=1),
        "input_aborted": 2,
        "compacted": 1,
        "changelog_written": 100,
        "changelog_left": 10,
        "duration_s": 5.0,
        "failures": [],
    }
    return Result(**(facts | more))


def test_the_report_has_the_headline_figures_and_recovery_times() -> None:
    told = figures(make_result())
    assert list(told) == [
        "kills",
        "rebalances",
        "zombies",
        "broker_restarts",
        "network_cuts",
        "lost",
        "duplicated",
        "state_identical",
        "detail",
    ]
    assert (told["kills"], told["network_cuts"], told["lost"]) == (2, 1, 0)
    assert told["detail"]["rows"][0] == {
        "kind": "kill -9",
        "injected": 2,
        "recovered": 2,
        "median_s": 3.0,
        "longest_s": 4.0,
    }
    json.dumps(told)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(tables(make_result()))
    text = console.export_text()
    assert "3.0 s" in text
    assert "1 of 1 fenced" in text


@pytest.mark.parametrize(
    "flaw",
    [
        {"verdict": Verdict(10, 10, lost=1)},
        {"verdict": Verdict(10, 10, duplicated=1)},
        {"verdict": Verdict(10, 10, state_identical=False)},
        {"undisturbed": Verdict(10, 10, lost=1)},
        {"zombies": [Zombie("0", "1", 75, 1)]},
        {"zombies": [Zombie("0", "1", 0, 0)]},
        {"zombies": [Zombie("0", "1", None, 0)]},
        {"injections": [Injection("kill -9", 0.0, {})]},
        {"failures": ["worker 0 ended with 65: error: damaged"]},
    ],
)
def test_a_campaign_with_any_flaw_has_not_passed(flaw: dict[str, Any]) -> None:
    assert make_result().passed
    assert not make_result(**flaw).passed
