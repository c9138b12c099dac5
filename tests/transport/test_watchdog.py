"""Workers one part of which stands still, as processes on a real Kafka.

All of them run beside one another, because nearly all of their time is waiting.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from load.local_kafka import LocalKafka
from load.worker_process import WorkerProcess
from tests.support.kafka import unique
from tests.transport.conftest import Job, simulated
from worker.models.bundle import Bundle
from worker.transport.watchdog import STOP_DEADLINE_S

WAIT_S = 120.0
TIMEOUT_S = 6
REASONS = {
    "step": r"the step over partition \d, records \d+ to \d+, has not ended",
    "commit": "the commit has not returned",
    "poll": "the polling thread has been blocked",
    "poll-ended": "the polling thread has been dead",
    "event-loop": "the event loop has not answered",
    "restore": r"the state of partitions \[0, 1, 2, 3\] has not come nearer",
    "hand-over": r"\d+ fetched events have waited without one being applied",
    "fetching": r"partition \d has \d+ events more, and none was read",
}
ORDERLY = {"poll-ended", "hand-over", "fetching"}
"""Nothing holds up their end."""


@dataclass
class Observed:
    """What one worker did."""

    worker: WorkerProcess
    log: Path
    answers: list[dict[str, object]] = field(default_factory=list)
    stop_s: float = 0.0

    @property
    def status(self) -> int | None:
        return self.worker.process.poll()

    def watch(self, done: threading.Event) -> None:
        while self.status is None and not done.wait(0.1):
            answer = self.worker.get("/health")
            if answer:
                self.answers.append(json.loads(answer))


@pytest.fixture(scope="module")
def observed(
    kafka: LocalKafka, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Observed]]:
    """All the workers, after those that are stuck have ended."""
    folder = tmp_path_factory.mktemp("stuck")
    job = Job(kafka, bundle, unique("sensor-events"), folder)
    workers: dict[str, Observed] = {}
    with ExitStack() as stack:
        environment = stack.enter_context(pytest.MonkeyPatch.context())
        environment.setenv("STUCK_WHEN", str(folder / "now"))
        for part in [*REASONS, "interpreter", "nothing", "commit-at-stop"]:
            environment.setenv("STUCK_PART", part.removesuffix("-at-stop"))
            timeout_s = 3600 if part == "commit-at-stop" else TIMEOUT_S
            settings = job.settings(unique(part), worker__stall_timeout_s=str(timeout_s))
            log = folder / f"{part}.log"
            worker = WorkerProcess(settings, log, "tests.support.stuck_worker")
            workers[part] = Observed(stack.enter_context(worker), log)
        for part, seen in workers.items():
            if part != "restore":
                seen.worker.wait_until_healthy(WAIT_S)
        (folder / "now").touch()
        job.feed(simulated(bundle, 2_000))
        stopped = workers["commit-at-stop"]
        stopped.worker.wait_for_events(1, WAIT_S)
        stopped.worker.process.terminate()
        terminated_s = time.monotonic()
        deadline_s = time.monotonic() + WAIT_S
        done = threading.Event()
        # Each by a thread of its own: one that answers slowly would hide what others say.
        pool = stack.enter_context(ThreadPoolExecutor(len(workers)))
        stack.callback(done.set)
        for part, seen in workers.items():
            if part not in ("event-loop", "interpreter"):  # they would not answer
                pool.submit(seen.watch, done)
        while any(seen.status is None for part, seen in workers.items() if part != "nothing"):
            assert time.monotonic() < deadline_s, {p: seen.status for p, seen in workers.items()}
            if stopped.status is None:
                stopped.stop_s = time.monotonic() - terminated_s
            time.sleep(0.05)
        done.set()
        yield workers


@pytest.mark.parametrize("part", sorted(REASONS))
def test_a_worker_that_is_stuck_ends_itself_with_the_reason_and_the_last_things_done(
    observed: dict[str, Observed], part: str
) -> None:
    seen = observed[part]
    log = seen.log.read_text()
    assert seen.status == 70, log
    assert re.search(rf"\[error\] the worker is stuck: {REASONS[part]} for 6 s", log), log
    assert re.search(r"^  \d+\.\d s ago: owns partitions \[0, 1, 2, 3\]$", log, re.MULTILINE), log
    assert re.search(r"^  kafka-poller: |^  MainThread: ", log, re.MULTILINE), log
    if part in ORDERLY:
        assert "error: the worker is stuck" in log
        assert "ends at once" not in log
    else:
        assert "ends at once, a thread does not return" in log


@pytest.mark.parametrize("part", sorted(REASONS.keys() - {"event-loop"}))
def test_health_says_stalled_and_why_before(observed: dict[str, Observed], part: str) -> None:
    stalled = [answer for answer in observed[part].answers if answer["status"] == "stalled"]
    assert stalled
    assert re.match(f"{REASONS[part]} for [3-6] s", str(stalled[0]["reason"]))
    before = observed[part].answers[: observed[part].answers.index(stalled[0])]
    assert {answer["status"] for answer in before} <= {"healthy", "starting"}


def test_a_thread_that_keeps_the_interpreter_to_itself_is_ended_as_well(
    observed: dict[str, Observed],
) -> None:
    log = observed["interpreter"].log.read_text()
    assert observed["interpreter"].status == 1
    assert "Timeout (0:00:12)!" in log
    assert "sleep_with_the_interpreter_lock" in log


def test_an_idle_worker_is_left_alone(observed: dict[str, Observed]) -> None:
    seen = observed["nothing"]
    assert {answer["status"] for answer in seen.answers} == {"healthy"}
    assert seen.worker.terminate() == 0
    assert "not ready any more" not in seen.log.read_text()


def test_a_stop_is_bounded_also_when_the_last_commit_does_not_return(
    observed: dict[str, Observed],
) -> None:
    seen = observed["commit-at-stop"]
    assert seen.status == 70
    assert seen.stop_s < STOP_DEADLINE_S + 10
    assert "the worker did not stop within 20 s of being told to" in seen.log.read_text()
