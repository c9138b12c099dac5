"""100,000 payloads that no well-behaved gateway sends."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.strategies import START_US, Raw, chunk_of, make_pipeline, make_spec, read_back
from worker.core.messages import (
    DEAD_LETTER_REASONS,
    MAX_EVENT_BYTES,
    MAX_PAYLOAD_BYTES,
    Anomaly,
    DeadLetter,
    Episode,
    LateEvent,
    SensorHealth,
)
from worker.core.outgoing import Outputs
from worker.core.rows import Layout
from worker.core.state import PartitionState

SPEC = make_spec(3)
PIPELINE = make_pipeline(SPEC)
PAYLOADS = 100_000
START_MS = START_US // 1000

TESTED_ELSEWHERE = {"too-large", "too-many-machines", "invalid-partial"}
NOTICES = [
    "null", "[]", "{}", '{"from": 5}', '{"from": 5, "until": 4}', '{"from": 5, "until": 5}',
    *(f'{{"from": {START_US + k}, "until": {START_US + 2 * k}, "relearn": true}}'
      for k in range(9, 90_000_000, 9_000_000)),
    f'{{"from": "2026-03-02T06:15:00Z", "until": {START_MS + 60_000}}}',
    f'{{"from": {START_US}, "until": "2026-03-02T06:16:00Z", "relern": true}}',
    f'{{"from": {START_US}, "until": {2**62}}}',
]  # fmt: skip
TYPES = {
    "anomalies": Anomaly,
    "anomaly-episodes": Episode,
    "sensor-health": SensorHealth,
    "late-events": LateEvent,
    "dead-letters": DeadLetter,
}
DECODERS = {stream: msgspec.json.Decoder(type_, strict=True) for stream, type_ in TYPES.items()}

JUNK: list[str] = [
    "null", "true", "false", "[]", "{}", "[[[]]]", '{"a":{"b":[1,2,{"c":null}]}}', '""', '"x"',
    "0", "-0", "-0.0", "1e999", "-1e999", "1e308", "1.7976931348623157e308", "5e-324", "1e-999",
    "9" * 30, "9" * 400, "-" + "9" * 25, "0." + "1" * 400, "NaN", "nan", "Infinity", "-Infinity",
    "inf", "1.", ".5", "+1", "01", "0x10", "1_000", "1e", "--1", '"1.5"', '"NaN"', '"\\ud800"',
    '"\\udc00\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"', '"\\x"', '"\\', '"' + "z" * 2000 + '"',
    "18446744073709551616", "9223372036854775808", "-9223372036854775809", "4611686018427387904",
    "[" * 50 + "]" * 50, "[" * 2000 + "]" * 2000, "[" * 2000, '{"a":' * 500 + "1" + "}" * 500,
    "1e30", "1.0000000000000001e30", "-1e30", "1e31", "10000", "10000.000001", "-10001",
]  # fmt: skip

TIMESTAMPS: list[str] = [
    str(START_MS), str(START_US), str(START_MS // 1000), f"{START_MS / 1000}", f"{START_MS}.0",
    str(START_US * 1000), "-1", "0", "99999999999999", "100000000000000", "1e12",
    "4611686018427387904", "9223372036854775807", "null", '"2026-03-02T06:15:30Z"',
    '"2026-03-02T20:15:30.250+14:00"',
    '"2026-03-01T18:15:30-12:00"', '"2026-03-02T06:15:30"', '"2026-03-02"',
    '"2026-13-45T99:99:99Z"',
    '"0001-01-01T00:00:00Z"', '"0001-01-01T00:00:00+14:00"', '"9999-12-31T23:59:59.999999Z"',
    '"9999-12-31T23:59:59.9999999Z"', '"9999-12-31T23:59:59-14:00"', '"0000-01-01T00:00:00Z"',
    '"2026-03-02T06:15:60Z"', '"2024-02-29T00:00:00Z"', '"2025-02-29T00:00:00Z"',
    '"2026-03-02T06:15:30+24:00"', '"2026-03-02T06:15:30.123456789012Z"', '"-2026-03-02T06:15:30Z"',
    '"1969-12-31T23:59:59Z"', '"2099-12-31T23:59:59.999999Z"', '"Mon, 02 Mar 2026 06:15:30 GMT"',
    str(START_US - 90_000_000), str(START_US - 90_000_001), str(START_US + 300_000_000),
    str(START_US + 300_000_001),
]  # fmt: skip

KEYS: list[bytes | None] = [None, b"", b"m0", b"\xff\xfe", b"k" * 70_000, b"M0", b"m0\x00"]

RECORD_TIMES_MS = [START_MS, START_MS, START_MS, START_MS + 1, 0, -1, -(2**63), 2**63 - 1, 2**53]


def event(rng: random.Random) -> tuple[bytes, dict[str, str]]:
    """A machine and the fields of a good event, each as JSON text."""
    machine = f"m{rng.randrange(20)}"
    fields = {
        "machine_id": json.dumps(machine),
        "timestamp": str(START_US + rng.randrange(-100_000_000, 100_000_000)),
        "c0": str(rng.gauss(0, 100)),
        "c1": str(rng.gauss(0, 100)),
        "c2": str(rng.gauss(0, 4000)),
        "mode": rng.choice(('"A"', '"B"')),
    }
    return machine.encode(), fields


def text_of(items: Sequence[tuple[str, str]]) -> bytes:
    return ("{" + ",".join(f'"{name}":{value}' for name, value in items) + "}").encode()


def fuzzed(rng: random.Random) -> Raw:
    """One record: a good event with one to three things wrong with it, or nothing like one."""
    key: bytes | None
    key, fields = event(rng)
    record_ms = START_MS
    items = list(fields.items())
    value: bytes | None = None
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        match rng.randrange(14):
            case 13:
                items.append(("maintenance", rng.choice(NOTICES)))
            case 0 | 1:
                place = rng.randrange(len(items))
                items[place] = (items[place][0], rng.choice(JUNK))
            case 2:
                items.append(("timestamp", rng.choice(TIMESTAMPS)))
            case 3:
                del items[rng.randrange(len(items))]
                items = items or [("c0", "1")]
            case 4:
                items.append((rng.choice(("x", "", "c9", "\\u0063\\u0030")), rng.choice(JUNK)))
            case 5:
                items.insert(rng.randrange(len(items) + 1), rng.choice(items))
            case 6:
                key = rng.choice(KEYS)
            case 7:
                record_ms = rng.choice(RECORD_TIMES_MS)
            case 8:
                value = text_of(items)
                value = value[: rng.randrange(len(value) + 1)]
            case 9:
                broken = bytearray(text_of(items))
                for _ in range(rng.randrange(1, 5)):
                    broken[rng.randrange(len(broken))] = rng.randrange(256)
                value = bytes(broken)
            case 10:
                affixes = (b"\xef\xbb\xbf", b" \n\t", b"\x00", b"//", b"\xff", b",", b"{}")
                value = rng.choice(affixes) + text_of(items) + rng.choice(affixes)
            case 11:
                reading = rng.choice(("null", "1e31", "-1e31"))
                items = [(name, reading if name.startswith("c") else text) for name, text in items]
            case 12:
                value = rng.choice(
                    (None, b"", b"null", b"{}", b"\x00\x00\x00\x00\x07", rng.randbytes(40))
                )
                return Raw(key, value, record_ms)
    return Raw(key, value if value is not None else text_of(items), record_ms)


def check(raws: Sequence[Raw], first_offset: int, outputs: Outputs) -> None:
    """Every record is scored, late or dead, and every message can be read again."""
    assert outputs.events == len(raws)
    assert outputs.events == outputs.scored + outputs.late + outputs.dead.total()
    assert outputs.dead.keys() <= DEAD_LETTER_REASONS.keys()
    assert Counter(record.stream for record in outputs.records) == +Counter(
        {
            "anomalies": outputs.anomalies,
            "anomaly-episodes": outputs.episodes.total(),
            "sensor-health": outputs.health.total(),
            "late-events": outputs.late,
            "dead-letters": outputs.dead.total(),
        }
    )
    seen = set()
    for record in outputs.records:
        message = DECODERS[record.stream].decode(record.value)
        # The messages' numbers are written by the encoder, so these are no one's text.
        assert msgspec.json.encode(message, order="deterministic") == record.value
        if isinstance(message, Episode | SensorHealth):
            continue
        if isinstance(message, Anomaly):
            offset = int(message.id.rpartition("-")[2])
            assert -1.0 <= message.anomaly_score < message.threshold
            assert 0.0 <= message.confidence <= 1.0
            assert len(message.reason) < 500
            assert all(v is None or math.isfinite(v) for v in message.values.values())
        else:
            offset = message.origin.offset
        row = offset - first_offset
        assert row not in seen
        seen.add(row)
        given_key, payload = raws[row].key, raws[row].value
        if isinstance(message, DeadLetter):
            kept = None if payload is None else payload[:MAX_PAYLOAD_BYTES]
            assert (None if message.payload is None else base64.b64decode(message.payload)) == kept
            assert message.payload_bytes == len(payload or b"")
            assert len(message.detail) <= 500
            if payload is not None:
                assert message.payload_sha256 == hashlib.sha256(payload).hexdigest()
        else:
            assert record.key == given_key == message.machine_id.encode()
        if isinstance(message, LateEvent):
            assert base64.b64decode(message.payload) == payload
            assert message.lateness_ms > 0


def test_a_hundred_thousand_fuzzed_payloads_crash_nothing_and_none_is_lost() -> None:
    rng = random.Random(20260302)
    state = PartitionState(SPEC)
    totals: Counter[str] = Counter()
    offset = 0
    while offset < PAYLOADS:
        raws = [fuzzed(rng) for _ in range(min(rng.randrange(1, 1500), PAYLOADS - offset))]
        outputs = PIPELINE.step(state, chunk_of(raws, offset))
        check(raws, offset, outputs)
        totals += outputs.dead
        totals["scored"] += outputs.scored
        totals["late"] += outputs.late
        offset += len(raws)
    assert totals.total() == PAYLOADS
    # Payloads too large are tested below, too many machines in test_retention; every other outcome
    # is common enough to be tested here.
    assert {outcome for outcome, count in totals.items() if count >= 20} >= (
        {"scored", "late"} | DEAD_LETTER_REASONS.keys() - TESTED_ELSEWHERE
    )


def test_fuzzed_payloads_give_the_same_bytes_one_by_one() -> None:
    rng = random.Random(7)
    raws = [fuzzed(rng) for _ in range(5_000)]
    together, alone = PartitionState(SPEC), PartitionState(SPEC)
    expected = PIPELINE.step(together, chunk_of(raws)).records
    found = [
        record
        for offset, raw in enumerate(raws)
        for record in PIPELINE.step(alone, chunk_of([raw], offset)).records
    ]
    assert found == expected
    assert alone.snapshot() == together.snapshot()


def test_values_of_ten_megabytes_are_dead_letters_of_bounded_size() -> None:
    size = 10 * 2**20
    values = [
        b"[" * size,
        b"\xff" * size,
        b'{"machine_id":"m","c0":' + b"1" * size + b"}",
        b'{"machine_id":"' + b"m" * size + b'"}',
        b'{"machine_id":"m","c0":1,"x":"' + b"y" * size + b'"}',
        b'"' + b'\\"' * (size // 2),
        b"x" * (MAX_EVENT_BYTES + 1),
    ]
    raws = [Raw(b"m", value, START_MS) for value in values]
    outputs = PIPELINE.step(PartitionState(SPEC), chunk_of(raws))
    check(raws, 0, outputs)
    assert outputs.dead == {"too-large": len(values)}
    assert all(len(record.value) < 2 * MAX_PAYLOAD_BYTES for record in outputs.records)


def unescaped(value: Any) -> bytes:
    """JSON with raw characters, also those that UTF-8 does not allow."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "machine_id": st.just("m") | st.text(min_size=1, max_size=5) | JSON,
        "timestamp": st.integers() | st.datetimes().map(str) | JSON,
        "c0": st.floats() | st.integers() | JSON,
        "c1": st.floats(-1e31, 1e31) | JSON,
        "c2": st.floats(-1e4, 1e4),
        "mode": st.sampled_from(["A", "B", "C", None]) | JSON,
        "x": JSON,
    },
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.none() | st.just(b"m") | st.binary(max_size=8),
            st.none()
            | st.binary(max_size=60)
            | FIELDS.map(lambda fields: json.dumps(fields).encode())
            | JSON.map(unescaped),
            st.integers(-(2**63), 2**63 - 1) | st.just(START_MS),
        ),
        min_size=1,
        max_size=8,
    )
)  # fmt: skip
def test_any_key_value_and_kafka_timestamp_gives_a_typed_result(
    made: list[tuple[bytes | None, bytes | None, int]],
) -> None:
    raws = [Raw(*record) for record in made]
    state = PartitionState(SPEC)
    check(raws, 0, PIPELINE.step(state, chunk_of(raws)))
    assert state.next_offset == len(raws)
    copy = read_back(SPEC, state.snapshot())
    assert copy.snapshot() == state.snapshot()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(allow_nan=False), min_size=2, max_size=20))
def test_no_number_that_json_can_hold_puts_nan_or_infinity_into_messages_or_state(
    numbers: list[float],
) -> None:
    raws = [
        Raw(
            b"m",
            json.dumps({"machine_id": "m", "c0": 1, "c1": x, "c2": -x}).encode(),
            START_MS + i * 20_000,
        )
        for i, x in enumerate(numbers)
    ]
    state = PartitionState(SPEC)
    outputs = PIPELINE.step(state, chunk_of(raws))
    check(raws, 0, outputs)
    for record in outputs.records:
        json.loads(record.value, parse_constant=_refuse)
    for key, value in state.snapshot():
        if not key.endswith(b"|m"):
            panes = np.frombuffer(value, Layout.of(SPEC).pane_dtype)
            assert np.isfinite(panes["moments"]).all()


def _refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is not JSON")
