"""Every message that enters or leaves DriftDetector, as typed records.

This module is the one source of the contracts: ``schemas/*.json`` and the
AsyncAPI document are generated from it (``worker/contracts.py``) and a test
fails when they differ. All messages are JSON except the raw sensor event,
whose channels come from configuration: :func:`event_type` builds its type.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec

from worker.core.channels import ChannelSpec

MAX_MACHINE_ID_CHARS = 256
MAX_CODE_CHARS = 64
MAX_EVENT_BYTES = 65_536
MAX_PAYLOAD_BYTES = 16_384
FIRST_MICROSECONDS = 10**14
"""Whole numbers from here on are microseconds (1973), below milliseconds (to the year 5138)."""
LONGEST_MAINTENANCE_US = 366 * 86_400_000_000
"""A year: nothing of the machine counts meanwhile, so a mistyped end must not go unnoticed."""

MachineId = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_MACHINE_ID_CHARS)]

Code = (
    Annotated[str, msgspec.Meta(max_length=MAX_CODE_CHARS)]
    | Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
)
"""A machine's own status or error code, as a channel of kind "event" gives it."""

AwareTime = Annotated[datetime, msgspec.Meta(tz=True)]
EpochTime = Annotated[int, msgspec.Meta(ge=0, le=2**62)]

Severity = Literal["low", "medium", "high"]

EpisodeStatus = Literal["opened", "updated", "closed"]
CloseReason = Literal["recovered", "maintenance", "forgotten"]

DriftKind = Literal["drift", "health"]
DriftStatus = Literal["opened", "updated", "closed"]
DriftCloseReason = Literal["recovered", "accepted", "new-reference"]
DriftDirection = Literal["up", "down", "wider", "narrower", "shape", "missing", "none"]
DriftAdvice = Literal[
    "sensor-fault", "recalibrated-sensor", "new-regime", "gradual-wear", "seasonal", "unclear"
]

HealthStatus = Literal["opened", "closed"]

HealthKind = Literal["missing", "stuck", "out-of-range", "glitch", "silent", "clock-skew"]

DeadLetterReason = Literal[
    "empty",
    "too-large",
    "not-utf8",
    "malformed-json",
    "invalid-field",
    "key-mismatch",
    "timestamp-out-of-range",
    "timestamp-in-future",
    "no-usable-channel",
    "too-many-machines",
    "too-many-windows",
    "invalid-partial",
]

DEAD_LETTER_REASONS: dict[DeadLetterReason, str] = {
    "empty": "the record has no value",
    "too-large": f"the value is longer than {MAX_EVENT_BYTES} bytes",
    "not-utf8": "the value is not UTF-8 text",
    "malformed-json": "the value is not one JSON document",
    "invalid-field": "a field is missing, of the wrong type or not allowed",
    "key-mismatch": "the Kafka key is not the machine_id",
    "timestamp-out-of-range": "the timestamp is before 2000 or after 2100",
    "timestamp-in-future": "the timestamp is further ahead of the record's than max_future",
    "no-usable-channel": "no channel has a reading within its physical range",
    "too-many-machines": "the machine is new, and its partition has worker.max_machines already",
    "too-many-windows": "the machine has 4 announced windows of maintenance that are not over",
    "invalid-partial": "the record is no drift partial, is damaged, or cannot be true",
}

_ENCODER = msgspec.json.Encoder(order="deterministic")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Origin(msgspec.Struct, frozen=True):
    """Where in Kafka the original record is."""

    topic: str
    partition: int
    offset: int


class Cause(msgspec.Struct, frozen=True):
    """One channel that made a reading anomalous.

    Attributes:
        value: the reading in ``unit``, or the machine's own code; null where there is none.
        expected: in ``unit``; null for codes.
        deviation: of the value from what was expected, in the machine's own standard deviations.
        share: of all that the channels contributed, in [0, 1].
    """

    channel: str
    unit: str
    value: float | str | None
    expected: float | None
    deviation: float
    share: float


class Anomaly(msgspec.Struct, frozen=True):
    """One reading that is abnormal for its machine; key: machine_id.

    Attributes:
        id: ``topic-partition-offset`` of the event; the same after any replay.
        timestamp: the event's own time, RFC 3339 UTC.
        anomaly_score: in [-1, 1], lower is worse; anomalous below ``threshold``.
        threshold: what this reading had to be below; it follows from the false-alarm budget,
            how surprising the reading is, and whether the one before was anomalous.
        confidence: probability that a normal reading would have been less abnormal; lower
            while the machine warms up.
        experience: share of the machine's warm-up that is done, in [0, 1]; 1 for the machines
            of the training.
        severity: of this reading by itself; its episode's also grows with duration.
        episode_id: of the episode that the reading belongs to; null where none is open.
        reason: the causes in one readable sentence.
        causes: the channels that contributed most, in order.
        channels: those with a usable reading or a code; what is missing or masked is left out.
        values: the readings that were used, by channel; null where missing or masked.
        categories: categorical channels and the machine's own codes, by channel.
    """

    id: str
    machine_id: str
    timestamp: str
    is_anomaly: bool
    anomaly_score: float
    threshold: float
    confidence: float
    experience: float
    severity: Severity
    episode_id: str | None
    reason: str
    causes: list[Cause]
    channels: list[str]
    values: dict[str, float | None]
    categories: dict[str, str]
    model_version: str


class Episode(msgspec.Struct, frozen=True):
    """A machine's anomalous readings that belong together, told when it changes; key: machine_id.

    Each episode is told as ``opened`` exactly once, then as ``updated`` any number of times,
    then as ``closed`` exactly once. Every message tells the whole episode as it is by then, so
    a machine's latest message is enough to know whether it has one.

    Attributes:
        id: ``machine_id@opened_at``; the same in each of its messages and after any replay.
        sequence: 1, 2, 3, ... within the episode; with ``id`` it names this message.
        opened_at: time of the reading that opened it; all times are event times, RFC 3339 UTC.
        began_at: time of its first anomalous reading, which a minimum duration or a cool-down
            lets be earlier.
        last_anomalous_at: time of its latest anomalous reading.
        closed_at: when it was seen to be over; null while it is open.
        close_reason: recovered: the machine was normal for the merge gap; maintenance: its planned
            maintenance began; forgotten: it has not been heard of for the retention.
        severity: from size, duration and number of channels; never falls.
        anomalies: number of its anomalous readings.
        anomaly_score: the lowest of them, in [-1, 1].
        worst_at: time of the reading with that score.
        reason: the causes in one readable sentence.
        causes: the channels that contributed most over the whole episode, with their values
            at ``worst_at``.
        model_version: of the bundle in force at the time of this message.
    """

    id: str
    machine_id: str
    status: EpisodeStatus
    sequence: int
    opened_at: str
    began_at: str
    last_anomalous_at: str
    closed_at: str | None
    close_reason: CloseReason | None
    severity: Severity
    anomalies: int
    anomaly_score: float
    worst_at: str
    reason: str
    causes: list[Cause]
    model_version: str


class SensorHealth(msgspec.Struct, frozen=True):
    """A sensor, or a machine's connection, that fails or is sound again; key: machine_id.

    Each is told twice: as ``opened`` when it is certain, and as ``closed`` when it is over.

    Attributes:
        id: ``machine_id@opened_at/kind``, with ``/channel`` where it is one channel's; the
            same in both messages and after any replay.
        channel: null: the whole machine.
        opened_at: when it was certain, RFC 3339 UTC by event time; of a silent machine when it had
            been silent for too long, whenever that was found.
        closed_at: null while it is open.
        value: the latest reading, at a glitch the wrong one; null where missing.
        detail: what was seen, in plain words.
        effect: what that means for scores.
    """

    id: str
    machine_id: str
    kind: HealthKind
    channel: str | None
    status: HealthStatus
    opened_at: str
    closed_at: str | None
    value: float | None
    unit: str
    detail: str
    effect: str


class DriftTest(msgspec.Struct, frozen=True):
    """One statistic of a window against the reference.

    Attributes:
        name: as docs/drift.md explains it.
        p_value: chance of one as extreme without drift; null: it is told, not tested.
        effect: by how much the window differs, in ``unit``.
        unit: the channel's; empty for shares and plain numbers.
        effective_rows: how many independent rows the window is worth to this test.
        smallest_detectable: the smallest effect that is found nine times in ten; null: unknown.
        voted: whether it counts as a vote for drift.
    """

    name: str
    value: float
    p_value: float | None
    effect: float
    unit: str
    effective_rows: float
    smallest_detectable: float | None
    voted: bool


class DriftFeature(msgspec.Struct, frozen=True):
    """A feature that drifted.

    Attributes:
        feature: one of the model's inputs, or ``model_score``.
        score: Wasserstein distance in standard deviations of the reference; 0.3 is the usual limit.
        effect: shift of the mean, in ``unit``.
        p_value: of its most significant test, corrected for how many it has.
        effective_rows: how many independent rows the window is worth.
        smallest_detectable: the smallest shift of the mean that is found nine times in ten; null:
            unknown.
    """

    feature: str
    unit: str
    score: float
    direction: DriftDirection
    effect: float
    p_value: float
    effective_rows: float
    smallest_detectable: float | None
    tests: list[DriftTest]


class DriftMachine(msgspec.Struct, frozen=True):
    """A machine and its share of the change, in [0, 1]."""

    machine_id: str
    share: float


class DriftEvent(msgspec.Struct, frozen=True):
    """What a group of machines sends is not as in the training any more; key: group.

    Each is told as ``opened`` exactly once, then as ``updated`` any number of times, then as
    ``closed`` exactly once.

    Attributes:
        id: ``group@opened_at``, with ``/health`` where readings are missing rather than different;
            the same in each of its messages.
        group: ``fleet``, a categorical channel and its value, such as ``machine_type=L``, or a
            machine, such as ``machine_id=press-1``.
        kind: drift: readings are distributed differently; health: so many are missing that there
            is nothing to compare.
        sequence: 1, 2, 3, ... within the event; with ``id`` it names this message.
        began_at: since when, by an estimate of the change point; all times are event times,
            RFC 3339 UTC.
        opened_at: end of the window that opened it.
        last_at: end of the last window that showed it.
        closed_at: null while it is open.
        close_reason: recovered: windows are as in the training again; accepted: a person
            declared the change to be usual; new-reference: the bundle was replaced, and
            reference and model_version are those of the new one.
        window_s: length of the windows that showed it, in seconds.
        score: of the feature that drifted most.
        p_value: of the whole window, corrected for all that was tested in it.
        features: those that drifted, the most significant first.
        machines: those that contribute most.
        advice: what it probably is.
        reason: in one readable sentence.
        reference: hash of the reference that it was held against.
    """

    id: str
    group: str
    kind: DriftKind
    status: DriftStatus
    sequence: int
    began_at: str
    opened_at: str
    last_at: str
    closed_at: str | None
    close_reason: DriftCloseReason | None
    window_s: float
    score: float
    p_value: float
    features: list[DriftFeature]
    machines: list[DriftMachine]
    advice: DriftAdvice
    reason: str
    reference: str
    model_version: str


class RetrainingRequest(msgspec.Struct, frozen=True):
    """A drift lasts, and the model behaves differently since: train it anew; key: group.

    Attributes:
        id: names this request; the same after any replay.
        event_id: of the drift event.
        requested_at: event time, RFC 3339 UTC.
        reference, model_version: of the model that is to be replaced.
    """

    id: str
    group: str
    event_id: str
    requested_at: str
    reason: str
    reference: str
    model_version: str


class DriftAcceptance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change of a group that a person declares to be usual from now on; key: group.

    Attributes:
        accepted_at: the level that the group has by then is usual, RFC 3339 with an offset.
        features: only these; null: all that drifted.
        note: why, for whoever asks later.
    """

    group: str
    accepted_at: AwareTime
    features: list[str] | None = None
    note: str = ""


class LateEvent(msgspec.Struct, frozen=True):
    """An event older than its machine's watermark; key: machine_id. It was not scored.

    Attributes:
        lateness_ms: how far behind the watermark it is.
        watermark: the machine's newest event time minus the grace.
        payload: the original bytes, base64.
    """

    machine_id: str
    timestamp: str
    watermark: str
    lateness_ms: float
    origin: Origin
    payload: str


class DeadLetter(msgspec.Struct, frozen=True):
    """A record that could not be used; key: the original key, at most the first 16384 bytes.

    It was not scored.

    Attributes:
        detail: what exactly is wrong, for a person.
        kafka_timestamp_ms: the record's Kafka timestamp, epoch milliseconds.
        key: the original key, base64, cut like the message's own key, or null.
        payload: the original bytes, base64, at most the first 16384 of them.
        payload_bytes: the original length.
        payload_sha256: hash of the whole original, also where it was cut.
    """

    reason: DeadLetterReason
    detail: str
    origin: Origin
    kafka_timestamp_ms: int
    key: str | None
    payload: str | None
    payload_bytes: int
    payload_sha256: str | None


class Replay(msgspec.Struct, frozen=True):
    """A dead letter or late event that was published to the input again; key: the new record's id.

    Attributes:
        letter: ``topic-partition-offset`` of the dead letter or late event.
        origin: the record that the letter is about.
        published: the record that was published in its place, with the same key and value.
        attempt: 1 for the first replay; counts on where a replayed record was refused again.
        replayed_at: by the clock of whoever replayed, RFC 3339 UTC.
    """

    letter: str
    origin: Origin
    published: Origin
    attempt: int
    replayed_at: str


class Acknowledgement(msgspec.Struct, frozen=True):
    """A person has seen an episode and looks after it; key: id of the episode.

    Attributes:
        acknowledged_at: by the clock of the server that was told, RFC 3339 UTC.
        who: as the person gave it.
        note: what was found or done.
        token: name of the access token that it was sent with; null where none is needed.
    """

    episode_id: str
    machine_id: str
    acknowledged_at: str
    who: str
    note: str
    token: str | None


class MaintenanceNotice(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"from_": "from"}
):
    """Planned maintenance of the machine whose event carries it, by event time.

    Nothing that the machine does meanwhile is an anomaly, and nothing is learned from it.

    Attributes:
        from, until: RFC 3339 with an offset, or epoch milliseconds or microseconds; the end
            is exclusive. A notice with the same beginning as an earlier one replaces it; one that
            ends as it begins calls it off.
        relearn: the machine is another one afterwards, so its level is learned anew.
    """

    from_: AwareTime | EpochTime
    until: AwareTime | EpochTime
    relearn: bool = False

    def __post_init__(self) -> None:
        begin_us, end_us = self.span_us
        if end_us < begin_us:
            raise ValueError("maintenance ends before it begins")
        if end_us - begin_us > LONGEST_MAINTENANCE_US:
            raise ValueError("maintenance lasts for more than 366 days")

    @property
    def span_us(self) -> tuple[int, int]:
        """Beginning and end, epoch microseconds."""
        return to_time_us(self.from_), to_time_us(self.until)


def record_id(topic: str, partition: int, offset: int) -> str:
    """The name of one record in Kafka, ``topic-partition-offset``."""
    return f"{topic}-{partition}-{offset}"


def event_type(spec: ChannelSpec) -> type[msgspec.Struct]:
    """Build the type of one sensor event for a channel specification.

    Fields: ``machine_id``, ``timestamp`` (RFC 3339 text with an offset, or epoch
    milliseconds or microseconds; absent: the record's Kafka timestamp), then one
    optional field a channel, then ``maintenance``. Unknown fields are ignored, so gateways may
    send more.
    """
    fields: list[tuple[str, Any, Any] | tuple[str, Any]] = [
        ("machine_id", MachineId),
        ("timestamp", AwareTime | EpochTime | None, None),
    ]
    for channel in spec.channels:
        value: Any = {"continuous": float, "event": Code}.get(channel.kind)
        fields.append((channel.name, (value or Literal[channel.values]) | None, None))
    fields.append(("maintenance", MaintenanceNotice | None, None))
    return msgspec.defstruct("SensorEvent", fields, gc=False, frozen=True)


def encode(message: msgspec.Struct) -> bytes:
    """Serialise a message to JSON; the same message always gives the same bytes."""
    return _ENCODER.encode(message)


def to_time_us(time: datetime | int) -> int:
    """Epoch microseconds of a moment, or of a whole number of milliseconds or microseconds."""
    if isinstance(time, datetime):
        return round(time.timestamp() * 1e6)
    return time if time >= FIRST_MICROSECONDS else time * 1000


def format_time_us(time_us: int) -> str:
    """Write epoch microseconds as RFC 3339 UTC, such as ``2026-01-31T06:00:00.250000Z``."""
    moment = _EPOCH + timedelta(microseconds=int(time_us))
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def dead_letter(
    reason: DeadLetterReason,
    detail: str,
    origin: Origin,
    kafka_timestamp_ms: int,
    key: bytes | None,
    payload: bytes | None,
) -> DeadLetter:
    """Wrap an unusable record, keeping at most ``MAX_PAYLOAD_BYTES`` of its value."""
    return DeadLetter(
        reason=reason,
        detail=detail,
        origin=origin,
        kafka_timestamp_ms=kafka_timestamp_ms,
        key=None if key is None else _base64(key[:MAX_PAYLOAD_BYTES]),
        payload=None if payload is None else _base64(payload[:MAX_PAYLOAD_BYTES]),
        payload_bytes=0 if payload is None else len(payload),
        payload_sha256=None if payload is None else hashlib.sha256(payload).hexdigest(),
    )


def late_event(
    machine_id: str, time_us: int, watermark_us: int, origin: Origin, payload: bytes
) -> LateEvent:
    """Wrap an event that came after its machine's watermark had passed it."""
    return LateEvent(
        machine_id=machine_id,
        timestamp=format_time_us(time_us),
        watermark=format_time_us(watermark_us),
        lateness_ms=(watermark_us - time_us) / 1000,
        origin=origin,
        payload=_base64(payload),
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
