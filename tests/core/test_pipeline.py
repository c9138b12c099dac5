from __future__ import annotations

import base64
import json
from collections import defaultdict
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.reference import Late, Reference
from tests.core.strategies import (
    START_US,
    Event,
    Raw,
    chunk_of,
    cut,
    events,
    make_pipeline,
    make_spec,
    payload,
    raw,
    read_back,
    records,
    run,
    scores_by_bits,
    specs,
)
from worker.core.channels import ChannelSpec
from worker.core.health.kernel import HEARD, IS_SILENT, PATIENCE, RETURNED, SILENT_SINCE
from worker.core.messages import (
    MAX_EVENT_BYTES,
    MAX_PAYLOAD_BYTES,
    Anomaly,
    DeadLetter,
    Episode,
    LateEvent,
    format_time_us,
)
from worker.core.outgoing import Outputs, Record
from worker.core.rows import LAYOUT_KEY, Layout, Row, values
from worker.core.state import PartitionState

CUTS = st.lists(st.integers(0, 40), max_size=8)


def on_time(count: int, machine: str = "m0") -> list[Event]:
    return [Event(machine, START_US + i * 1_000_000, [float(i), float(-i)]) for i in range(count)]


def without_place(record: Record) -> tuple[str, bytes | None, dict[str, Any]]:
    """The message without what names its partition and offset."""
    message = json.loads(record.value)
    message.pop("id", None)
    message.pop("origin", None)
    return record.stream, record.key, message


def without_clock(spec: ChannelSpec, rows: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Rows without what depends on the other machines of the partition."""
    layout = Layout.of(spec)
    result = []
    for key, value in rows:
        if key.endswith(b"|m"):
            record = np.frombuffer(value, layout.machine_dtype).copy()
            record["fields"]["health_moments_us"][:, [HEARD, PATIENCE, SILENT_SINCE]] = 0
            record["fields"]["health_flags"][:, [IS_SILENT, RETURNED]] = 0
        else:
            record = np.frombuffer(value, layout.pane_dtype).copy()
            record["heard_us"] = 0
        result.append((key, *values(record)))
    return result


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_chunking_gives_the_same_bytes_and_the_same_snapshot(data: st.DataObject) -> None:
    spec = data.draw(specs())
    raws = data.draw(records(spec))
    pipeline = make_pipeline(spec)
    whole, parts = PartitionState(spec), PartitionState(spec)
    assert run(pipeline, whole, cut(raws, data.draw(CUTS))) == run(
        pipeline, parts, cut(raws, data.draw(CUTS))
    )
    assert whole.snapshot() == parts.snapshot()
    assert whole.next_offset == parts.next_offset == len(raws)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_partitioning_and_interleaving_of_machines_gives_each_the_same_bytes(
    data: st.DataObject,
) -> None:
    spec = data.draw(specs())
    raws = data.draw(records(spec))
    pipeline = make_pipeline(spec)
    together = PartitionState(spec)
    expected: dict[Any, list[Any]] = defaultdict(list)
    for record in run(pipeline, together, cut(raws, data.draw(CUTS))).records:
        expected[record.key].append(without_place(record))

    partition_of = {key: data.draw(st.integers(0, 2)) for key in dict.fromkeys(r.key for r in raws)}
    found: dict[Any, list[Any]] = defaultdict(list)
    snapshot: list[tuple[bytes, bytes]] = []
    for partition in range(3):
        theirs = [r for r in raws if partition_of[r.key] == partition]
        # Another interleaving: a stable sort keeps the order within each machine.
        order = {key: data.draw(st.integers(0, 3)) for key in {r.key: None for r in theirs}}
        theirs.sort(key=lambda r: order[r.key])
        state = PartitionState(spec)
        chunks = cut(theirs, data.draw(CUTS), partition)
        for record in run(pipeline, state, chunks).records:
            found[record.key].append(without_place(record))
        snapshot += state.snapshot()
    assert found == expected
    assert sorted(without_clock(spec, snapshot)) == without_clock(spec, together.snapshot())


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_restored_state_continues_bit_for_bit_after_compaction_at_any_point(
    data: st.DataObject,
) -> None:
    spec = data.draw(specs())
    raws = data.draw(records(spec))
    chunks = cut(raws, data.draw(CUTS))
    stop = data.draw(st.integers(0, len(chunks)))
    pipeline = make_pipeline(spec)

    running = PartitionState(spec)
    changelog: list[Row] = []
    for chunk in chunks[:stop]:
        pipeline.step(running, chunk)
        if data.draw(st.booleans()):
            changelog += running.take_changes()
    changelog += running.take_changes()
    latest = {key: i for i, (key, _) in enumerate(changelog)}
    compacted = [
        row for i, row in enumerate(changelog) if latest[row[0]] == i or data.draw(st.booleans())
    ]
    restored = read_back(
        spec, compacted, next_offset=running.next_offset, batch=data.draw(st.integers(1, 20))
    )

    assert restored.snapshot() == running.snapshot()
    assert [key for key, _ in restored.take_changes()] == [LAYOUT_KEY]
    assert run(pipeline, restored, chunks[stop:]) == run(pipeline, running, chunks[stop:])
    assert restored.snapshot() == running.snapshot()
    assert sorted(restored.take_changes()) == sorted(running.take_changes())


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_chunks_that_are_delivered_again_change_nothing(data: st.DataObject) -> None:
    spec = data.draw(specs())
    raws = data.draw(records(spec))
    pipeline = make_pipeline(spec)
    once, again = PartitionState(spec), PartitionState(spec)
    expected = run(pipeline, once, [chunk_of(raws)])
    found = Outputs()
    for end in range(0, len(raws) + 1, 7):
        start = data.draw(st.integers(0, again.next_offset))
        redelivered = chunk_of(raws[start:end], start)
        found.records += pipeline.step(again, redelivered).records
        assert pipeline.step(again, redelivered) == Outputs()
    found.records += pipeline.step(again, chunk_of(raws)).records
    assert found.records == expected.records
    assert again.snapshot() == once.snapshot()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_each_record_is_scored_late_or_dead_as_the_reference_says(data: st.DataObject) -> None:
    spec = data.draw(specs())
    arrived = data.draw(events(spec))
    ahead_us = [data.draw(st.sampled_from([0, 300_000_000, 300_001_000])) for _ in arrived]
    raws = [raw(spec, event, ahead) for event, ahead in zip(arrived, ahead_us, strict=True)]
    outputs = run(make_pipeline(spec), PartitionState(spec), [chunk_of(raws)])

    reference = Reference(spec)
    late: dict[int, float] = {}
    future, unusable = set(), set()
    for i, (event, record) in enumerate(zip(arrived, raws, strict=True)):
        used = reference.possible(event.readings)
        if event.time_us > record.timestamp_ms * 1000 + 300_000_000:
            future.add(i)
        elif all(np.isnan(used)):
            unusable.add(i)
        elif isinstance(judged := reference.window(event.machine, event.time_us, used), Late):
            late[i] = (judged.watermark_us - event.time_us) / 1000
    found_late = [
        msgspec.json.decode(r.value, type=LateEvent)
        for r in outputs.records
        if r.stream == "late-events"
    ]
    assert {message.origin.offset: message.lateness_ms for message in found_late} == late
    found_dead = [
        msgspec.json.decode(r.value, type=DeadLetter)
        for r in outputs.records
        if r.stream == "dead-letters"
    ]
    for reason, rows in (("timestamp-in-future", future), ("no-usable-channel", unusable)):
        assert {m.origin.offset for m in found_dead if m.reason == reason} == rows
    assert outputs.events == len(raws) == outputs.scored + outputs.late + outputs.dead.total()
    assert outputs.late == len(late)
    assert outputs.anomalies == sum(r.stream == "anomalies" for r in outputs.records)


def test_outputs_come_in_the_order_of_their_events() -> None:
    spec = make_spec()
    raws = [
        raw(spec, replace(event, readings=[9e3, -9e3] if i % 5 == 2 else event.readings))
        for i, event in enumerate(on_time(60))
    ]
    raws[::7] = [Raw(b"m0", b"broken", 0)] * len(raws[::7])
    raws[3::9] = [raw(spec, Event("m0", START_US - 10**10, [0.0, 0.0]))] * len(raws[3::9])
    outputs = make_pipeline(spec).step(PartitionState(spec), chunk_of(raws, 500))
    told = [record for record in outputs.records if record.stream != "anomaly-episodes"]
    offsets = [
        int(m["id"].rpartition("-")[2]) if "id" in m else m["origin"]["offset"]
        for m in (json.loads(record.value) for record in told)
    ]
    assert {record.stream for record in told} == {"anomalies", "late-events", "dead-letters"}
    assert offsets == sorted(offsets)


@pytest.mark.parametrize(
    "spec", [make_spec(1), make_spec(3, 3_600_000_000, 24, 7_200_000_000), make_spec(6)]
)
def test_a_chunk_with_late_events_only_is_no_trouble(spec: ChannelSpec) -> None:
    state, pipeline = PartitionState(spec), make_pipeline(spec)
    zeros = [0.0] * len(spec.continuous)
    pipeline.step(state, chunk_of([raw(spec, Event("m", START_US, zeros))]))
    late = raw(spec, Event("m", START_US - 10**11, zeros))
    outputs = pipeline.step(state, chunk_of([late], 1))
    assert (outputs.events, outputs.scored, outputs.late) == (1, 0, 1)
    assert outputs.newest_time_us == START_US - 10**11
    assert state.next_offset == 2


def test_a_chunk_with_dead_letters_only_moves_on() -> None:
    spec = make_spec()
    state = PartitionState(spec)
    outputs = make_pipeline(spec).step(state, chunk_of([Raw(None, None, 0)] * 3, 10))
    assert outputs.dead == {"empty": 3}
    assert outputs.newest_time_us == -1
    assert state.next_offset == 13
    assert state.snapshot() == []


def test_a_chunk_whose_records_compaction_thinned_out_is_followed_by_its_last_offset() -> None:
    spec = make_spec()
    state = PartitionState(spec)
    chunk = chunk_of([raw(spec, event) for event in on_time(3)])
    chunk.offsets[:] = [4, 9, 30]
    assert make_pipeline(spec).step(state, chunk).events == 3
    assert state.next_offset == 31


def test_an_anomaly_says_what_happened_where_and_why() -> None:
    spec = make_spec()
    raws = [raw(spec, Event("m1", START_US, [2e4, 4800.0]), mode="B")]
    outputs = make_pipeline(spec, threshold=0.9).step(
        PartitionState(spec), chunk_of(raws, 17, "readings", 3)
    )
    episode, record = outputs.records
    assert (record.stream, record.key) == ("anomalies", b"m1")
    anomaly = msgspec.json.decode(record.value, type=Anomaly, strict=True)
    assert anomaly.id == "readings-3-17"
    assert anomaly.machine_id == "m1"
    assert anomaly.timestamp == format_time_us(START_US)
    assert anomaly.is_anomaly
    assert anomaly.anomaly_score < anomaly.threshold
    assert anomaly.values == {"c0": None, "c1": 4800.0}
    assert anomaly.channels == ["c1"]
    assert anomaly.categories == {"mode": "B"}
    assert anomaly.model_version == "made-up/1.0.0"
    assert anomaly.causes[0].channel == "c1"
    assert anomaly.reason.startswith("c1 4800 u is ")
    assert outputs.masked == {"c0": 1}
    opened = msgspec.json.decode(episode.value, type=Episode, strict=True)
    assert episode.stream == "anomaly-episodes"
    assert opened.status == "opened"
    assert anomaly.episode_id == opened.id == f"m1@{format_time_us(START_US)}"


def test_an_event_without_a_category_has_none_in_its_anomaly() -> None:
    spec = make_spec()
    outputs = make_pipeline(spec, threshold=0.9).step(
        PartitionState(spec), chunk_of([raw(spec, Event("m0", START_US, [1.0, 4800.0]))])
    )
    (record,) = [record for record in outputs.records if record.stream == "anomalies"]
    assert json.loads(record.value)["categories"] == {}


def test_a_late_event_carries_its_bytes_and_how_late_it_is() -> None:
    spec = make_spec()
    raws = [raw(spec, Event("m", START_US, [1.0, 2.0]))]
    raws += [raw(spec, Event("m", START_US - 90_000_250, [1.0, 2.0]), note="ä")]
    outputs = make_pipeline(spec).step(PartitionState(spec), chunk_of(raws))
    record = outputs.records[-1]
    late = msgspec.json.decode(record.value, type=LateEvent)
    assert (record.stream, record.key, late.machine_id) == ("late-events", b"m", "m")
    assert late.lateness_ms == 0.25
    assert late.watermark == format_time_us(START_US - 90_000_000)
    assert late.timestamp == format_time_us(START_US - 90_000_250)
    assert base64.b64decode(late.payload) == raws[1].value


def test_one_gateways_wrong_clock_does_not_make_honest_events_late() -> None:
    spec = make_spec()
    raws = [raw(spec, event) for event in on_time(4)]
    raws.insert(1, raw(spec, Event("m0", START_US + 10**12, [0.0, 0.0]), ahead_us=10**12))
    outputs = make_pipeline(spec).step(PartitionState(spec), chunk_of(raws))
    assert (outputs.scored, outputs.late, outputs.dead) == (4, 0, {"timestamp-in-future": 1})


def test_a_record_as_large_as_kafka_takes_gives_a_dead_letter_that_kafka_takes() -> None:
    spec = make_spec()
    raws = [Raw(b"k" * 1_000_000, None, 0), Raw(b"k" * 500_000, b"v" * 500_000, 0)]
    outputs = make_pipeline(spec).step(PartitionState(spec), chunk_of(raws))
    for record in outputs.records:
        assert record.key == b"k" * MAX_PAYLOAD_BYTES
        assert len(record.key) + len(record.value) < 100_000


def test_the_largest_late_event_is_kept_whole() -> None:
    spec = make_spec()
    first = raw(spec, Event("m", START_US, [1.0, 2.0]))
    late = Event("m", START_US - 10**10, [1.0, 2.0])
    padding = "x" * (MAX_EVENT_BYTES - len(payload(spec, late, note="")))
    raws = [first, raw(spec, late, note=padding)]
    outputs = make_pipeline(spec).step(PartitionState(spec), chunk_of(raws))
    message = msgspec.json.decode(outputs.records[-1].value, type=LateEvent)
    assert base64.b64decode(message.payload) == raws[1].value


def test_the_model_is_not_asked_about_late_or_dead_events() -> None:
    spec = make_spec()
    asked = []

    def model(features: np.ndarray[Any, np.dtype[np.float32]]) -> Any:
        asked.append(len(features))
        return scores_by_bits(features)

    pipeline, state = make_pipeline(spec, model), PartitionState(spec)
    late = raw(spec, Event("m0", START_US - 10**10, [0.0, 0.0]))
    pipeline.step(state, chunk_of([*(raw(spec, e) for e in on_time(5)), late, Raw(None, b"{}", 0)]))
    pipeline.step(state, chunk_of([late], 7))
    assert asked == [5]
