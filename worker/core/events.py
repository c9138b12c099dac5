"""From raw Kafka records to columns of readings, and to reasons where that fails.

Owns what a usable event is. Everything that is not becomes a :class:`Reject` with
a reason; nothing raises, whatever the bytes are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from worker.core.channels import ChannelSpec
from worker.core.features import mask_impossible
from worker.core.messages import (
    DEAD_LETTER_REASONS,
    MAX_EVENT_BYTES,
    DeadLetterReason,
    MaintenanceNotice,
    event_type,
    format_time_us,
    to_time_us,
)

EARLIEST_US = 946_684_800_000_000
"""2000-01-01: anything earlier is a clock that was never set, or seconds read as milliseconds."""
LATEST_US = 4_102_444_800_000_000
"""2100-01-01; up to here a float64 of seconds resolves microseconds."""
MAX_NESTING = 100
"""How deep arrays and objects of unknown fields may be nested. The decoder's own bound depends
on the caller's stack, so that the same bytes could be judged differently another time."""
MAX_DETAIL_CHARS = 500
STRETCH = 128
"""Records that are decoded together: one that is garbage costs its neighbours time."""
_JSON_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


@dataclass(frozen=True)
class Chunk:
    """Consecutive records of one partition, as fetched.

    Attributes:
        offsets, timestamps_ms: (n,) Kafka offsets, ascending, and Kafka timestamps.
        keys, values: n raw keys and values; None where Kafka has none.
    """

    topic: str
    partition: int
    offsets: NDArray[np.int64]
    timestamps_ms: NDArray[np.int64]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]

    def __len__(self) -> int:
        return len(self.offsets)

    def since(self, offset: int) -> Chunk:
        """The records at or after ``offset``."""
        start = int(np.searchsorted(self.offsets, offset))
        if start == 0:
            return self
        return Chunk(
            self.topic,
            self.partition,
            self.offsets[start:],
            self.timestamps_ms[start:],
            self.keys[start:],
            self.values[start:],
        )


class Reject(NamedTuple):
    """Why the record at position ``row`` of its chunk cannot be used."""

    row: int
    reason: DeadLetterReason
    detail: str


@dataclass(frozen=True)
class Readings:
    """The usable events of a chunk, as columns of equal length n.

    Attributes:
        rows: (n,) positions in the chunk.
        machine_ids: n ids as UTF-8.
        times_us: (n,) event times.
        record_times_us: (n,) Kafka timestamps of their records.
        values: (n, C) readings as they were sent, NaN where missing.
        impossible: (n, C) where a reading is outside its channel's physical range; what
            stands in ``values`` there is only to be told.
        categories: for each categorical channel, n values or None.
        codes: for each event channel, n codes or None.
        notices: announcements of planned maintenance, by position among the n.
    """

    rows: NDArray[np.int64]
    machine_ids: Sequence[bytes]
    times_us: NDArray[np.int64]
    values: NDArray[np.float64]
    record_times_us: NDArray[np.int64]
    impossible: NDArray[np.bool_]
    categories: dict[str, Sequence[str | None]]
    codes: dict[str, Sequence[str | int | None]]
    notices: dict[int, MaintenanceNotice]

    def take(self, at: NDArray[np.int64]) -> Readings:
        """The events at positions ``at`` (k,), ascending."""
        if len(at) == len(self.rows):
            return self
        pick = _picker(at, len(self.rows))
        place = {i: k for k, i in enumerate(at.tolist())} if self.notices else {}
        return Readings(
            rows=self.rows[at],
            machine_ids=pick(self.machine_ids),
            times_us=self.times_us[at],
            values=self.values[at],
            record_times_us=self.record_times_us[at],
            impossible=self.impossible[at],
            categories={name: pick(column) for name, column in self.categories.items()},
            codes={name: pick(column) for name, column in self.codes.items()},
            notices={place[i]: notice for i, notice in self.notices.items() if i in place},
        )


class EventDecoder:
    """Decodes the records of one channel specification."""

    def __init__(self, spec: ChannelSpec) -> None:
        self._spec = spec
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(event_type(spec)).decode
        self._fields = ["machine_id", "timestamp", *(c.name for c in spec.channels), "maintenance"]

    def decode(self, chunk: Chunk) -> tuple[Readings, list[Reject]]:
        """Split a chunk into usable readings and rejects; together they are all its records."""
        rejects: list[Reject] = []
        events = self._decode_all(chunk, rejects)
        rows = np.delete(np.arange(len(chunk)), [reject.row for reject in rejects])
        columns = dict(zip(self._fields, self._columns(events), strict=True))

        # Producers may write any Kafka timestamp; beyond this range they are all as wrong.
        records_us = np.clip(chunk.timestamps_ms[rows], -1, LATEST_US // 1000) * 1000
        times_us = self._times_us(columns["timestamp"], records_us)
        continuous = [columns[channel.name] for channel in self._spec.continuous]
        raw = np.array(continuous, np.float64).T.reshape(len(rows), len(continuous))
        values = mask_impossible(self._spec, raw)

        announced = np.array([notice is not None for notice in columns["maintenance"]], np.bool_)
        usable = self._check(rows, times_us, records_us, values, announced, rejects)
        keep = np.flatnonzero(usable)
        pick = _picker(keep, len(rows))
        notices = pick(columns["maintenance"])
        readings = Readings(
            rows=rows[keep],
            # The key of a usable event is its machine_id, already encoded.
            machine_ids=pick(_picker(rows, len(chunk))(chunk.keys)),
            times_us=times_us[keep],
            values=raw[keep],
            record_times_us=records_us[keep],
            impossible=(np.isnan(values) & ~np.isnan(raw))[keep],
            categories={c.name: pick(columns[c.name]) for c in self._spec.categorical},
            codes={c.name: pick(columns[c.name]) for c in self._spec.events},
            notices={i: notices[i] for i in np.flatnonzero(announced[keep]).tolist()},
        )
        return readings, sorted(rejects)

    def _columns(self, events: list[Any]) -> Sequence[Sequence[Any]]:
        columns = list(zip(*map(msgspec.structs.astuple, events), strict=True))
        return columns or [()] * len(self._fields)

    def _decode_all(self, chunk: Chunk, rejects: list[Reject]) -> list[Any]:
        """Decode every record; a stretch at once where nothing is wrong with it."""
        events: list[Any] = []
        for begin in range(0, len(chunk), STRETCH):
            keys = chunk.keys[begin : begin + STRETCH]
            values = chunk.values[begin : begin + STRETCH]
            found = self._decode_together(keys, values)
            if found is not None:
                events += found
                continue
            for row, (key, value) in enumerate(zip(keys, values, strict=True), begin):
                decoded = self._decode_one(key, value)
                if isinstance(decoded, tuple):
                    rejects.append(Reject(row, *decoded))
                else:
                    events.append(decoded)
        return events

    def _decode_together(
        self, keys: Sequence[bytes | None], values: Sequence[bytes | None]
    ) -> list[Any] | None:
        """Decode records with which nothing is wrong; None where there is one that is not so."""
        try:
            if max(map(len, values)) <= MAX_EVENT_BYTES and _is_flat(values):  # type: ignore[arg-type]
                events = list(map(self._decode, values))  # type: ignore[arg-type]
                if [event.machine_id.encode() for event in events] == keys:
                    return events
        except (TypeError, ValueError):
            pass
        return None

    def _decode_one(
        self, key: bytes | None, value: bytes | None
    ) -> tuple[DeadLetterReason, str] | Any:
        if not value:
            return "empty", DEAD_LETTER_REASONS["empty"]
        if len(value) > MAX_EVENT_BYTES:
            return "too-large", f"the value has {len(value)} bytes; at most {MAX_EVENT_BYTES}"
        if _nesting(value) > MAX_NESTING:
            return "malformed-json", f"the value is nested more than {MAX_NESTING} levels deep"
        try:
            event = self._decode(value)
            encoded_id = event.machine_id.encode()
        except msgspec.ValidationError as error:
            return "invalid-field", str(error)[:MAX_DETAIL_CHARS]
        except UnicodeError as error:
            return "not-utf8", str(error)
        except msgspec.DecodeError as error:
            return _explain_malformed(value, str(error))
        if key != encoded_id:
            shown = "absent" if key is None else repr(key[:64])
            return "key-mismatch", f"the key is {shown}, the machine_id {event.machine_id[:64]!r}"
        return event

    @staticmethod
    def _times_us(
        timestamps: Sequence[datetime | int | None], records_us: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        if set(map(type, timestamps)) == {datetime}:  # what gateways usually send
            times_s = np.fromiter(map(datetime.timestamp, timestamps), np.float64)  # type: ignore[arg-type]
            return np.rint(times_s * 1e6).astype(np.int64)
        times_us = np.empty(len(timestamps), np.int64)
        for i, timestamp in enumerate(timestamps):
            times_us[i] = records_us[i] if timestamp is None else to_time_us(timestamp)
        return times_us

    def _check(
        self,
        rows: NDArray[np.int64],
        times_us: NDArray[np.int64],
        records_us: NDArray[np.int64],
        values: NDArray[np.float64],
        announced: NDArray[np.bool_],
        rejects: list[Reject],
    ) -> NDArray[np.bool_]:
        """Judge decoded events by time and content; returns which (n,) are usable."""
        outside = (times_us < EARLIEST_US) | (times_us >= LATEST_US)
        future = ~outside & (times_us > records_us + self._spec.max_future_us)
        blank = ~outside & ~future & ~announced & np.isnan(values).all(axis=1)
        for i in np.flatnonzero(outside):
            detail = f"the timestamp is {times_us[i]} microseconds after 1970"
            rejects.append(Reject(int(rows[i]), "timestamp-out-of-range", detail))
        for i in np.flatnonzero(future):
            ahead_s = (times_us[i] - records_us[i]) / 1e6
            detail = f"{format_time_us(times_us[i])} is {ahead_s:.3f} s ahead of the record's time"
            rejects.append(Reject(int(rows[i]), "timestamp-in-future", detail))
        for i in np.flatnonzero(blank):
            detail = DEAD_LETTER_REASONS["no-usable-channel"]
            rejects.append(Reject(int(rows[i]), "no-usable-channel", detail))
        return ~(outside | future | blank)


def _is_flat(values: Sequence[bytes]) -> bool:
    """Whether no value can be nested too deeply, judged at a glance over them all."""
    joined = b"".join(values)
    return joined.count(b"{") + joined.count(b"[") < len(values) + MAX_NESTING


def _nesting(value: bytes) -> int:
    """How deep arrays and objects are nested in a JSON text."""
    if value.count(b"{") + value.count(b"[") <= MAX_NESTING:
        return 0
    text = np.frombuffer(_JSON_STRING.sub(b"", value), np.uint8)
    opened = np.isin(text, list(b"{[")).astype(np.int64) - np.isin(text, list(b"}]"))
    return int(opened.cumsum().max(initial=0))


def _explain_malformed(value: bytes, detail: str) -> tuple[DeadLetterReason, str]:
    try:
        value.decode()
    except UnicodeDecodeError as error:
        return "not-utf8", str(error)
    return "malformed-json", detail


def _picker(keep: NDArray[np.int64], total: int) -> Any:
    """A function that selects ``keep`` from any sequence of ``total`` items."""
    if len(keep) == total:
        return lambda items: items
    positions = keep.tolist()
    return lambda items: [items[position] for position in positions]
