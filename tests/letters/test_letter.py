from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.cluster import Record
from worker.core.messages import (
    MAX_PAYLOAD_BYTES,
    DeadLetterReason,
    Origin,
    dead_letter,
    encode,
    late_event,
)
from worker.letters.letter import (
    DEAD_LETTERS,
    DECIDED_BY_BYTES,
    EXPLANATIONS,
    FIXES,
    LATE,
    LATE_EVENTS,
    UNREADABLE,
    Kind,
    has_timestamp,
    machine_in,
    read_letter,
)

ORIGIN = Origin("sensor-events", 3, 17)


def record(value: bytes | None, key: bytes | None = None) -> Record:
    return Record("letters", 1, 2, 5, key, value)


def test_every_reason_is_explained_and_has_a_remedy() -> None:
    reasons = {*get_args(DeadLetterReason), LATE, UNREADABLE}
    assert set(EXPLANATIONS) == set(FIXES) == reasons
    assert reasons > DECIDED_BY_BYTES


@example(DEAD_LETTERS, b"[" * 100_000)
@example(LATE_EVENTS, b'{"machine_id": "\\ud800"}')
@given(st.sampled_from([DEAD_LETTERS, LATE_EVENTS]), st.binary() | st.none())
def test_any_bytes_are_a_letter(kind: Kind, value: bytes | None) -> None:
    letter = read_letter(kind, record(value, b"\xff"))
    assert letter.id == "letters-1-2"
    assert letter.reason == UNREADABLE
    assert letter.detail
    assert letter.origin is None
    assert letter.machine == "\N{REPLACEMENT CHARACTER}"


@given(st.binary() | st.none(), st.binary() | st.none())
def test_a_dead_letter_gives_back_key_and_payload(key: bytes | None, payload: bytes | None) -> None:
    message = dead_letter("empty", "why", ORIGIN, 5, key, payload)
    letter = read_letter(DEAD_LETTERS, record(encode(message)))
    assert (letter.key, letter.payload, letter.origin) == (key, payload, ORIGIN)
    assert letter.is_whole
    assert letter.fits(key, payload)
    assert not letter.fits(key, (payload or b"") + b" ")
    assert not letter.fits(b"another", payload) or key == b"another"


@pytest.mark.parametrize("extra", [0, 1])
def test_a_cut_payload_is_not_whole_and_fits_only_the_original(extra: int) -> None:
    payload = b"x" * (MAX_PAYLOAD_BYTES + extra)
    message = dead_letter("too-large", "why", ORIGIN, 5, b"m", payload)
    letter = read_letter(DEAD_LETTERS, record(encode(message)))
    assert letter.is_whole == (extra == 0)
    assert letter.payload_bytes == len(payload)
    assert letter.fits(b"m", payload)
    assert not letter.fits(b"m", payload[:-1] + b"y")


def test_a_late_event_is_whole_and_keyed_by_its_machine() -> None:
    payload = b"x" * MAX_PAYLOAD_BYTES * 3
    message = late_event("m-1", 10**15, 10**15 + 5, ORIGIN, payload)
    letter = read_letter(LATE_EVENTS, record(encode(message)))
    assert (letter.key, letter.payload, letter.machine) == (b"m-1", payload, "m-1")
    assert letter.reason == LATE
    assert letter.is_whole


@pytest.mark.parametrize(
    "damage",
    [
        (b'"offset":17', b'"offset":-1'),
        (b'"offset":17', b'"offset":9223372036854775807'),
        (b'"partition":3', b'"partition":4294967296'),
        (b'"reason":"empty"', b'"reason":"of-another-version"'),
        (b'"payload":"', b'"payload":"not base64!'),
        (b'"detail":"why",', b""),
    ],
)
def test_a_letter_of_another_version_or_a_damaged_one_is_unreadable(
    damage: tuple[bytes, bytes],
) -> None:
    value = encode(dead_letter("empty", "why", ORIGIN, 5, b"m", b"{}"))
    assert read_letter(DEAD_LETTERS, record(value)).reason == "empty"
    assert damage[0] in value
    letter = read_letter(DEAD_LETTERS, record(value.replace(*damage)))
    assert letter.reason == UNREADABLE


@pytest.mark.parametrize(
    ("payload", "timed", "machine"),
    [
        (b'{"machine_id": "m", "timestamp": "2026-03-02T06:15:30Z"}', True, "m"),
        (b'{"machine_id": "m", "timestamp": 1772432130250, "deep": [[[1]]]}', True, "m"),
        (b'{"machine_id": "m", "timestamp": null}', False, "m"),
        (b'{"machine_id": 7}', False, None),
        (b'{"machine_id": "m", "timestamp": 1', False, None),
        (b"[1]", False, None),
        (b"[" * 100_000, False, None),
        (b"", False, None),
        (None, False, None),
    ],
)
def test_what_a_payload_says_of_itself(
    payload: bytes | None, timed: bool, machine: str | None
) -> None:
    assert has_timestamp(payload) == timed
    assert machine_in(payload) == machine
