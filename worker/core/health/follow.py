"""What the pipeline calls: readings in, usable readings and changes of health out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from worker.core.channels import ChannelSpec
from worker.core.health import kernel
from worker.core.health.profile import HealthProfile
from worker.core.messages import HealthKind
from worker.core.table import Field, Fields, MachineTable

KINDS: tuple[HealthKind, ...] = get_args(HealthKind)
"""In the order of the kernel's conditions, from 1."""

FIELDS: Fields = {
    "health_profile": Field("<u4"),
    "health_last": Field("<f8", ("channel",), np.nan),
    "health_pending": Field("<f4", ("channel",)),
    "health_runs": Field("<u2", ("channel", 2)),
    "health_states": Field("<u1", ("channel", 3)),
    "health_opened_us": Field("<i8", ("channel",)),
    "health_moments_us": Field("<i8", (6,)),
    "health_paces_s": Field("<f4", (3,)),
    "health_flags": Field("<u1", (4,)),
}
"""What is kept of each machine: 68 + 27 C bytes."""


class Transition(NamedTuple):
    """A condition that began or ended.

    Attributes:
        row: position, in the call, of the event that showed it.
        machine: row of the table; of silence not that of the event.
        channel: position in ``spec.continuous``; None: the whole machine.
        opened_us: when it began; with machine, channel and kind it names the condition.
        closed_us: None where it begins.
        figure: the reading in the channel's unit, NaN where missing; for silence how long it
            takes to be noticed, for a clock how far it is ahead, in seconds.
        length: readings or events in a row that showed it; of silence the usual interval in
            microseconds; 0 where there is neither.
        profile: row of the profile by which it was judged.
    """

    row: int
    machine: int
    channel: int | None
    kind: HealthKind
    opened_us: int
    closed_us: int | None
    figure: float
    length: int
    profile: int


class Health:
    """Judges sensors against what training showed. Holds no state but the profile.

    Args:
        spec: its physical ranges, grace and ``max_future`` are limits too.
    """

    def __init__(self, spec: ChannelSpec, profile: HealthProfile) -> None:
        self.spec = spec
        self.profile = profile
        infinite = float("inf")
        self._bounds = np.array(
            [
                [-infinite if c.min is None else c.min, infinite if c.max is None else c.max]
                for c in spec.continuous
            ]
        )
        self._rows = {
            machine_id: row for row, machine_id in enumerate(profile.machine_ids, start=1)
        }

    def begin(
        self, table: MachineTable, rows: NDArray[np.int64], machine_ids: Sequence[str]
    ) -> None:
        """Name the machines of table rows (n,): new ones, and all after a restart.

        Only which part of the profile is theirs is set, so their state is kept.
        """
        known = [self._rows.get(machine_id, kernel.UNKNOWN) for machine_id in machine_ids]
        table["health_profile"][rows] = known

    def check(
        self,
        table: MachineTable,
        clocks_us: NDArray[np.int64],
        machines: NDArray[np.int64],
        times_us: NDArray[np.int64],
        record_times_us: NDArray[np.int64],
        values: NDArray[np.float64],
        impossible: NDArray[np.bool_],
    ) -> tuple[NDArray[np.float64], list[Transition]]:
        """Follow accepted events in arrival order.

        Args:
            table: of all the partition's machines, changed in place; also for machines without
                an event in the call, whose transitions name them.
            clocks_us: (n,) the partition's clock at each event, which events that are not in
                the call have moved too.
            machines: (n,) table row of each event's machine.
            times_us, record_times_us: (n,) event times, and when Kafka received the events;
                equal where they were not received by Kafka.
            values: (n, C) readings, NaN where missing.
            impossible: (n, C) which readings are outside their physical range, whatever
                stands in ``values`` there.

        Returns:
            (n, C) the readings that may be used, NaN elsewhere, and what began and ended, in
            the order of events; at one event machines that fell silent come in no order.
        """
        usable = np.empty_like(values)
        events, figures = kernel.check(  # type: ignore[call-arg]
            clocks_us,
            machines,
            times_us,
            record_times_us,
            np.ascontiguousarray(values),
            np.ascontiguousarray(impossible),
            self._bounds,
            self.spec.grace_us,
            self.spec.max_future_us / 2e6,
            self.profile.ranges,
            self.profile.limits,
            self.profile.usual_us,
            *(table[name] for name in FIELDS),
            usable,
        )
        transitions = [
            Transition(
                row,
                machine,
                None if channel < 0 else channel,
                KINDS[kind - 1],
                opened_us,
                None if closed_us < 0 else closed_us,
                figure,
                length,
                int(table["health_profile"][machine]),
            )
            for (row, machine, channel, kind, opened_us, closed_us, length), figure in zip(
                events.tolist(), figures.tolist(), strict=True
            )
        ]
        return usable, transitions

    def end(self, table: MachineTable, machine: int, time_us: int) -> list[Transition]:
        """What ends with a machine that is forgotten, before its table row is reset.

        Args:
            time_us: when it is forgotten, by the partition's clock.
        """
        profile = int(table["health_profile"][machine])
        open_ones: list[tuple[int | None, int, int]] = [
            (c, int(state), int(table["health_opened_us"][machine, c]))
            for c, state in enumerate(table["health_states"][machine, :, kernel.STATE])
            if state != kernel.NONE
        ]
        flags, moments = table["health_flags"][machine], table["health_moments_us"][machine]
        if flags[kernel.IS_SILENT]:
            open_ones.append((None, kernel.SILENT, int(moments[kernel.SILENT_SINCE])))
        if flags[kernel.IS_SKEWED]:
            open_ones.append((None, kernel.CLOCK_SKEW, int(moments[kernel.SKEW_SINCE])))
        return [
            Transition(
                -1,
                machine,
                c,
                KINDS[kind - 1],
                opened_us,
                max(time_us, opened_us),
                float("nan"),
                0,
                profile,
            )
            for c, kind, opened_us in open_ones
        ]
