from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.core.strategies import START_US, Raw, chunk_of, make_spec
from worker.core.events import (
    EARLIEST_US,
    LATEST_US,
    MAX_DETAIL_CHARS,
    MAX_NESTING,
    Chunk,
    EventDecoder,
    Readings,
    Reject,
)
from worker.core.messages import DEAD_LETTER_REASONS, FIRST_MICROSECONDS, MAX_EVENT_BYTES

SPEC = make_spec()
DECODER = EventDecoder(SPEC)
START_MS = START_US // 1000
PLAIN = b'{"machine_id":"m","c0":1.5}'


def decode(
    value: bytes | None, key: bytes | None = b"m", timestamp_ms: int = START_MS
) -> tuple[Readings, list[Reject]]:
    return DECODER.decode(chunk_of([Raw(key, value, timestamp_ms)]))


def reject(
    value: bytes | None, key: bytes | None = b"m", timestamp_ms: int = START_MS
) -> tuple[str, str]:
    readings, rejects = decode(value, key, timestamp_ms)
    assert len(readings.rows) == 0
    (only,) = rejects
    assert only.row == 0
    assert only.reason in DEAD_LETTER_REASONS
    assert only.detail
    return only.reason, only.detail


def event(**fields: Any) -> bytes:
    return json.dumps({"machine_id": "m", "c0": 1.5} | fields).encode()


def time_of(timestamp: str, record_ms: int = START_MS) -> int:
    """Event time of an event with this timestamp, given as JSON."""
    value = b'{"machine_id":"m","c0":1,"timestamp":%b}' % timestamp.encode()
    readings, rejects = decode(value, timestamp_ms=record_ms)
    assert rejects == []
    return int(readings.times_us[0])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b" ", "malformed-json"),
        (b"null", "invalid-field"),
        (b"[]", "invalid-field"),
        (b"7", "invalid-field"),
        (b'"m"', "invalid-field"),
        (b"{}", "invalid-field"),
        (b"hello", "malformed-json"),
        (b"\x00\x01", "malformed-json"),
        (b"\x80abc", "not-utf8"),
        (b'{"machine_id":"\xff","c0":1}', "not-utf8"),
        (b"\xff\xfe{\x00}\x00", "not-utf8"),
        (b"\xef\xbb\xbf" + PLAIN, "malformed-json"),
        (PLAIN[:-1], "malformed-json"),
        (PLAIN + b"}", "malformed-json"),
        (PLAIN + PLAIN, "malformed-json"),
        (b'{"machine_id":"m","c0":NaN}', "malformed-json"),
        (b'{"machine_id":"m","c0":Infinity}', "malformed-json"),
        (b'{"machine_id":"m","c0":-Infinity}', "malformed-json"),
        (b'{"machine_id":"m","c0":1e999}', "invalid-field"),
        (b'{"machine_id":"m","c0":' + b"9" * 400 + b"}", "invalid-field"),
        (b'{"machine_id":"m","c0":01}', "malformed-json"),
        (event(c0="1.5"), "invalid-field"),
        (event(c0=True), "invalid-field"),
        (event(c0=[1.5]), "invalid-field"),
        (event(c0={}), "invalid-field"),
        (event(mode="C"), "invalid-field"),
        (event(mode=1), "invalid-field"),
        (b'{"c0":1.5}', "invalid-field"),
        (event(machine_id=""), "invalid-field"),
        (event(machine_id=7), "invalid-field"),
        (event(machine_id=None), "invalid-field"),
        (event(machine_id="m" * 257), "invalid-field"),
        (b'{"machine_id":"\\ud800","c0":1}', "malformed-json"),
        (event(c0=None), "no-usable-channel"),
        (b'{"machine_id":"m"}', "no-usable-channel"),
        (event(mode="A", c0=None), "no-usable-channel"),
        (event(c0=1e5), "no-usable-channel"),
        (event(c0=-1e300, c1=1e31), "no-usable-channel"),
        (event(timestamp="2026-03-02T06:15:30"), "invalid-field"),
        (event(timestamp="yesterday"), "invalid-field"),
        (event(timestamp=""), "invalid-field"),
        (event(timestamp=1772432130.25), "invalid-field"),
        (event(timestamp=-1), "invalid-field"),
        (event(timestamp=2**63), "invalid-field"),
        (event(timestamp=True), "invalid-field"),
        (event(timestamp=0), "timestamp-out-of-range"),
        (event(timestamp=1_772_432_130), "timestamp-out-of-range"),
        (event(timestamp="0001-01-01T00:00:00+14:00"), "timestamp-out-of-range"),
        (event(timestamp="0001-01-01T00:00:00Z"), "timestamp-out-of-range"),
        (event(timestamp="9999-12-31T23:59:59.999999-12:00"), "timestamp-out-of-range"),
        (event(timestamp=FIRST_MICROSECONDS - 1), "timestamp-out-of-range"),
        (event(timestamp=2**62), "timestamp-out-of-range"),
        (event(timestamp=EARLIEST_US - 1), "timestamp-out-of-range"),
        (event(timestamp=LATEST_US), "timestamp-out-of-range"),
        (event(timestamp="2099-12-31T23:59:59Z"), "timestamp-in-future"),
    ],
)
def test_what_is_no_event_is_rejected_with_its_reason(value: bytes | None, reason: str) -> None:
    assert reject(value)[0] == reason


@pytest.mark.parametrize(
    ("timestamp", "time_us"),
    [
        ("null", START_MS * 1000),
        (str(START_MS - 1), START_US - 1000),
        (str(START_US - 1), START_US - 1),
        ('"2026-03-02T06:15:30.250Z"', START_US),
        ('"2026-03-02T06:15:30.249999Z"', START_US - 1),
        ('"2026-03-02T06:15:30.249999999Z"', START_US),
        ('"2026-03-02t06:15:30.250z"', START_US),
        ('"2026-03-02 06:15:30.25+00:00"', START_US),
        ('"2026-03-02T20:15:30.250+14:00"', START_US),
        ('"2026-03-01T18:15:30.250-12:00"', START_US),
        ('"2000-01-01T00:00:00Z"', EARLIEST_US),
    ],
)
def test_a_timestamp_is_text_with_an_offset_or_epoch_milli_or_microseconds(
    timestamp: str, time_us: int
) -> None:
    assert time_of(timestamp) == time_us


@pytest.mark.parametrize("seconds", [EARLIEST_US // 10**6, 2_147_483_647, 4_102_444_799])
@pytest.mark.parametrize("micros", [0, 1, 249_999, 499_999, 500_001, 999_999])
def test_every_microsecond_of_a_text_timestamp_counts(seconds: int, micros: int) -> None:
    text = f"{np.datetime64(seconds, 's')}.{micros:06d}Z"
    assert time_of(f'"{text}"', LATEST_US // 1000) == seconds * 10**6 + micros


def test_the_future_begins_beyond_max_future_after_the_records_kafka_timestamp() -> None:
    limit_us = START_MS * 1000 + SPEC.max_future_us
    assert time_of(str(limit_us)) == limit_us
    reason, detail = reject(event(timestamp=limit_us + 1))
    assert reason == "timestamp-in-future"
    assert "300.000 s ahead" in detail
    assert time_of(str(limit_us + 1), record_ms=START_MS + 1) == limit_us + 1


@pytest.mark.parametrize("record_ms", [-(2**63), -(2**62), -1, 2**53, 2**62, 2**63 - 1])
def test_kafka_timestamps_that_no_clock_shows_do_not_wrap_around(record_ms: int) -> None:
    assert reject(PLAIN, timestamp_ms=record_ms)[0] == "timestamp-out-of-range"
    with_time = event(timestamp=START_US)
    if record_ms < 0:
        assert reject(with_time, timestamp_ms=record_ms)[0] == "timestamp-in-future"
    else:
        assert decode(with_time, timestamp_ms=record_ms)[0].times_us.tolist() == [START_US]


@pytest.mark.parametrize("key", [None, b"", b"M", b"m ", b"\xff", b"x" * 10**6])
def test_a_key_other_than_the_machine_id_is_rejected_and_shown_in_part(key: bytes | None) -> None:
    reason, detail = reject(PLAIN, key)
    assert reason == "key-mismatch"
    assert "'m'" in detail
    assert len(detail) < 400


def test_a_value_may_be_as_long_as_the_limit_and_no_longer() -> None:
    padding = MAX_EVENT_BYTES - len(event(note=""))
    assert decode(event(note="x" * padding))[1] == []
    reason, detail = reject(event(note="x" * (padding + 1)))
    assert reason == "too-large"
    assert str(MAX_EVENT_BYTES + 1) in detail


def test_the_detail_of_a_reject_is_bounded() -> None:
    assert len(reject(event(mode="z" * 60_000))[1]) == MAX_DETAIL_CHARS


def test_unknown_fields_are_ignored_and_the_last_of_equal_fields_counts() -> None:
    value = b'{"x":{"y":[1,{}]},"c0":"?","machine_id":"m","c0":2,"c1":3,"\\u0063\\u0031":4}'
    readings, rejects = decode(value.replace(b'"c0":"?",', b'"c0":1,'))
    assert rejects == []
    assert readings.values.tolist() == [[2.0, 4.0]]
    assert reject(value)[0] == "invalid-field"


def nested(depth: int, around: str = "[]") -> bytes:
    """An event, itself one level, whose unknown field makes it `depth` levels deep."""
    inner = around[0] * (depth - 1) + around[1] * (depth - 1)
    if around == "{}":
        inner = '{"x":' * (depth - 2) + "{}" + "}" * (depth - 2)
    return b'{"machine_id":"m","c0":1,"x":%b}' % inner.encode()


@pytest.mark.parametrize("around", ["[]", "{}"])
def test_unknown_fields_may_be_nested_to_a_fixed_depth(around: str) -> None:
    assert decode(nested(MAX_NESTING, around))[1] == []
    assert reject(nested(MAX_NESTING + 1, around))[0] == "malformed-json"
    assert reject(nested(10_000, around))[0] == "malformed-json"


def test_long_flat_fields_and_brackets_in_text_are_not_nesting() -> None:
    assert decode(event(note='[{"' * 5_000))[1] == []
    assert decode(event(note="\\[" * 5_000))[1] == []
    assert decode(event(points=[[x, {}] for x in range(2_000)]))[1] == []


def test_a_value_full_of_quotes_is_judged_in_linear_time() -> None:
    hostile = b"[" * (MAX_NESTING + 1) + b'"' + b'\\"' * 32_000
    assert reject(hostile)[0] == "malformed-json"


def at_depth(frames: int, call: Callable[[], Any]) -> Any:
    return call() if frames == 0 else at_depth(frames - 1, call)


@pytest.mark.parametrize("depth", [50, MAX_NESTING, 300, 500, 700, 900])
def test_the_verdict_on_nesting_depends_on_neither_the_callers_stack_nor_the_chunk(
    depth: int,
) -> None:
    record = Raw(b"m", nested(depth), START_MS)
    frames = sys.getrecursionlimit() // 2
    alone = [r.reason for r in DECODER.decode(chunk_of([record]))[1]]
    deep = at_depth(frames, lambda: DECODER.decode(chunk_of([record])))[1]
    beside_broken = DECODER.decode(chunk_of([record, Raw(b"m", b"{", 0)]))[1]
    beside_plain = DECODER.decode(chunk_of([record, Raw(b"m", PLAIN, START_MS)]))[1]
    assert [r.reason for r in deep] == alone
    assert [r.reason for r in beside_broken] == [*alone, "malformed-json"]
    assert [r.reason for r in beside_plain] == alone


def test_a_reading_outside_its_physical_range_is_marked() -> None:
    readings, rejects = decode(event(c0=10_001, c1=-5))
    assert rejects == []
    assert readings.values[0].tolist() == [10_001.0, -5.0]
    assert readings.impossible[0].tolist() == [True, False]


def test_readings_and_rejects_together_are_all_records_in_order() -> None:
    values = [PLAIN, b"{", event(mode="B"), None, event(timestamp=0), PLAIN, event(c0=None)]
    readings, rejects = DECODER.decode(chunk_of([Raw(b"m", v, START_MS) for v in values], 100))
    assert readings.rows.tolist() == [0, 2, 5]
    assert readings.categories == {"mode": [None, "B", None]}
    assert readings.machine_ids == [b"m"] * 3
    assert [(r.row, r.reason) for r in rejects] == [
        (1, "malformed-json"),
        (3, "empty"),
        (4, "timestamp-out-of-range"),
        (6, "no-usable-channel"),
    ]


def test_an_empty_chunk_has_neither_readings_nor_rejects() -> None:
    readings, rejects = DECODER.decode(chunk_of([]))
    assert (len(readings.rows), readings.values.shape, rejects) == (0, (0, 2), [])


def test_a_machine_id_is_any_unicode_text() -> None:
    for machine in ("a|b", "Fräse 7", "\u0000", "\U0001f3ed", "m" * 256):
        value = event(machine_id=machine)
        readings, rejects = decode(value, machine.encode())
        assert rejects == []
        assert readings.machine_ids == [machine.encode()]


def test_a_channel_may_be_named_like_a_python_keyword() -> None:
    from worker.core.channels import parse_spec

    spec = parse_spec('name = "x"\nchannel = [{ name = "class" }, { name = "from" }]')
    value = b'{"machine_id":"m","class":1,"from":2}'
    readings, _ = EventDecoder(spec).decode(chunk_of([Raw(b"m", value, START_MS)]))
    assert readings.values.tolist() == [[1.0, 2.0]]


def test_since_keeps_the_records_at_or_after_an_offset() -> None:
    chunk: Chunk = chunk_of([Raw(b"m", PLAIN, i) for i in range(4)])
    chunk.offsets[:] = [10, 12, 15, 20]
    assert chunk.since(5) is chunk
    assert chunk.since(10) is chunk
    assert chunk.since(11).offsets.tolist() == [12, 15, 20]
    assert chunk.since(15).timestamps_ms.tolist() == [2, 3]
    assert len(chunk.since(21)) == 0
