"""What the isolation forest may be fed with: the closed vocabulary of features.

Owns the kinds of features, the default choice and how declarations become the model's
inputs. How each kind is computed is :mod:`worker.core.features`' business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import msgspec

from worker.core.errors import ConfigError

Scope = Literal["channel", "derived", "signal"]

FeatureKind = Literal[
    "raw",
    "rolling_mean",
    "rolling_std",
    "rolling_min",
    "rolling_max",
    "rolling_deviation",
    "derived",
    "normalised",
    "residual",
    "slow_mean_short",
    "slow_mean",
    "slow_normalised",
]

FEATURE_KINDS: tuple[FeatureKind, ...] = get_args(FeatureKind)

CHANNEL_KINDS = FEATURE_KINDS[: FEATURE_KINDS.index("derived")]
"""Computed from a continuous channel's readings, in its unit."""
STREAM_KINDS = FEATURE_KINDS[FEATURE_KINDS.index("normalised") :]
"""What detection follows of each signal, in standard deviations."""

STREAM_UNIT = "sd"

DEFAULT_FEATURES: tuple[tuple[FeatureKind, Scope], ...] = (
    ("raw", "channel"),
    ("normalised", "signal"),
    ("residual", "channel"),
    ("slow_mean", "channel"),
    ("rolling_std", "channel"),
    ("rolling_deviation", "channel"),
)
"""What a specification without any ``[[feature]]`` declares, in order."""


class FeatureGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Model inputs of one kind, as written in TOML.

    Attributes:
        kind: raw: the reading; rolling_mean, rolling_std, rolling_min, rolling_max: over the
            window; rolling_deviation: the reading minus the window's mean; derived: a derived
            signal's value; normalised, residual, slow_mean_short, slow_mean,
            slow_normalised: what detection follows, in the machine's own standard deviations.
        channels: of which channels or derived signals; absent: of all that have such a feature.
    """

    kind: FeatureKind
    channels: tuple[str, ...] = ()


class Feature(NamedTuple):
    """One model input.

    Attributes:
        name: the channel's or derived signal's own for its value, else ``kind_signal``.
        unit: the signal's, or ``STREAM_UNIT``.
        position: of the channel among the continuous ones, of the derived signal among the
            derived ones, or of the signal among the signals, depending on the kind.
        owner: position among the signals.
    """

    name: str
    kind: FeatureKind
    unit: str
    position: int
    owner: int


def lay_out(
    groups: Sequence[FeatureGroup],
    channels: Mapping[str, str],
    derived: Mapping[str, str],
    events: Iterable[str],
    source: str,
) -> tuple[Feature, ...]:
    """The model's inputs in order, group by group.

    Args:
        groups: as written; none: ``DEFAULT_FEATURES``.
        channels, derived: units by name, in order.
        events: names of the channels of kind "event", in order.
        source: what to call the specification in errors.

    Raises:
        ConfigError: a group names what has no such feature, declares none, or two inputs
            would have the same name.
    """
    members: dict[Scope, tuple[str, ...]] = {
        "channel": tuple(channels),
        "derived": tuple(derived),
        "signal": (*channels, *derived, *events),
    }
    owners = {name: d for d, name in enumerate(members["signal"])}
    units = {**channels, **derived}
    chosen = [
        (f"feature {i + 1}", group.kind, _members_of(group, members, f"{source}: feature {i + 1}"))
        for i, group in enumerate(groups)
    ] or [("default features", kind, members[scope]) for kind, scope in DEFAULT_FEATURES]
    features: dict[str, Feature] = {}
    for where, kind, names in chosen:
        positions = {name: i for i, name in enumerate(members[_scope(kind)])}
        for name in names:
            own = kind in {"raw", "derived"}
            feature = Feature(
                name=name if own else f"{kind}_{name}",
                kind=kind,
                unit=STREAM_UNIT if kind in STREAM_KINDS else units[name],
                position=positions[name],
                owner=owners[name],
            )
            if feature.name in features:
                raise ConfigError(
                    f"{source}: {where}: there would be two model inputs named {feature.name!r}; "
                    "declare it once, or rename a channel that looks like a feature."
                )
            features[feature.name] = feature
    return tuple(features.values())


def _scope(kind: FeatureKind) -> Scope:
    if kind == "derived":
        return "derived"
    return "signal" if kind in STREAM_KINDS else "channel"


_SCOPES: Mapping[Scope, str] = {
    "channel": "a continuous channel",
    "derived": "a derived signal",
    "signal": "a channel or derived signal that is scored",
}


def _members_of(
    group: FeatureGroup, members: Mapping[Scope, tuple[str, ...]], where: str
) -> tuple[str, ...]:
    scope = _scope(group.kind)
    for name in group.channels:
        if name not in members[scope]:
            raise ConfigError(
                f"{where}: {name!r} is not {_SCOPES[scope]}, which {group.kind!r} needs; use "
                f"{'one of ' + ', '.join(members[scope]) if members[scope] else 'another kind'}."
            )
    if not members[scope]:
        raise ConfigError(
            f"{where}: there is no {_SCOPES[scope].partition(' ')[2]} to make {group.kind!r} of; "
            "remove it."
        )
    return group.channels or members[scope]
