from __future__ import annotations

import threading
from collections.abc import Callable
from typing import cast

from tests.support.kafka import wait_until
from worker.assets import asset_dir
from worker.core.channels import parse_spec
from worker.demo.gateway import MAX_BACKLOG_BYTES, MAX_STEP_EVENTS, Gateway
from worker.gateway import KafkaSink, now_us
from worker.simulator import Simulator

SPEC = parse_spec((asset_dir("models") / "machine-health/channels.toml").read_text())
DAY_US = 86_400_000_000


class Sink:
    def __init__(self) -> None:
        self.sent: list[tuple[bytes, bytes]] = []
        self.longest = 0
        self.closed = False

    def send(self, events: list[tuple[bytes, bytes]]) -> None:
        self.sent += events
        self.longest = max(self.longest, len(events))

    def close(self) -> None:
        self.closed = True


def start(processed: Callable[[Sink], int]) -> tuple[Gateway, Sink, threading.Thread]:
    simulator = Simulator(SPEC, start_us=now_us() - 2 * DAY_US, machines=50, seed=1)
    sink = Sink()
    gateway = Gateway(simulator, cast("KafkaSink", sink), 1e6, 5.0, lambda: processed(sink))
    thread = threading.Thread(target=gateway.run)
    thread.start()
    return gateway, sink, thread


def size(sink: Sink) -> int:
    return sum(len(value) for _, value in sink.sent)


def test_it_waits_for_a_worker_that_falls_behind() -> None:
    done = 0
    gateway, sink, thread = start(lambda _: done)
    try:
        wait_until(lambda: size(sink) > MAX_BACKLOG_BYTES, "the backlog is full")
        stopped_at = len(sink.sent)
        thread.join(0.3)
        assert size(sink) < 1.5 * MAX_BACKLOG_BYTES
        assert len(sink.sent) - stopped_at <= MAX_STEP_EVENTS * 1.5
        done = len(sink.sent)
        wait_until(lambda: len(sink.sent) > done, "it goes on when the worker is done")
    finally:
        gateway.stop()
        thread.join(30)
    assert not thread.is_alive()
    assert sink.closed
    assert gateway.produced == len(sink.sent)
    assert sink.longest < 1.5 * MAX_STEP_EVENTS


def test_the_truth_covers_all_that_was_published() -> None:
    gateway, _, thread = start(lambda sink: len(sink.sent))
    try:
        wait_until(lambda: gateway.produced > 50_000, "events are published")
    finally:
        gateway.stop()
        thread.join(30)
    assert gateway.truth.end_us == gateway.done_us
    assert set(gateway.latest) == {machine.encode() for machine in gateway.truth.machines}
