"""One dead letter or late event as it lies in its topic, whatever lies there.

Anybody may write to a topic, and another version may have: what cannot be read as a letter
is one all the same, with the reason ``unreadable``. Nothing here raises.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from worker.cluster import LAST_OFFSET, Record
from worker.core.messages import (
    DEAD_LETTER_REASONS,
    MAX_PAYLOAD_BYTES,
    DeadLetter,
    DeadLetterReason,
    LateEvent,
    Origin,
    record_id,
)
from worker.settings import Settings

UNREADABLE = "unreadable"
LATE = "late"

KindName = Literal["dead-letters", "late-events"]


@dataclass(frozen=True)
class Kind:
    """Dead letters or late events; everything else is the same for both.

    Attributes:
        name: of the command and of the declared topic.
        singular, plural: for sentences.
        type: of the messages in the topic.
    """

    name: KindName
    singular: str
    plural: str
    type: type[DeadLetter | LateEvent]

    def topic(self, settings: Settings) -> str:
        """The topic's name in the cluster."""
        topics = settings.topics
        return topics.dead_letters if self.name == "dead-letters" else topics.late_events


DEAD_LETTERS = Kind("dead-letters", "dead letter", "dead letters", DeadLetter)
LATE_EVENTS = Kind("late-events", "late event", "late events", LateEvent)

EXPLANATIONS: dict[str, str] = {
    **{str(reason): meaning for reason, meaning in DEAD_LETTER_REASONS.items()},
    LATE: "the event is older than its machine's watermark, so its panes were closed",
    UNREADABLE: "this record is not a letter of this version, or not one at all",
}

DECIDED_BY_BYTES: frozenset[str] = frozenset(
    {"empty", "too-large", "not-utf8", "malformed-json", "key-mismatch", "timestamp-out-of-range"}
)
"""Reasons that depend on nothing but key and value, so a replay alone changes nothing."""

_ANOTHER_PAYLOAD = "Bytes cannot be repaired by a replay: publish the event anew"
FIXES: dict[DeadLetterReason | Literal["late", "unreadable"], str] = {
    "empty": "Find what publishes records without a value to the input (deletion marks, a test) "
    "and stop it. There is nothing to replay.",
    "too-large": "Let the gateway send one event a record and leave out fields that are no "
    f"channels. {_ANOTHER_PAYLOAD}.",
    "not-utf8": "Let the gateway encode JSON as UTF-8, neither compressed nor in another "
    f"encoding. {_ANOTHER_PAYLOAD}.",
    "malformed-json": "Let the gateway send exactly one JSON object a record; often it was cut "
    f"short, or has NaN for a missing reading (write null). {_ANOTHER_PAYLOAD}.",
    "invalid-field": "Compare the payload with schemas/sensor-event.json. Where the gateway is "
    "right and the channels are not (a new category, another type), start the workers with a "
    "bundle for the right channels, then replay.",
    "key-mismatch": "Let the gateway publish with the machine_id as the Kafka key. "
    "A replay keeps the key, so publish the event anew.",
    "timestamp-out-of-range": "Set the gateway's clock; whole numbers are milliseconds or "
    f"microseconds since 1970, not seconds. {_ANOTHER_PAYLOAD}.",
    "timestamp-in-future": "Set the gateway's clock (NTP) and its time zone. The event can be "
    "replayed once its time has come, if the time is right.",
    "no-usable-channel": "Compare the readings' units and ranges with the channels: all are "
    "missing or outside min..max. Where the channels are wrong, start the workers with a bundle "
    "for the right ones, then replay.",
    "too-many-machines": "Look whether the machine ids are real; a faulty gateway invents them. "
    "Where they are, raise worker.max_machines and restart the workers, then replay.",
    "too-many-windows": "Call one of the machine's windows off (driftdetector maintenance MACHINE "
    "--from TIME --cancel), or wait until one is over; then replay.",
    "late": "Look why the gateway delivers late (buffering, a wrong clock), or use a bundle "
    "with a longer window.grace. A replayed event is late again unless the workers' state has "
    "been built anew meanwhile.",
    "unreadable": "Find out who writes to this topic besides the workers; letters of a newer "
    "version are read by that version's command.",
    "invalid-partial": "Let only workers of this app_id write to its topic of drift partials, and "
    "run one version everywhere. There is nothing to replay: it was no event.",
}


class _Fields(msgspec.Struct):
    """What a letter's payload may say of itself; other fields are ignored."""

    machine_id: Any = None
    timestamp: Any = None


_decode_fields = msgspec.json.Decoder(_Fields).decode
_decoders = {kind.name: msgspec.json.Decoder(kind.type) for kind in (DEAD_LETTERS, LATE_EVENTS)}


@dataclass(slots=True)
class Letter:
    """A dead letter or late event.

    Attributes:
        record: the letter itself.
        message: what it says; None where it is unreadable.
        detail: what exactly is wrong, for a person.
        key: the original key (at most its first 16384 bytes), None where there is none.
        payload: the original value (of dead letters at most the first 16384 bytes).
    """

    record: Record
    message: DeadLetter | LateEvent | None
    detail: str
    key: bytes | None
    payload: bytes | None

    @property
    def id(self) -> str:
        """``topic-partition-offset`` of the letter itself."""
        return record_id(self.record.topic, self.record.partition, self.record.offset)

    @property
    def reason(self) -> str:
        """A dead letter's reason, ``late``, or ``unreadable``."""
        if isinstance(self.message, DeadLetter):
            return self.message.reason
        return UNREADABLE if self.message is None else LATE

    @property
    def origin(self) -> Origin | None:
        """The record it is about."""
        return None if self.message is None else self.message.origin

    @property
    def payload_bytes(self) -> int:
        """Length of the original value; of an unreadable letter that of its own."""
        if isinstance(self.message, DeadLetter):
            return self.message.payload_bytes
        return len(self.payload or b"")

    @property
    def is_whole(self) -> bool:
        """Whether key and value are all there; a key as long as a cut one may be cut."""
        return self.payload_bytes == len(self.payload or b"") and (
            self.key is None or len(self.key) < MAX_PAYLOAD_BYTES
        )

    @property
    def machine(self) -> str | None:
        """The machine it is about: the key, or without one the payload's machine_id."""
        if isinstance(self.message, LateEvent):
            return self.message.machine_id
        if self.key is not None:
            return self.key.decode(errors="replace")
        return machine_in(self.payload)

    def fits(self, key: bytes | None, value: bytes | None) -> bool:
        """Whether a record's key and value are what this letter is about."""
        if not isinstance(self.message, DeadLetter):
            return (key, value) == (self.key, self.payload)
        digest = None if value is None else hashlib.sha256(value).hexdigest()
        kept = None if key is None else key[:MAX_PAYLOAD_BYTES]
        return (
            len(value or b"") == self.message.payload_bytes
            and digest == self.message.payload_sha256
            and kept == self.key
        )


def read_letter(kind: Kind, record: Record) -> Letter:
    """Read a record of the topic of dead letters or late events."""
    try:
        message = _decoders[kind.name].decode(record.value or b"")
        if isinstance(message, LateEvent):
            key: bytes | None = message.machine_id.encode()
            payload = _bytes(message.payload)
            detail = f"{message.lateness_ms / 1000:.1f} s behind {message.watermark}"
        else:
            key, payload, detail = _bytes(message.key), _bytes(message.payload), message.detail
        origin = message.origin
        if origin.partition not in range(2**31) or origin.offset not in range(LAST_OFFSET):
            raise ValueError(f"no record can be at {origin.partition}-{origin.offset}")
    except (ValueError, RecursionError) as error:
        detail = "it has no value" if not record.value else str(error)
        return Letter(record, None, detail, record.key, record.value)
    return Letter(record, message, detail, key, payload)


def machine_in(payload: bytes | None) -> str | None:
    """The machine_id in a payload, where it can be read."""
    fields = _fields(payload)
    found = None if fields is None else fields.machine_id
    return found if isinstance(found, str) else None


def has_timestamp(payload: bytes | None) -> bool:
    """Whether a payload has a timestamp of its own, as far as it can be read."""
    fields = _fields(payload)
    return fields is not None and fields.timestamp is not None


def _fields(payload: bytes | None) -> _Fields | None:
    try:
        return _decode_fields(payload or b"")
    except (ValueError, RecursionError):
        return None


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)
