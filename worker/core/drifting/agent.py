"""The drift agent's one piece of behaviour: ``step(state, chunk) -> outputs``.

Each record of ``drift-partials`` is applied once: a partial to the monitor of its group, or the
acceptance of a change. What is neither becomes a dead letter. Partials of another bundle's
reference are counted and left out: while workers are being replaced, both kinds arrive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from worker.core import drift
from worker.core.drift import DriftMonitor, Partial, WindowReport
from worker.core.drifting import words
from worker.core.drifting.state import DriftState, Monitors
from worker.core.errors import PartialError
from worker.core.events import Chunk
from worker.core.messages import DeadLetterReason, DriftAcceptance, encode, to_time_us
from worker.core.outgoing import Record, dead_letter

PartialFate = Literal["merged", "late", "repeated", "foreign"]

INVALID: DeadLetterReason = "invalid-partial"


@dataclass
class DriftOutputs:
    """What one chunk gave.

    Attributes:
        records: messages to publish, in the order of what caused them.
        windows: reports of all windows that were closed.
        opened: groups of which an event was opened.
        partials: how many, by what became of them: late ones missed one of their windows or more.
        accepted: changes that were accepted.
        newest_time_us: latest end of a pane among the partials; -1 without any.
    """

    records: list[Record] = field(default_factory=list)
    windows: list[WindowReport] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)
    partials: Counter[PartialFate] = field(default_factory=Counter)
    dead: Counter[DeadLetterReason] = field(default_factory=Counter)
    requests: int = 0
    accepted: int = 0
    newest_time_us: int = -1


class Drifting:
    """Applies chunks of partials.

    Args:
        max_ahead_us: how far the beginning of a pane may be ahead of the partial's Kafka
            timestamp; one that is further ahead would close every window before it.
    """

    def __init__(self, monitors: Monitors, max_ahead_us: int) -> None:
        self._monitors = monitors
        self._max_ahead_us = max_ahead_us
        self._decode_acceptance = msgspec.json.Decoder(DriftAcceptance).decode

    def step(self, state: DriftState, chunk: Chunk) -> DriftOutputs:
        """Apply the records of ``chunk`` that ``state`` has not seen yet."""
        chunk = chunk.since(state.next_offset)
        outputs = DriftOutputs()
        if len(chunk):
            # Their rows are deleted in the same commit.
            _tell(outputs, drift.Outputs(events=state.owed))
            state.owed = ()
        for row in range(len(chunk)):
            try:
                self._apply(state, chunk, row, outputs)
            except PartialError as error:
                outputs.dead[INVALID] += 1
                outputs.records.append(dead_letter(chunk, row, INVALID, str(error)))
        if len(chunk):
            state.next_offset = int(chunk.offsets[-1]) + 1
        return outputs

    def summarize(self, partition: int, next_offset: int) -> Sequence[Record]:
        """Nothing but what was told already."""
        return ()

    def _apply(self, state: DriftState, chunk: Chunk, row: int, outputs: DriftOutputs) -> None:
        """Apply one record; raises PartialError before anything has changed."""
        value, key = chunk.values[row] or b"", chunk.keys[row]
        if value[:1] == b"{":
            acceptance = self._read_acceptance(value)
            self._check_group(acceptance.group, key)
            monitor = self._monitor(state, acceptance.group)
            at_us = to_time_us(acceptance.accepted_at)
            _tell(outputs, monitor.accept(at_us, acceptance.features))
            outputs.accepted += 1
            return
        partial = Partial.from_bytes(value)
        if partial.fingerprint != self._monitors.reference.fingerprint:
            outputs.partials["foreign"] += 1
            return
        self._check_group(partial.group, key)
        stamp_us = int(chunk.timestamps_ms[row]) * 1000
        if partial.start_us > stamp_us + self._max_ahead_us:
            raise PartialError("a drift partial is of a pane that has not begun yet.")
        found = self._monitor(state, partial.group).add(partial, stamp_us)
        fate: PartialFate = "repeated" if found.repeated else "late" if found.late else "merged"
        outputs.partials[fate] += 1
        outputs.newest_time_us = max(outputs.newest_time_us, partial.end_us)
        _tell(outputs, found)

    def _read_acceptance(self, value: bytes) -> DriftAcceptance:
        try:
            return self._decode_acceptance(value)
        except (msgspec.DecodeError, UnicodeError) as error:
            raise PartialError(f"the acceptance of a change cannot be read: {error}.") from error

    def _check_group(self, group: str, key: bytes | None) -> None:
        """See that a record is where all of its group are."""
        if group not in self._monitors.reference.groups:
            raise PartialError(
                f"there is no group {group!r} in the reference of {self._monitors.model_version}."
            )
        if key != group.encode():
            raise PartialError(f"the key of a record of group {group!r} is not its group.")

    def _monitor(self, state: DriftState, group: str) -> DriftMonitor:
        if group not in state.groups:
            state.groups[group] = self._monitors.new(group)
        state.touch(group)
        return state.groups[group]


def _tell(outputs: DriftOutputs, found: drift.Outputs) -> None:
    """Add what a monitor found."""
    outputs.windows += found.windows
    for event in found.events:
        if event.status == "opened":
            outputs.opened.append(event.group)
        value = encode(words.drift_event(event))
        outputs.records.append(Record("drift-events", event.group.encode(), value))
    for request in found.requests:
        outputs.requests += 1
        value = encode(words.retraining_request(request))
        outputs.records.append(Record("retraining-requests", request.group.encode(), value))
