from __future__ import annotations

import pytest

from worker.cluster import Record
from worker.core.errors import ConfigError
from worker.core.messages import Origin, dead_letter, encode
from worker.letters import search
from worker.letters.letter import DEAD_LETTERS, Letter, read_letter
from worker.letters.search import (
    Selection,
    Summary,
    newest,
    parse_id,
    parse_reasons,
    parse_time_ms,
)

NOW_MS = 1_772_432_130_000


def letter(offset: int, time_ms: int, key: bytes | None = b"m-1", payload: bytes = b"{}") -> Letter:
    message = dead_letter("empty", "why", Origin("in", 0, offset), 5, key, payload)
    return read_letter(DEAD_LETTERS, Record("dead", 0, offset, time_ms, key, encode(message)))


def test_the_newest_come_first_and_all_are_counted() -> None:
    letters = [letter(offset, time_ms) for offset, time_ms in enumerate([5, 9, 7, 9, 1])]
    found, summary = newest(iter(letters), 3)
    assert [one.record.offset for one in found] == [3, 1, 2]
    assert (summary.count, summary.first_ms, summary.last_ms) == (5, 1, 9)
    assert newest(iter(letters), 0)[0] == []


def test_every_condition_has_to_hold() -> None:
    one = letter(0, 10, b"gateway", b'{"machine_id": "m-7"}')
    assert Selection().matches(one)
    assert Selection(frozenset({"empty"}), "m-7", 10, 11).matches(one)
    assert Selection(machine="gateway").matches(one)
    for other in (
        Selection(reasons=frozenset({"not-utf8"})),
        Selection(machine="m"),
        Selection(since_ms=11),
        Selection(until_ms=10),
    ):
        assert not other.matches(one)


def test_a_summary_stays_small_however_many_machines_are_invented(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "MAX_MACHINES", 3)
    summary = Summary()
    for number in range(10):
        summary.add(letter(number, number, f"m-{number}".encode() * 1000))
    summary.add(letter(0, 0, b"m-0" * 1000))
    assert list(summary.machines.values()) == [2, 1, 1]
    assert summary.other == 7
    assert max(len(name or "") for name in summary.machines) <= search.MAX_MACHINE_CHARS + 1


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        ("2026-03-02T06:15:30Z", NOW_MS),
        ("2026-03-02T07:15:30.250+01:00", NOW_MS + 250),
        ("2h", NOW_MS - 7_200_000),
        ("36500d", 0),
        ("1960-01-01T00:00:00Z", 0),
    ],
)
def test_times_are_absolute_or_ago(text: str, time_ms: int) -> None:
    assert parse_time_ms(text, "--since", NOW_MS) == time_ms


@pytest.mark.parametrize("text", ["", "yesterday", "2026-03-02T06:15:30", "2026-03-02", "-2h"])
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--since: .*write RFC 3339.*2h"):
        parse_time_ms(text, "--since", NOW_MS)


def test_an_unknown_reason_is_answered_with_the_known_ones() -> None:
    assert parse_reasons(["empty", "unreadable"]) == {"empty", "unreadable"}
    with pytest.raises(ConfigError, match=r"'emty' is no reason; there are empty, too-large, .*"):
        parse_reasons(["empty", "emty"])


def test_an_id_names_topic_partition_and_offset() -> None:
    assert parse_id(DEAD_LETTERS, "a-1-b", "a-1-b-3-17") == Origin("a-1-b", 3, 17)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("17", "is not the id of a dead letter"),
        ("a--1-17", "a record of topic 'a-'"),
        ("a-1-99999999999999999999", "is not the id"),
        (f"a-1-{2**63 - 1}", "is not the id"),
        ("b-1-17", "is a record of topic 'b'; dead letters are in 'a'"),
    ],
)
def test_what_is_no_id_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_id(DEAD_LETTERS, "a", text)
