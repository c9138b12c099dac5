from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from load.local_kafka import CHECKOUT, LocalKafka
from tests.support.kafka import NewRecord, wait_until
from tests.support.letters import EVENT, Desk, replay
from worker import cluster
from worker.cli.letters_view import duration_text, payload_text, printable, time_text
from worker.cli.main import run
from worker.core.messages import MAX_PAYLOAD_BYTES, Origin, dead_letter, encode

ESCAPES = "\x1b[2J\x9b31m\r\x07\u202emoc\N{LINE SEPARATOR}\x7f"
HARMFUL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028]")


@given(st.text())
def test_printable_text_controls_no_terminal(text: str) -> None:
    assert printable(text).isprintable()


def test_printable_text_shows_what_was_there() -> None:
    assert printable("Öl 5 °C\x1b[31m") == "Öl 5 °C\\x1b[31m"
    assert printable("a\u202eb\n") == "a\\u202eb\\n"


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (
            b'{"a":1.50,"b":[70000000000000000]}',
            '{\n  "a": 1.50,\n  "b": [\n    70000000000000000\n  ]\n}',
        ),
        (b'{"a": "\xc2\x9b\xe2\x80\xae"}', '{\n  "a": "\\x9b\\u202e"\n}'),
        (b"plain \x1b[1m text, two\nlines", "plain \\x1b[1m text, two\nlines"),
        (b"\xff\x00AB", f"00000000  {'ff 00 41 42':<48} ..AB"),
        (b"\x00\x01\x02\x03", f"00000000  {'00 01 02 03':<48} ...."),
    ],
)
def test_a_payload_is_shown_as_json_text_or_dump(payload: bytes, shown: str) -> None:
    assert payload_text(payload) == shown


@given(st.binary(max_size=2_000))
def test_no_payload_controls_the_terminal(payload: bytes) -> None:
    assert HARMFUL.search(payload_text(payload)) is None


def test_long_payloads_are_bounded() -> None:
    assert len(payload_text(b"x" * 1_000_000)) < 9_000
    assert len(payload_text(b"\xff" * 1_000_000)) < 9_000


def test_times_and_durations_are_for_people() -> None:
    assert time_text(1_772_432_130_250) == "2026-03-02T06:15:30.250Z"
    assert [time_text(odd) for odd in (-1, 2**62)] == ["-", "-"]
    shown = [duration_text(ms) for ms in (5, 1500, 750_000, 5_400_000, 9e9)]
    assert shown == ["5 ms", "1.5 s", "12.5 min", "1.5 h", "104.2 d"]


def test_a_list_tells_what_is_wrong_where_and_how_often(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = desk.refuse([EVENT] * 2, "invalid-field")
    ids += desk.refuse([b"\xff"], "not-utf8", key=None, partition=1)
    assert replay(ids[1]) == 0
    capsys.readouterr()
    assert run(["dead-letters", "list"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    lines = out.splitlines()
    assert lines[0].split() == [
        *("id", "written", "reason", "machine", "origin", "bytes", "replays")
    ]
    rows = {line.split()[0]: line.split()[2:] for line in lines[1:4]}
    source = desk.topic("sensor_events")
    assert rows == {
        ids[0]: ["invalid-field", "m-1", f"{source}-0-0", str(len(EVENT)), "-", "why"],
        ids[1]: ["invalid-field", "m-1", f"{source}-0-1", str(len(EVENT)), "1", "why"],
        ids[2]: ["not-utf8", "-", f"{source}-1-0", "1", "-", "why"],
    }
    assert re.match(r"3 dead letters, written \S+Z to \S+Z$", lines[5])
    assert lines[6:] == [
        "  by reason   invalid-field 2, not-utf8 1",
        "  by machine  m-1 2, (no id) 1",
    ]


def test_filters_narrow_a_list_and_its_counts(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.refuse([EVENT] * 5, "invalid-field")
    desk.refuse([EVENT], "key-mismatch", key=b"gateway", partition=1)

    def listed(*arguments: str) -> list[dict[str, object]]:
        assert run(["dead-letters", "list", "--json", *arguments]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert len(listed()) == 6
    assert len(listed("--limit", "2")) == 2
    assert [one["reason"] for one in listed("--reason", "key-mismatch")] == ["key-mismatch"]
    assert len(listed("--reason", "key-mismatch", "--reason", "invalid-field")) == 6
    assert len(listed("--machine", "m-1")) == 6  # one of them by its payload
    assert len(listed("--machine", "gateway")) == 1
    assert len(listed("--since", "1h")) == 6
    assert listed("--until", "1h") == []
    assert listed("--since", "2999-01-01T00:00:00Z") == []
    assert run(["dead-letters", "list", "--machine", "none"]) == 0
    assert capsys.readouterr().out == "no dead letters found\n"


def test_a_list_as_json_has_all_that_the_letter_says(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    (late_id,) = desk.delay([EVENT])
    assert run(["late-events", "list", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    document = json.loads(line)
    assert document["id"] == late_id
    assert document["lateness_ms"] == 750_000
    assert document["origin"] == {
        "topic": desk.topic("sensor_events"),
        "partition": 0,
        "offset": 0,
    }
    assert run(["late-events", "list"]) == 0
    shown = capsys.readouterr().out
    assert "12.5 min  2001-09-09T01:59:10.000000Z  m-1" in shown
    assert "by reason" not in shown


def test_nothing_in_a_letter_reaches_the_terminal_as_a_command(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = ESCAPES.encode()
    origin = Origin(ESCAPES, 0, 0)
    letters = [
        encode(dead_letter("invalid-field", ESCAPES, origin, 5, evil, evil)),
        encode(
            dead_letter("key-mismatch", ESCAPES, origin, 5, None, b'{"machine_id": "\xc2\x9b"}')
        ),
        evil,
    ]
    ids = desk.letters("dead_letters", [*letters], key=evil)
    desk.write("sensor_events", [NewRecord(evil, evil, 0, headers=((ESCAPES, evil),))])
    here = Origin(desk.topic("sensor_events"), 0, 0)
    ids += desk.letters(
        "dead_letters", [encode(dead_letter("not-utf8", "why", here, 5, evil, evil))], partition=1
    )
    shown = ""
    commands = [["list"], ["list", "--json"], ["replay", "--dry-run"], *(["show", i] for i in ids)]
    for command in commands:
        assert run(["dead-letters", *command]) == 0
        out, err = capsys.readouterr()
        shown += out + err
    assert "still there" in shown
    assert "header" in shown
    assert HARMFUL.search(shown) is None


def test_show_explains_one_letter_and_its_replays(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.write("sensor_events", [NewRecord(EVENT, b"m-1", 0, headers=(("gateway", b"g-7"),))])
    source = desk.topic("sensor_events")
    letter = dead_letter(
        "invalid-field", "Expected `float`", Origin(source, 0, 0), 5, b"m-1", EVENT
    )
    (letter_id,) = desk.letters("dead_letters", [encode(letter)])
    assert replay() == 0
    capsys.readouterr()
    assert run(["dead-letters", "show", letter_id]) == 0
    shown = capsys.readouterr().out
    for part in (
        f"dead letter {letter_id}\n",
        "reason      invalid-field: a field is missing, of the wrong type or not allowed\n",
        "detail      Expected `float`\n",
        f"origin      {source}-0-0, still there\n",
        "header      gateway: g-7\n",
        "replay      attempt 1, ",
        f", as {source}-0-1\n",
        "what to do  Compare the payload with schemas/sensor-event.json.",
        '\n{\n  "machine_id": "m-1",\n',
    ):
        assert part in shown


def test_raw_writes_the_original_bytes_and_says_where_they_are_cut(
    desk: Desk, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    payload = bytes(range(256)) * 100
    (whole,) = desk.refuse([payload], "not-utf8")
    gone = dead_letter("not-utf8", "why", Origin("gone", 0, 0), 5, b"m-1", payload)
    (cut,) = desk.letters("dead_letters", [encode(gone)], partition=1)
    assert run(["dead-letters", "show", "--raw", whole]) == 0
    assert capfdbinary.readouterr().out == payload
    assert run(["dead-letters", "show", "--raw", cut]) == 1
    out, err = capfdbinary.readouterr()
    assert out == payload[:MAX_PAYLOAD_BYTES]
    assert err == b"only the first 16,384 of 25,600 bytes are kept, and the original is gone\n"


def test_a_letter_that_is_not_there_is_one_sentence(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.refuse([EVENT])
    for place in ("0-1", "0-999", "77-0"):
        letter_id = f"{desk.topic('dead_letters')}-{place}"
        assert run(["dead-letters", "show", letter_id]) == 78
        assert f"error: there is no dead letter {letter_id} (any more)" in capsys.readouterr().err


@pytest.mark.parametrize(("answer", "status", "published"), [("n", 1, 0), ("y", 0, 3)])
def test_on_a_terminal_a_replay_asks_first(
    desk: Desk, answer: str, status: int, published: int
) -> None:
    desk.refuse([EVENT] * 3)
    terminal, end = os.openpty()
    command = [sys.executable, "-m", "worker", "dead-letters", "replay"]
    process = subprocess.Popen(
        command,
        cwd=CHECKOUT,
        env={**os.environ, "TERM": "xterm"},
        stdin=end,
        stdout=end,
        stderr=end,
    )
    os.close(end)
    os.write(terminal, f"{answer}\n".encode())
    shown = b""
    with suppress(OSError):  # what Linux says when the other end is closed
        while part := os.read(terminal, 4096):
            shown += part
    os.close(terminal)
    assert process.wait(60) == status, shown
    assert b"Replay 3 events? [y/N]: " in shown
    assert b"3  invalid-field" in shown
    assert len(desk.published()) == published


def test_ctrl_c_ends_a_replay_and_says_how_far_it_got(desk: Desk) -> None:
    ids = desk.refuse([EVENT] * 60)
    process = desk.start("dead-letters", "replay", "--yes", "--rate", "2")
    wait_until(lambda: bool(desk.marks()), "the replay has begun", 60)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    done = len(desk.published())
    assert 0 < done < len(ids)
    assert f"interrupted: {done} events were published; the same command goes on" in err


def test_missing_topics_are_one_sentence(
    kafka: LocalKafka, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRIFTDETECTOR_KAFKA__BROKERS", kafka.bootstrap_servers)
    monkeypatch.setenv("DRIFTDETECTOR_TOPICS__LATE_EVENTS", "none-such")
    for command in (["list"], ["show", "none-such-0-1"], ["replay", "--yes"]):
        assert run(["late-events", *command]) == 69
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert "does not exist" in err
        assert "driftdetector topics apply" in err


def test_without_the_topic_of_replays_letters_can_be_seen_but_not_replayed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (letter_id,) = desk.refuse([EVENT])
    monkeypatch.setenv("DRIFTDETECTOR_TOPICS__REPLAYS", "none-such")
    assert run(["dead-letters", "list"]) == 0
    assert run(["dead-letters", "show", letter_id]) == 0
    assert replay() == 69
    assert "topic 'none-such' does not exist" in capsys.readouterr().err


def test_an_absent_broker_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_S", 0.5)
    monkeypatch.setenv("DRIFTDETECTOR_KAFKA__BROKERS", "127.0.0.1:1")
    assert run(["dead-letters", "list"]) == 69
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: kafka.brokers: no broker answers at 127.0.0.1:1")
