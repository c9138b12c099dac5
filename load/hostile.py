"""Payloads that no well-behaved gateway sends, and what must become of those that are clear.

Everything follows from the seed. Events that nothing is wrong with come from machines of
their own, so that no mutated event's time can make them late.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from worker.core.channels import ChannelSpec
from worker.core.events import MAX_NESTING
from worker.core.messages import MAX_EVENT_BYTES, MAX_MACHINE_ID_CHARS

MIB = 1024 * 1024
HUGE_SHARE = 0.00003
"""Of payloads that have 1 to 10 MiB: some thirty in a million."""
LARGE_SHARE = 0.002
"""Of those that are a little longer than an event may be, and the above."""
MS_PER_DAY = 86_400_000

JUNK = [
    "null", "true", "[]", "{}", '""', '"x"', "-0.0", "1e999", "-1e999", "1e308", "5e-324",
    "9" * 30, "9" * 400, "0." + "1" * 300, "NaN", "Infinity", "-Infinity", "1.", ".5", "+1", "01",
    "0x10", "--1", '"1.5"', '"NaN"', '"\\ud800"', '"\\u0000"', '"\\x"', '"\\',
    "18446744073709551616", "-9223372036854775809", "[" * 50 + "]" * 50,
    '{"a":' * 40 + "1" + "}" * 40,
    '{"a":{"b":[1,2,{"c":null}]}}', '"' + "z" * 3000 + '"', "1e30", "-1e31",
]  # fmt: skip
TIMES = [
    "-1", "0", "99999999999999", "1e12", "9223372036854775807", '"2026-03-02T06:15:30"',
    '"2026-13-45T99:99:99Z"', '"0001-01-01T00:00:00Z"', '"9999-12-31T23:59:59-14:00"',
    '"2026-03-02T06:15:60Z"', '"Mon, 02 Mar 2026 06:15:30 GMT"', '"\\u0032026"', "null",
]  # fmt: skip


class Payload(NamedTuple):
    """A record to publish.

    Attributes:
        expected: "scored", a reason of a dead letter, or None where only the worker can tell.
    """

    key: bytes | None
    value: bytes | None
    expected: str | None


Fields = dict[str, str]
"""An event's fields, each value as JSON text."""


class Generator:
    """Makes payloads.

    Args:
        spec: of the events that they begin as.
        now_ms: clock to put events near to; the record's own time must not be earlier.
    """

    def __init__(self, spec: ChannelSpec, seed: int, now_ms: int) -> None:
        self._spec = spec
        self._rng = random.Random(seed)
        self._now_ms = now_ms
        self._made = 0
        self._known: list[tuple[Callable[[], tuple[bytes | None, bytes | None]], str]] = [
            (self._empty, "empty"),
            (self._not_utf8, "not-utf8"),
            (self._truncated, "malformed-json"),
            (self._nested, "malformed-json"),
            (self._not_a_number, "malformed-json"),
            (self._wrong_type, "invalid-field"),
            (self._wrong_notice, "invalid-field"),
            (self._no_machine, "invalid-field"),
            (self._long_machine, "invalid-field"),
            (self._other_key, "key-mismatch"),
            (self._old, "timestamp-out-of-range"),
            (self._future, "timestamp-in-future"),
            (self._no_reading, "no-usable-channel"),
        ]

    def __iter__(self) -> Iterator[Payload]:
        """Without end: a third valid events, a third with a known flaw, a third anything."""
        rng = self._rng
        while True:
            self._made += 1
            kind = rng.random()
            size = rng.random()
            if size < HUGE_SHARE:
                yield Payload(*self._huge(), "too-large")
            elif size < LARGE_SHARE:
                yield Payload(*self._too_large(), "too-large")
            elif kind < 1 / 3:
                machine, fields = self._event("good")
                yield Payload(machine, _text(fields), "scored")
            elif kind < 2 / 3:
                make, expected = rng.choice(self._known)
                yield Payload(*make(), expected)
            else:
                yield Payload(*self._mutated(), None)

    def _event(self, prefix: str = "hurt") -> tuple[bytes, Fields]:
        rng = self._rng
        machine = f"{prefix}-{rng.randrange(200):03d}"
        fields = {"machine_id": f'"{machine}"', "timestamp": str(self._now_ms + self._made % 1000)}
        for channel in self._spec.continuous:
            low = channel.min if channel.min is not None else -100.0
            high = channel.max if channel.max is not None else low + 1000.0
            fields[channel.name] = repr(round(rng.uniform(low, high), 3))
        for channel in self._spec.categorical:
            fields[channel.name] = json.dumps(rng.choice(channel.values))
        return machine.encode(), fields

    def _with(self, **changed: str) -> tuple[bytes, bytes]:
        machine, fields = self._event()
        return machine, _text({**fields, **changed})

    def _channel(self) -> str:
        return self._rng.choice(self._spec.continuous).name

    # -- a known flaw ------------------------------------------------------------------

    def _empty(self) -> tuple[bytes | None, bytes | None]:
        return self._rng.choice((b"hurt-000", None)), self._rng.choice((None, b""))

    def _too_large(self) -> tuple[bytes, bytes]:
        size = MAX_EVENT_BYTES + self._rng.choice((1, 2, 1000, 30_000))
        machine, value = self._with(note='""')
        return machine, value[:-2] + b"x" * (size - len(value)) + b'"}'

    def _huge(self) -> tuple[bytes, bytes]:
        size = self._rng.randrange(MIB, 10 * MIB)
        filler = self._rng.choice((b"[", b'"', b"\xff", b"x", b'{"a":'))
        return b"hurt-000", (filler * size)[:size]

    def _not_utf8(self) -> tuple[bytes, bytes]:
        # In a field that is read: what unknown fields hold is nobody's business.
        machine, value = self._with()
        bad = self._rng.choice((b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"))
        return machine, value.replace(b"hurt", b"hurt" + bad)

    def _truncated(self) -> tuple[bytes, bytes]:
        machine, value = self._with()
        return machine, value[: self._rng.randrange(1, len(value))]

    def _nested(self) -> tuple[bytes, bytes]:
        depth = MAX_NESTING + self._rng.randrange(1, 5000)
        return self._with(note="[" * depth + "]" * depth)

    def _not_a_number(self) -> tuple[bytes, bytes]:
        junk = self._rng.choice(("NaN", "Infinity", "-Infinity", "1.", ".5", "+1", "01", "0x10"))
        return self._with(**{self._channel(): junk})

    def _wrong_type(self) -> tuple[bytes, bytes]:
        junk = self._rng.choice(('"1.5"', "true", "[]", "{}", '""'))
        return self._with(**{self._channel(): junk})

    def _wrong_notice(self) -> tuple[bytes, bytes]:
        now, until = f'"from":{self._now_ms}', f'"until":{self._now_ms + 1000}'
        backwards = f'"from":{self._now_ms},"until":{self._now_ms - 1}'
        endless = f'"from":0,"until":{self._now_ms}'
        fields = ("", now, until, backwards, endless, f'{now},{until},"untill":1')
        return self._with(maintenance=f"{{{self._rng.choice(fields)}}}")

    def _no_machine(self) -> tuple[bytes, bytes]:
        machine, fields = self._event()
        del fields["machine_id"]
        return machine, _text(fields)

    def _long_machine(self) -> tuple[bytes, bytes]:
        longest = 40_000 if self._rng.random() < 0.01 else 100
        name = "m" * (MAX_MACHINE_ID_CHARS + self._rng.randrange(1, longest))
        return name.encode(), self._with(machine_id=f'"{name}"')[1]

    def _other_key(self) -> tuple[bytes | None, bytes]:
        keys = (None, b"", b"\xff\xfe", b"hurt", b"hurt-000\x00", b"k" * 70_000)
        return self._rng.choice(keys), self._with()[1]

    def _old(self) -> tuple[bytes, bytes]:
        # Before 2000 in every unit: milliseconds, and text.
        times = (str(self._rng.randrange(900_000_000_000)), '"1999-12-31T23:59:59Z"')
        return self._with(timestamp=self._rng.choice(times))

    def _future(self) -> tuple[bytes, bytes]:
        ahead_ms = self._rng.randrange(2, 1000) * MS_PER_DAY
        return self._with(timestamp=str(self._now_ms + ahead_ms))

    def _no_reading(self) -> tuple[bytes, bytes]:
        machine, fields = self._event()
        junk = self._rng.choice(("null", "1e31", "-1e31"))
        names = {channel.name for channel in self._spec.continuous}
        return machine, _text({k: junk if k in names else v for k, v in fields.items()})

    # -- anything ----------------------------------------------------------------------

    def _mutated(self) -> tuple[bytes | None, bytes | None]:
        rng = self._rng
        machine, fields = self._event()
        items = list(fields.items())
        value: bytes | None = None
        key: bytes | None = machine
        for _ in range(rng.choice((1, 1, 2, 3))):
            text = _join(items)
            match rng.randrange(12):
                case 0 | 1:
                    place = rng.randrange(len(items))
                    items[place] = (items[place][0], rng.choice(JUNK))
                case 2:
                    near_ms = self._now_ms + rng.randrange(-MS_PER_DAY, MS_PER_DAY // 100)
                    items.append(("timestamp", rng.choice((str(near_ms), rng.choice(TIMES)))))
                case 3:
                    del items[rng.randrange(len(items))]
                    items = items or [("x", "1")]
                case 4:
                    items.append((rng.choice(("x", "", "machine_id\\u0000")), rng.choice(JUNK)))
                case 5:
                    items.insert(rng.randrange(len(items) + 1), rng.choice(items))
                case 6:
                    key = rng.choice((None, b"", machine[:-1], machine + b"0", rng.randbytes(9)))
                case 7:
                    value = text[: rng.randrange(len(text) + 1)]
                case 8:
                    broken = bytearray(text)
                    for _ in range(rng.randrange(1, 6)):
                        broken[rng.randrange(len(broken))] = rng.randrange(256)
                    value = bytes(broken)
                case 9:
                    other = _text(self._event()[1])
                    value = text[: rng.randrange(len(text))] + other[rng.randrange(len(other)) :]
                case 10:
                    affixes = (b"\xef\xbb\xbf", b" \n\t", b"\x00", b"//", b"\xff", b",", b"{}")
                    value = rng.choice(affixes) + text + rng.choice(affixes)
                case 11:
                    value = rng.randbytes(rng.randrange(200))
        return key, _join(items) if value is None else value


def _text(fields: Fields) -> bytes:
    return _join(list(fields.items()))


def _join(items: list[tuple[str, str]]) -> bytes:
    return ("{" + ",".join(f'"{name}":{value}' for name, value in items) + "}").encode()
