"""The simulator: machines, their faults and their gateways, as a stream of events.

Readings are made in blocks of ``BLOCK_TICKS`` whatever the caller asks for, each
block from its own random generator; what is asked for only decides how much of
the stream is handed over. So the stream does not depend on how it is fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from worker.core.channels import ChannelSpec
from worker.simulator.changes import FleetChange, apply_changes
from worker.simulator.faults import DRIFT_KIND, Effects, Fault, FaultRates, FaultSchedule
from worker.simulator.models import GenericModel, MachineModel, MillingModel, characters
from worker.simulator.truth import Truth

Floats = NDArray[np.float64]
Times = NDArray[np.int64]

BLOCK_TICKS = 64
US_PER_MS = 1_000
MAX_JITTER_US = 200_000
GLITCH_SHARE = 0.08
DRIFT_SCALES = 4.0
LATEST_DELAY_US = 30 * 60_000_000


@dataclass(frozen=True)
class Readings:
    """Rows in order of event time.

    Attributes:
        machines: (n,) index into ``Simulator.machine_ids``.
        times_us: (n,) event times.
        values: (n, C) as measured, NaN where missing.
    """

    machines: NDArray[np.int64]
    times_us: Times
    values: Floats


@dataclass
class _Pending:
    """Rows in order of publication that were not handed over yet.

    Attributes:
        publish_us: (n,) when the gateway sends the row.
        absent: (n,) missing readings are left out instead of null.
        garbage: (n,) 0, or 1 + the index of what is wrong with the payload.
    """

    publish_us: Times
    machines: NDArray[np.int64]
    times_us: Times
    values: Floats
    absent: NDArray[np.bool_]
    garbage: NDArray[np.int64]

    def take(self, rows: Any) -> _Pending:
        return _Pending(*(column[rows] for column in vars(self).values()))

    @classmethod
    def join(cls, parts: list[_Pending]) -> _Pending:
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        joined = cls(*map(np.concatenate, columns))
        order = np.lexsort((joined.garbage, joined.times_us, joined.machines, joined.publish_us))
        return joined.take(order)


class Simulator:
    """A stream of events from simulated machines.

    Machines with the five default channels are milling machines; any other channel
    set gets generic machines. Fetch with either :meth:`advance` or :meth:`readings`.

    Args:
        machines: how many machines.
        interval_s: time between two events of a machine.
        start_us: event time at which the stream begins.
        seed: everything random follows from it, but not what sets the machines apart.
        faults: how often faults begin; ``FaultRates.none()`` for healthy machines.
        late_rate: share of events that gateways hold back for longer than the grace.
        garbage_rate: unusable payloads per event, in addition to the events.
        changes: what changes for all machines.
    """

    def __init__(
        self,
        spec: ChannelSpec,
        *,
        start_us: int,
        machines: int = 50,
        interval_s: float = 10.0,
        seed: int = 7,
        faults: FaultRates | None = None,
        late_rate: float = 0.0,
        garbage_rate: float = 0.0,
        changes: Sequence[FleetChange] = (),
    ) -> None:
        self.spec = spec
        self.changes = tuple(changes)
        self.machine_ids = [f"m-{m + 1:04d}" for m in range(machines)]
        self.seed = seed
        self.start_us = start_us // US_PER_MS * US_PER_MS
        self._interval_us = max(round(interval_s * 1e6), US_PER_MS)
        self._late_rate = late_rate
        self._garbage_rate = garbage_rate
        self._block = 0
        self._until_us = self.start_us

        rng = np.random.default_rng([seed, 0])
        chances, _ = characters(machines, 0)
        types = np.searchsorted(np.cumsum(MillingModel.TYPE_SHARES)[:-1], chances, side="right")
        names = [c.name for c in spec.continuous]
        self._milling = sorted(names) == sorted(MillingModel.CHANNELS)
        self._model: MachineModel = (
            MillingModel(spec, types, self._interval_us, seed)
            if self._milling
            else GenericModel(spec, machines, self._interval_us, seed)
        )
        self._categories = [self._category(c.values, types, chances) for c in spec.categorical]
        self._phase_us = rng.integers(0, max(self._interval_us // 2, 1), machines)
        self._schedule = FaultSchedule(
            self._model.kinds,
            names,
            self.machine_ids,
            FaultRates() if faults is None else faults,
            start_us=self.start_us,
            window_us=spec.length_us,
            seed=seed,
        )
        self._stuck: dict[Fault, float] = {}
        self._encoder = _EventEncoder(spec, self.machine_ids, self._categories)
        no_times = np.empty(0, np.int64)
        self._pending = _Pending(
            publish_us=no_times,
            machines=no_times,
            times_us=no_times,
            values=np.empty((0, len(names))),
            absent=np.empty(0, np.bool_),
            garbage=no_times,
        )

    def advance(self, until_us: int) -> list[tuple[bytes, bytes]]:
        """Events published before ``until_us`` since the last call, as (key, value).

        They come in order of publication, which is order of event time but for late ones.
        """
        ready = self._fetch(until_us)
        return self._encoder.encode(
            ready.machines, ready.times_us, ready.values, ready.absent, ready.garbage
        )

    def readings(self, until_us: int) -> Readings:
        """Like :meth:`advance`, as arrays; unusable payloads are left out."""
        ready = self._fetch(until_us)
        ready = ready.take(ready.garbage == 0)
        return Readings(ready.machines, ready.times_us, ready.values)

    def truth(self) -> Truth:
        """The faults in what was handed over so far, each cut off at its end."""
        faults = [
            msgspec.structs.replace(fault, end_us=min(fault.end_us, self._until_us))
            for _, fault in self._schedule.between(self.start_us, self._until_us)
        ]
        faults.sort(key=lambda fault: (fault.start_us, fault.machine_id))
        return Truth(
            spec=self.spec.name,
            seed=self.seed,
            window_us=self.spec.length_us,
            start_us=self.start_us,
            end_us=self._until_us,
            machines=tuple(self.machine_ids),
            faults=tuple(faults),
            changes=tuple(one for one in self.changes if one.start_us < self._until_us),
        )

    def _category(
        self, values: tuple[str, ...], types: NDArray[np.int64], chances: Floats
    ) -> list[str]:
        if self._milling and set(values) == set(MillingModel.TYPES):
            return [MillingModel.TYPES[t] for t in types]
        return [values[int(chance * len(values))] for chance in chances]

    def _fetch(self, until_us: int) -> _Pending:
        self._until_us = max(self._until_us, until_us)
        parts = [self._pending]
        while self.start_us + self._block * BLOCK_TICKS * self._interval_us < until_us:
            parts.append(self._next_block())
        self._pending = parts[0] if len(parts) == 1 else _Pending.join(parts)
        cut = int(np.searchsorted(self._pending.publish_us, until_us))
        ready = self._pending.take(slice(None, cut))
        self._pending = self._pending.take(slice(cut, None))
        return ready

    def _next_block(self) -> _Pending:
        machines = len(self.machine_ids)
        ticks = np.arange(self._block * BLOCK_TICKS, (self._block + 1) * BLOCK_TICKS)
        times_us = self.start_us + ticks * self._interval_us
        healthy = np.random.default_rng([self.seed, 3, self._block])
        faulty = np.random.default_rng([self.seed, 4, self._block])
        gateway = np.random.default_rng([self.seed, 5, self._block])
        self._block += 1

        names = [c.name for c in self.spec.continuous]
        faults = self._schedule.between(int(times_us[0]), int(times_us[-1]) + self._interval_us)
        effects = Effects(faults, self._schedule.kinds, times_us, machines, names)
        values = self._model.block(effects, healthy)
        apply_changes(self.changes, names, self._model.scales, times_us, values)
        present, absent = self._measure(values, effects, faulty)
        for c, digits in enumerate(self._model.digits):
            values[:, :, c] = np.round(values[:, :, c], digits)

        jitter = healthy.integers(0, min(MAX_JITTER_US, self._interval_us // 2) + 1, present.shape)
        event_us = (times_us[:, None] + self._phase_us + jitter) // US_PER_MS * US_PER_MS
        late = gateway.random(present.shape) < self._late_rate
        delay_us = gateway.integers(0, LATEST_DELAY_US, present.shape)
        delay_us += self.spec.grace_us + 2 * self._interval_us
        broken = gateway.random(present.shape) < self._garbage_rate
        garbage = gateway.integers(1, 1 + len(_GARBAGE), present.shape)

        tick, machine = np.nonzero(present)
        rows = _Pending(
            publish_us=(event_us + np.where(late, delay_us, 0))[tick, machine],
            machines=machine,
            times_us=event_us[tick, machine],
            values=values[tick, machine],
            absent=absent[tick, machine],
            garbage=np.zeros(len(tick), np.int64),
        )
        extra = rows.take(broken[tick, machine])
        extra.garbage = garbage[tick, machine][broken[tick, machine]]
        return _Pending.join([rows, extra])

    def _measure(
        self, values: Floats, effects: Effects, rng: np.random.Generator
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Apply what is wrong with sensors to ``values`` (B, M, C) in place.

        Returns:
            (B, M) whether there is an event, and whether missing readings are left out.
        """
        names = [c.name for c in self.spec.continuous]
        present = np.ones(values.shape[:2], np.bool_)
        absent = np.zeros(values.shape[:2], np.bool_)
        glitches = rng.random(values.shape) < GLITCH_SHARE
        absurd = rng.choice(_ABSURD, values.shape)
        values += DRIFT_SCALES * self._model.scales * effects.by_channel(DRIFT_KIND)
        for m, fault in effects.faults:
            if fault.category != "sensor":
                continue
            rows = effects.in_force(fault)
            c = names.index(fault.channels[0])
            if fault.kind == "silent":
                present[rows, m] = False
            elif fault.kind == "missing":
                values[rows, m, c] = np.nan
                # One kind of gateway sends null, the other leaves the field out.
                absent[rows, m] = fault.severity > 1.0
            elif fault.kind == "glitch":
                # The first reading in any case: short faults at long intervals have few.
                first_tick = effects.times_us < fault.start_us + self._interval_us
                hit = rows & (glitches[:, m, c] | first_tick)
                values[hit, m, c] = absurd[hit, m, c]
            elif rows.any():
                first = float(values[np.argmax(rows), m, c])
                values[rows, m, c] = self._stuck.setdefault(fault, first)
        return present, absent


_ABSURD = np.array([-9999.0, 9999.0, 65535.0, 1e6, -273.16])


class _EventEncoder:
    """Writes rows as gateways would: flat JSON, times in milliseconds."""

    def __init__(
        self, spec: ChannelSpec, machine_ids: list[str], categories: list[list[str]]
    ) -> None:
        continuous = {c.name: i for i, c in enumerate(spec.continuous)}
        labels = iter(categories)
        sent = [c for c in spec.channels if c.kind != "event"]  # simulated machines have no codes
        self._columns: list[int | list[str]] = [
            continuous[c.name] if c.name in continuous else next(labels) for c in sent
        ]
        fields = ["machine_id", "timestamp", *(c.name for c in sent)]
        self._event = msgspec.defstruct("Event", [(name, Any) for name in fields], gc=False)
        self._encode = msgspec.json.Encoder().encode
        self._ids = machine_ids
        self._keys = [machine_id.encode() for machine_id in machine_ids]

    def encode(
        self,
        machines: NDArray[np.int64],
        times_us: Times,
        values: Floats,
        absent: NDArray[np.bool_],
        garbage: NDArray[np.int64],
    ) -> list[tuple[bytes, bytes]]:
        """Keys and values of n rows."""
        texts = np.datetime_as_string(times_us.astype("datetime64[us]"), unit="ms", timezone="UTC")
        owner = machines.tolist()
        columns: list[list[Any]] = [[self._ids[m] for m in owner], texts.tolist()]
        for column in self._columns:
            if isinstance(column, int):
                columns.append(self._readings(values[:, column], absent))
            else:
                columns.append([column[m] for m in owner])
        # msgspec writes a NaN as null.
        payloads = map(self._encode, map(self._event, *columns))
        events = list(zip([self._keys[m] for m in owner], payloads, strict=True))
        for row in np.flatnonzero(garbage):
            events[row] = _spoil(events[row], _GARBAGE[garbage[row] - 1])
        return events

    def _readings(self, values: Floats, absent: NDArray[np.bool_]) -> list[Any]:
        readings: list[Any] = values.tolist()
        for row in np.flatnonzero(absent & np.isnan(values)):
            readings[row] = msgspec.UNSET
        return readings


_GARBAGE = ("truncated", "nan", "wrong-type", "wrong-key", "empty", "not-utf8", "year-3000")


def _spoil(event: tuple[bytes, bytes], how: str) -> tuple[bytes, bytes]:
    """What a broken gateway would send instead of ``event``; never usable."""
    key, value = event
    if how == "truncated":
        return key, value[: len(value) // 2]
    if how == "nan":
        return key, value[:-1] + b',"reading":NaN}'
    if how == "wrong-type":
        return key, value.replace(b'"machine_id":"', b'"machine_id":17,"was":"', 1)
    if how == "wrong-key":
        return b"gateway-1", value
    if how == "not-utf8":
        return key, value.replace(b"m-", b"m\xff", 1)
    if how == "year-3000":
        start = value.index(b'"timestamp":"') + len(b'"timestamp":"')
        return key, value[:start] + b"3000" + value[start + 4 :]
    return key, b""
