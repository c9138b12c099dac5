"""From scored rows to drift events, without Kafka: what the agent says, whatever happens to it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import msgspec
import pytest

from load.drift_fleet import AFTER_US, US_PER_HOUR, events
from load.drift_live import CHANGES
from tests.drift.conftest import Told, agent, chunk_of, partials, told, watch
from worker.core.drift import FLEET, Partial
from worker.core.drifting import Drifting, DriftState, DriftStateReader, Monitors
from worker.core.messages import DriftAcceptance, DriftEvent, RetrainingRequest, encode, to_time_us
from worker.core.outgoing import Record
from worker.models.bundle import Bundle

STEP = CHANGES["step"]


def run(bundle: Bundle, records: list[Record]) -> Told:
    return told(watch(agent(bundle), DriftState(), records))


def time_us(text: str) -> int:
    return to_time_us(datetime.fromisoformat(text))


@pytest.mark.parametrize("kind", CHANGES)
def test_each_kind_of_change_is_reported_once_with_its_channels_and_its_start(
    watched: Bundle, kind: str
) -> None:
    change = CHANGES[kind]
    found = run(watched, partials(watched, events(14, [change])))
    (opened,) = [event for event in found.opened if event["group"] == FLEET]
    assert {event["id"] for event in found.events if event["group"] == FLEET} == {opened["id"]}
    first = {feature["feature"].rpartition("_")[2] for feature in opened["features"][:1]}
    assert first <= set(change.channels)
    window_us = opened["window_s"] * 1e6
    assert abs(time_us(opened["began_at"]) - change.start_us) <= window_us


def test_a_day_without_drift_gives_no_event(watched: Bundle) -> None:
    found = run(watched, partials(watched, events(24)))
    assert found == Told([], [])


def test_messages_are_what_their_types_say(watched: Bundle) -> None:
    found = run(watched, partials(watched, events(16, [STEP])))
    assert found.requests
    for event in found.events:
        msgspec.convert(event, DriftEvent, strict=True)
    for request in found.requests:
        msgspec.convert(request, RetrainingRequest, strict=True)


def test_how_rows_are_cut_into_commits_changes_nothing(watched: Bundle) -> None:
    sent = events(14, [STEP])
    few, many = (run(watched, partials(watched, sent, chunk=size)) for size in (5000, 700))
    assert few.opened == many.opened
    assert few.opened


def test_an_agent_that_goes_on_from_its_changelog_says_the_same(watched: Bundle) -> None:
    records = partials(watched, events(16, [STEP]), chunk=2000)
    expected = watch(agent(watched), DriftState(), records)
    drifting, found = agent(watched), []
    rows: list[tuple[bytes, bytes | None]] = []
    state = DriftState()
    for start in range(0, len(records), 97):
        found += watch(drifting, state, records[start : start + 97])
        rows += state.take_changes()
        reader = DriftStateReader(monitors(watched), pytest.fail)
        reader.read(rows, range(len(rows)))
        before, state = state, reader.finish(state.next_offset)
        assert state.snapshot() == before.snapshot()
    assert found == expected


def monitors(bundle: Bundle, version: str = "") -> Monitors:
    chosen = agent(bundle)._monitors
    return Monitors(chosen.reference, chosen.settings, version or bundle.model_version)


def test_records_that_come_again_are_not_applied_again(watched: Bundle) -> None:
    records = partials(watched, events(12, [STEP]), chunk=2000)
    drifting, state = agent(watched), DriftState()
    chunk = chunk_of([(record.key, record.value) for record in records], 0, 0)
    drifting.step(state, chunk)
    state.take_changes()
    again = drifting.step(state, chunk)
    assert (again.partials, again.windows, state.take_changes()) == ({}, [], [])


@pytest.mark.parametrize("value", [b"", b"garbage", b"{", b'{"group": 7}', b"DP\x01\x00abcdefgh"])
def test_what_is_no_partial_becomes_a_dead_letter_and_changes_nothing(
    watched: Bundle, value: bytes
) -> None:
    drifting, state = agent(watched), DriftState()
    outputs = drifting.step(state, chunk_of([(b"fleet", value)], 0, 0))
    assert outputs.dead == {"invalid-partial": 1}
    (record,) = outputs.records
    letter = msgspec.json.decode(record.value)
    assert (record.stream, letter["reason"]) == ("dead-letters", "invalid-partial")
    assert letter["payload_bytes"] == len(value)
    assert (state.next_offset, state.take_changes()) == (1, [])


def test_a_partial_under_another_key_or_ahead_of_time_is_refused(watched: Bundle) -> None:
    (record, *_) = partials(watched, events(1))
    partial = Partial.from_bytes(record.value)
    ahead_us = partial.start_us + 3650 * 24 * US_PER_HOUR
    ahead = replace(partial, start_us=ahead_us, end_us=ahead_us + 60_000_000)
    sent = [(b"site=north", record.value), (record.key, ahead.to_bytes())]
    state = DriftState()
    outputs = agent(watched).step(state, chunk_of(sent, 0, 0))
    assert outputs.dead == {"invalid-partial": 2}
    assert len(state) == 0


def test_partials_of_another_reference_are_counted_and_left_out(watched: Bundle) -> None:
    (record, *_) = partials(watched, events(1))
    other = replace(Partial.from_bytes(record.value), fingerprint=1)
    state = DriftState()
    outputs = agent(watched).step(state, chunk_of([(record.key, other.to_bytes())], 0, 0))
    assert outputs.partials == {"foreign": 1}
    assert (outputs.records, outputs.dead, len(state)) == ([], {}, 0)


def test_state_that_is_damaged_makes_its_group_begin_anew(watched: Bundle) -> None:
    drifting, state = agent(watched), DriftState()
    watch(drifting, state, partials(watched, events(2)))
    rows = {key: row for key, row in state.take_changes() if row is not None}
    rows[b"head\nfleet"] = b"rubbish"
    reasons: list[str] = []
    reader = DriftStateReader(monitors(watched), reasons.append)
    reader.read(list(rows.items()), range(len(rows)))
    restored = reader.finish(state.next_offset)
    assert len(reasons) == 1
    assert "fleet" in reasons[0]
    assert restored.groups.keys() == {"site=north", "site=south"}
    gone = dict(restored.take_changes())
    assert gone.keys() == {key for key in rows if key.endswith(b"\nfleet")}
    assert set(gone.values()) == {None}


def test_accepting_a_change_closes_its_event(watched: Bundle) -> None:
    records = partials(watched, events(16, [STEP]), chunk=2000)
    drifting, state = agent(watched), DriftState()
    half = len(records) * 14 // 16
    before = told(watch(drifting, state, records[:half]))
    assert before.opened
    at = datetime.fromtimestamp((AFTER_US + 14 * US_PER_HOUR) / 1e6, UTC)
    acceptance = DriftAcceptance(FLEET, at, note="new tools")
    sent = [(FLEET.encode(), encode(acceptance))]
    outputs = drifting.step(state, chunk_of(sent, state.next_offset, 0))
    assert outputs.accepted == 1
    (closed,) = told(outputs.records).events
    assert (closed["status"], closed["close_reason"]) == ("closed", "accepted")


def test_a_new_reference_closes_what_the_old_one_left_open_once(watched: Bundle) -> None:
    drifting, state = agent(watched), DriftState()
    before = told(watch(drifting, state, partials(watched, events(14, [STEP]))))
    (opened,) = [event for event in before.opened if event["group"] == FLEET]
    rows = {key: row for key, row in state.take_changes() if row is not None}
    reference = watched.require_reference()
    other = replace(reference, center=reference.center + 1.0)
    chosen = replace(agent(watched)._monitors, reference=other, model_version="fleet/2.0.0")
    reader = DriftStateReader(chosen, lambda _: None)
    reader.read(list(rows.items()), range(len(rows)))
    after = reader.finish(state.next_offset)
    # Whatever comes first: here a partial of the old reference.
    (record, *_) = partials(watched, events(1))
    second = Drifting(chosen, 10**9)
    told_then = told(watch(second, after, [record])).events
    (closed,) = [event for event in told_then if event["group"] == FLEET]
    assert closed["id"] == opened["id"]
    assert (closed["status"], closed["close_reason"]) == ("closed", "new-reference")
    assert (closed["reference"], closed["model_version"]) == (other.hash, "fleet/2.0.0")
    assert closed["sequence"] > opened["sequence"]
    msgspec.convert(closed, DriftEvent, strict=True)
    gone = dict(after.take_changes())
    assert gone.keys() >= rows.keys()
    assert set(gone.values()) == {None}
    assert told(watch(second, after, [record])).events == []
