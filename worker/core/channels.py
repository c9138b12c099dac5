"""Channel specification: which readings exist, how they are windowed, what derives from them.

Owns parsing and validation of the specification (TOML text or the ``[spec]``
table of a bundle). Reads no files: callers pass text.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from enum import IntEnum
from functools import cached_property
from typing import Annotated, Any, Literal

import msgspec

from worker.core.errors import ConfigError
from worker.core.vocabulary import FEATURE_KINDS, Feature, FeatureGroup, lay_out

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,62}$")]

SpecName = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,62}$")]

US_PER_S = 1_000_000
_DURATION = re.compile(r"^(\d+(?:\.\d+)?)\s*(us|ms|s|m|h|d)$")
_UNIT_US = {
    "us": 1,
    "ms": 1_000,
    "s": US_PER_S,
    "m": 60 * US_PER_S,
    "h": 3600 * US_PER_S,
    "d": 86400 * US_PER_S,
}
MAX_DURATION_US = 36_500 * _UNIT_US["d"]
MAX_NUMBER = 1e30
"""Largest reading or factor; products and squares of such numbers stay finite."""
SHORTEST_PANE_US = US_PER_S
"""Numbers of shorter panes would not fit into 32 bits."""
RESERVED_NAMES = frozenset({"machine_id", "timestamp", "maintenance"})


def parse_duration_us(text: str, key: str) -> int:
    """Convert ``"90s"``, ``"1h"``, ``"250ms"`` to whole microseconds.

    Raises:
        ConfigError: naming ``key`` when the text is not a duration between 1 us and
            36500 days.
    """
    match = _DURATION.match(text.strip())
    duration_us = float(match[1]) * _UNIT_US[match[2]] if match else 0.0
    if not 0.5 < duration_us <= MAX_DURATION_US:
        raise ConfigError(
            f"{key}: {text!r} is not a duration; write a positive number and a unit "
            'of us, ms, s, m, h or d, such as "1h" or "90s"; at most "36500d".'
        )
    return round(duration_us)


def format_duration(duration_us: int) -> str:
    """Write a duration with the largest unit that divides it: 3600000000 -> ``"1h"``."""
    for unit in ("d", "h", "m", "s", "ms"):
        if duration_us % _UNIT_US[unit] == 0:
            return f"{duration_us // _UNIT_US[unit]}{unit}"
    return f"{duration_us}us"


class Kind(IntEnum):
    """How a derived signal combines its two channels."""

    PRODUCT = 0
    DIFFERENCE = 1


class Channel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One reading of an event.

    Attributes:
        kind: continuous: a number, scored; event: one of the machine's own status or error
            codes, scored by how rare it was in training; categorical: one of ``values``, only
            copied to anomalies.
        min, max: physically possible range in ``unit``; a reading outside is a
            glitch and is masked, not scored as an anomaly.
        typical: the range of ordinary work in ``unit``, for the simulator.
        values: the categories of a categorical channel.
    """

    name: Name
    unit: str = ""
    kind: Literal["continuous", "categorical", "event"] = "continuous"
    min: float | None = None
    max: float | None = None
    typical: tuple[float, float] | None = None
    values: tuple[str, ...] = ()


class Derived(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A signal computed from two channels: ``factor * a * b`` or ``factor * (a - b)``."""

    name: Name
    unit: str = ""
    product: tuple[str, str] | None = None
    difference: tuple[str, str] | None = None
    factor: float = 1.0

    @property
    def kind(self) -> Kind:
        """Which of the two combinations it is."""
        return Kind.PRODUCT if self.product else Kind.DIFFERENCE

    @property
    def operands(self) -> tuple[str, str]:
        """Names of the two channels."""
        operands = self.product or self.difference
        assert operands is not None  # validated by ChannelSpec
        return operands


class WindowSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Event-time window settings as written; durations are text such as ``"1h"``.

    Attributes:
        length: span of the rolling aggregates.
        pane: granularity with which the window moves; must divide ``length``.
        grace: how far behind a machine's newest event an event may arrive and
            still be scored; older ones are late.
        max_future: how far ahead of its record's Kafka timestamp an event may
            claim to be; further ahead, its gateway's clock is wrong.
    """

    length: str = "1h"
    pane: str = "1m"
    grace: str = "5m"
    max_future: str = "5m"


class SpecFile(msgspec.Struct, forbid_unknown_fields=True):
    """A channel specification as written in TOML.

    Attributes:
        name: names the bundles that are trained on these channels.
        channel: the readings of an event, in the order of the model's inputs.
        window: over which event times readings are aggregated; absent: training derives it
            from how often the machines report.
        derived: further signals, each computed from two channels.
        feature: inputs of the isolation forest; absent: a default choice.
    """

    name: SpecName
    channel: list[Channel]
    window: WindowSpec | None = None
    derived: list[Derived] = []
    feature: list[FeatureGroup] = []


class ChannelSpec(msgspec.Struct, frozen=True, dict=True):
    """A validated channel specification; see :func:`parse_spec`.

    A *signal* is a series that detection follows: the continuous channels in order, then the
    derived signals, then the channels of kind "event".

    Attributes:
        window: as written; None where it was not, and the default is in force.
        feature_groups: the model's inputs as written; empty: the default choice.
        features: the model's inputs in order.
        length_us, pane_us, grace_us, max_future_us: the window in microseconds.
    """

    name: str
    window: WindowSpec | None
    channels: tuple[Channel, ...]
    derived: tuple[Derived, ...]
    feature_groups: tuple[FeatureGroup, ...]
    features: tuple[Feature, ...]
    length_us: int
    pane_us: int
    grace_us: int
    max_future_us: int

    @cached_property
    def continuous(self) -> tuple[Channel, ...]:
        """The channels that are aggregated and scored, in order."""
        return tuple(c for c in self.channels if c.kind == "continuous")

    @cached_property
    def categorical(self) -> tuple[Channel, ...]:
        """The channels that are only copied to anomalies, in order."""
        return tuple(c for c in self.channels if c.kind == "categorical")

    @cached_property
    def events(self) -> tuple[Channel, ...]:
        """The channels of status and error codes, in order."""
        return tuple(c for c in self.channels if c.kind == "event")

    @cached_property
    def signals(self) -> tuple[str, ...]:
        """Names (D) of the signals, in order."""
        channels = [c.name for c in self.continuous]
        return (*channels, *(d.name for d in self.derived), *(c.name for c in self.events))

    @cached_property
    def signal_units(self) -> tuple[str, ...]:
        """Unit (D) of each signal; of codes, whose value is a surprisal, ``""``."""
        channels = [c.unit for c in self.continuous]
        return (*channels, *(d.unit for d in self.derived), *("" for _ in self.events))

    @cached_property
    def operands(self) -> tuple[tuple[int, int], ...]:
        """For each derived signal, the positions of its two channels among the signals."""
        position = {name: c for c, name in enumerate(self.signals)}
        return tuple((position[a], position[b]) for a, b in (d.operands for d in self.derived))

    @property
    def panes(self) -> int:
        """Number of panes in the window."""
        return self.length_us // self.pane_us

    @property
    def slots(self) -> int:
        """Number of panes kept per machine: the window, plus those that grace can reopen."""
        return self.panes + -(-self.grace_us // self.pane_us)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Name (F) of each model input, in order."""
        return tuple(f.name for f in self.features)

    @cached_property
    def feature_units(self) -> tuple[str, ...]:
        """Unit (F) of each model input."""
        return tuple(f.unit for f in self.features)

    @cached_property
    def feature_owners(self) -> tuple[int, ...]:
        """For each model input (F), the position of the signal it belongs to."""
        return tuple(f.owner for f in self.features)

    @cached_property
    def feature_codes(self) -> tuple[list[int], list[int]]:
        """Kind, as a position in ``FEATURE_KINDS``, and position of each model input (F,)."""
        kinds = [FEATURE_KINDS.index(f.kind) for f in self.features]
        return kinds, [f.position for f in self.features]

    def with_window(self, window: WindowSpec) -> ChannelSpec:
        """The same specification with another window.

        Raises:
            ConfigError: the window cannot work.
        """
        return spec_from_dict(self.to_dict() | {"window": msgspec.to_builtins(window)}, self.name)

    def to_dict(self) -> dict[str, Any]:
        """The specification as it would be written in TOML; inverse of :func:`spec_from_dict`."""
        raw = {
            "name": self.name,
            "window": msgspec.to_builtins(self.window) if self.window else None,
            "channel": list(msgspec.to_builtins(self.channels)),
            "derived": list(msgspec.to_builtins(self.derived)),
            "feature": list(msgspec.to_builtins(self.feature_groups)),
        }
        return {key: value for key, value in raw.items() if value}


def parse_spec(text: str, source: str = "channels.toml") -> ChannelSpec:
    """Parse and validate a channel specification.

    Args:
        text: TOML as documented in ``docs/channels.md``.
        source: what to call the text in errors.

    Raises:
        ConfigError: saying which key is wrong and what to write instead.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not valid TOML: {error}.") from error
    return spec_from_dict(data, source)


def spec_from_dict(data: Mapping[str, Any], source: str = "channels.toml") -> ChannelSpec:
    """Validate an already parsed specification; see :func:`parse_spec`."""
    try:
        raw = msgspec.convert(data, SpecFile)
    except msgspec.ValidationError as error:
        what = str(error).replace("`$.", "`")
        raise ConfigError(f"{source}: {what}; see docs/channels.md for every key.") from error
    _check_names(raw, source)
    _check_channels(raw, source)
    _check_derived(raw, source)
    window = raw.window or WindowSpec()
    length_us = parse_duration_us(window.length, f"{source}: window.length")
    pane_us = parse_duration_us(window.pane, f"{source}: window.pane")
    grace_us = parse_duration_us(window.grace, f"{source}: window.grace")
    max_future_us = parse_duration_us(window.max_future, f"{source}: window.max_future")
    if pane_us < SHORTEST_PANE_US:
        raise ConfigError(
            f'{source}: window.pane "{window.pane}" is shorter than a second; write at least "1s".'
        )
    if length_us % pane_us:
        raise ConfigError(
            f'{source}: window.pane "{window.pane}" must divide window.length '
            f'"{window.length}"; for instance pane = "{format_duration(length_us // 60 or 1)}".'
        )
    if (slots := length_us // pane_us + grace_us // pane_us) > 10_000:
        raise ConfigError(
            f"{source}: window.length and grace span {slots} panes, more than the 10000 that a "
            "machine may keep; write a longer window.pane."
        )
    return ChannelSpec(
        name=raw.name,
        window=raw.window,
        channels=tuple(raw.channel),
        derived=tuple(raw.derived),
        feature_groups=tuple(raw.feature),
        features=lay_out(
            raw.feature,
            {c.name: c.unit for c in raw.channel if c.kind == "continuous"},
            {d.name: d.unit for d in raw.derived},
            [c.name for c in raw.channel if c.kind == "event"],
            source,
        ),
        length_us=length_us,
        pane_us=pane_us,
        grace_us=grace_us,
        max_future_us=max_future_us,
    )


def _check_names(raw: SpecFile, source: str) -> None:
    """Refuse a line break at the end of a name, which ``$`` in a pattern lets through."""
    for name in (raw.name, *(c.name for c in raw.channel), *(d.name for d in raw.derived)):
        if name.endswith("\n"):
            raise ConfigError(f"{source}: name {name!r} ends with a line break; remove it.")


def _check_channels(raw: SpecFile, source: str) -> None:
    seen: set[str] = set(RESERVED_NAMES)
    for channel in raw.channel:
        where = f"{source}: channel {channel.name!r}"
        if channel.name in seen:
            raise ConfigError(f"{where}: the name is taken; give each channel its own.")
        seen.add(channel.name)
        if channel.kind == "categorical":
            if not channel.values or len(set(channel.values)) != len(channel.values):
                raise ConfigError(
                    f'{where}: a categorical channel needs distinct values = ["A", "B"].'
                )
        elif channel.values:
            raise ConfigError(f'{where}: values belong to kind = "categorical"; remove them.')
        for key in ("min", "max"):
            _check_number(getattr(channel, key), f"{where}: {key}")
        for end in channel.typical or ():
            _check_number(end, f"{where}: typical")
        low, high = channel.min, channel.max
        if low is not None and high is not None and not low < high:
            raise ConfigError(f"{where}: min {low} must be below max {high}.")
        if channel.typical is not None and not channel.typical[0] < channel.typical[1]:
            raise ConfigError(f"{where}: typical must be [low, high] with low below high.")
    if not any(c.kind == "continuous" for c in raw.channel):
        raise ConfigError(f"{source}: channel: at least one continuous channel is needed.")


def _check_number(number: float | None, key: str) -> None:
    if number is not None and not abs(number) <= MAX_NUMBER:
        raise ConfigError(f"{key} {number} is out of range; write a number within +-1e30.")


def _check_derived(raw: SpecFile, source: str) -> None:
    continuous = {c.name for c in raw.channel if c.kind == "continuous"}
    taken = RESERVED_NAMES | {c.name for c in raw.channel}
    for derived in raw.derived:
        where = f"{source}: derived {derived.name!r}"
        if derived.name in taken:
            raise ConfigError(f"{where}: the name is taken; choose another.")
        taken |= {derived.name}
        if (derived.product is None) == (derived.difference is None):
            raise ConfigError(
                f'{where}: write either product = ["a", "b"] or difference = ["a", "b"].'
            )
        _check_number(derived.factor, f"{where}: factor")
        for operand in derived.operands:
            if operand not in continuous:
                raise ConfigError(
                    f"{where}: {operand!r} is not a continuous channel; "
                    f"use one of {', '.join(sorted(continuous))}."
                )
