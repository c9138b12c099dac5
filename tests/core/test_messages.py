from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.events import EARLIEST_US, LATEST_US
from worker.core.messages import (
    DEAD_LETTER_REASONS,
    MAX_PAYLOAD_BYTES,
    DeadLetter,
    DeadLetterReason,
    LateEvent,
    MaintenanceNotice,
    Origin,
    dead_letter,
    encode,
    format_time_us,
    late_event,
)

ORIGIN = Origin("sensor-events", 3, 17)


@given(st.integers(EARLIEST_US, LATEST_US))
def test_a_time_reads_back_to_the_microsecond(time_us: int) -> None:
    text = format_time_us(time_us)
    assert len(text) == len("2026-01-31T06:00:00.250000Z")
    moment = datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)
    assert (moment.days * 86_400 + moment.seconds) * 10**6 + moment.microseconds == time_us


def test_every_dead_letter_reason_is_explained() -> None:
    assert set(DEAD_LETTER_REASONS) == set(get_args(DeadLetterReason))


@given(st.binary() | st.none(), st.binary() | st.none())
def test_a_dead_letter_keeps_key_and_bytes(key: bytes | None, payload: bytes | None) -> None:
    message = dead_letter("empty", "why", ORIGIN, 5, key, payload)
    copy = msgspec.json.decode(encode(message), type=DeadLetter)
    assert copy == message
    assert (None if copy.key is None else base64.b64decode(copy.key)) == key
    assert (None if copy.payload is None else base64.b64decode(copy.payload)) == payload
    assert copy.payload_bytes == len(payload or b"")
    digest = None if payload is None else hashlib.sha256(payload).hexdigest()
    assert copy.payload_sha256 == digest


def test_a_dead_letter_cuts_long_bytes_but_hashes_and_counts_them_all() -> None:
    payload = bytes(range(256)) * 1000
    message = dead_letter("too-large", "why", ORIGIN, 5, payload, payload)
    assert base64.b64decode(message.payload or "") == payload[:MAX_PAYLOAD_BYTES]
    assert base64.b64decode(message.key or "") == payload[:MAX_PAYLOAD_BYTES]
    assert message.payload_bytes == len(payload)
    assert message.payload_sha256 == hashlib.sha256(payload).hexdigest()


def test_lateness_is_the_distance_to_the_watermark() -> None:
    message = late_event("m", EARLIEST_US, EARLIEST_US + 1_500, ORIGIN, b"\xff")
    copy = msgspec.json.decode(encode(message), type=LateEvent)
    assert copy == message
    assert copy.lateness_ms == 1.5
    assert base64.b64decode(copy.payload) == b"\xff"


def test_equal_messages_have_equal_bytes_in_the_order_of_their_fields() -> None:
    assert encode(ORIGIN) == b'{"topic":"sensor-events","partition":3,"offset":17}'


def notice(begin: object, end: object, **more: object) -> MaintenanceNotice:
    return msgspec.convert({"from": begin, "until": end, **more}, MaintenanceNotice)


def test_a_notice_takes_times_like_any_event() -> None:
    span_us = (1_772_432_130_000_000, 1_772_435_730_000_000)
    for begin, end in (
        (datetime.fromisoformat("2026-03-02T07:15:30+01:00"), 1_772_435_730_000),
        (1_772_432_130_000_000, datetime(2026, 3, 2, 7, 15, 30, tzinfo=UTC)),
    ):
        assert notice(begin, end).span_us == span_us
    assert not notice(5, 5).relearn


@pytest.mark.parametrize(
    ("begin", "end", "more", "says"),
    [
        (10, 9, {}, "ends before it begins"),
        (0, 367 * 86_400_000, {}, "more than 366 days"),
        (0, datetime(1970, 1, 1), {}, "timezone"),  # noqa: DTZ001
        (0, 1, {"relern": True}, "unknown field"),
    ],
)
def test_a_notice_that_cannot_be_meant_is_refused(
    begin: object, end: object, more: dict[str, object], says: str
) -> None:
    with pytest.raises(msgspec.ValidationError, match=says):
        notice(begin, end, **more)
