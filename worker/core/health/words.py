"""What a change of health says to people."""

from __future__ import annotations

import math

from worker.core.channels import Channel, ChannelSpec
from worker.core.health.follow import Transition
from worker.core.health.kernel import PERSISTS
from worker.core.health.profile import HealthProfile
from worker.core.messages import SensorHealth, format_time_us

_ENDED = {
    "missing": "{name} is sent again",
    "stuck": "{name} changes again",
    "out-of-range": "{name} is within its physical range again",
    "glitch": "{name} has not glitched for a while",
    "silent": "the machine is heard again",
    "clock-skew": "the clock is right again, or no longer wrong by a constant",
}


def sensor_health(
    spec: ChannelSpec, profile: HealthProfile, transition: Transition, machine_id: str
) -> SensorHealth:
    """The message of a condition that began or ended."""
    channel = None if transition.channel is None else spec.continuous[transition.channel]
    opened_at = format_time_us(transition.opened_us)
    names = [machine_id + "@" + opened_at, transition.kind, *([channel.name] if channel else [])]
    is_open = transition.closed_us is None
    value = transition.figure
    if transition.kind == "glitch":  # which is kept in single precision
        value = float(f"{value:.7g}")
    has_value = channel is not None and math.isfinite(value)
    return SensorHealth(
        id="/".join(names),
        machine_id=machine_id,
        kind=transition.kind,
        channel=channel.name if channel else None,
        status="opened" if is_open else "closed",
        opened_at=opened_at,
        closed_at=None if transition.closed_us is None else format_time_us(transition.closed_us),
        value=value if has_value else None,
        unit=channel.unit if channel else "",
        detail=_began(profile, transition, channel) if is_open else _ended(transition, channel),
        effect=_effect(transition, channel),
    )


def _began(profile: HealthProfile, transition: Transition, channel: Channel | None) -> str:
    if channel is None:
        if transition.kind == "silent":
            interval_us = transition.length
            usual = f"; usual is an event each {span(interval_us)}" if interval_us else ""
            return f"nothing has been heard for {span(round(transition.figure * 1e6))}{usual}"
        side = "ahead of" if transition.figure > 0 else "behind"
        apart = span(round(abs(transition.figure) * 1e6))
        return f"events are stamped {apart} {side} the time at which they arrive"
    name, value = channel.name, _quantity(transition.figure, channel.unit)
    if transition.kind == "missing":
        return f"{name} is absent from {transition.length} events in a row"
    if transition.kind == "stuck":
        return f"{name} is exactly {value} for {transition.length} readings in a row"
    if transition.kind == "out-of-range":
        return (
            f"{name} is outside its physical range{_range(channel)} for {PERSISTS} readings "
            f"in a row{value and f', at last {value}'}"
        )
    low, high = profile.ranges[transition.profile, transition.channel, :2].tolist()
    usual = f"; usual is {low:.6g} to {_quantity(high, channel.unit)}" if low <= high else ""
    return f"{name} jumped to {value or 'an impossible value'} and returned at once{usual}"


def _ended(transition: Transition, channel: Channel | None) -> str:
    assert transition.closed_us is not None  # only what ended is told so
    lasted = span(transition.closed_us - transition.opened_us)
    if transition.row < 0:
        return f"the machine is forgotten, {lasted} after this began"
    ended = _ENDED[transition.kind].format(name=channel.name if channel else "")
    value = _quantity(transition.figure, channel.unit) if channel else ""
    return f"{ended}{value and f', now {value}'}; it lasted {lasted}"


def _effect(transition: Transition, channel: Channel | None) -> str:
    if transition.closed_us is not None:
        return "nothing is left out any more because of it"
    if transition.kind == "silent":
        return "the machine is not watched while it sends nothing"
    if transition.kind == "clock-skew":
        return "scores are not changed; the times of the machine's outputs are wrong by as much"
    assert channel is not None  # all other kinds are those of a channel
    if transition.kind == "missing":
        return f"scores go without {channel.name} while it is absent"
    if transition.kind == "glitch":
        return f"such readings of {channel.name} are left out of aggregates and scores"
    return f"{channel.name} is left out of aggregates and scores until this closes"


def span(duration_us: int) -> str:
    """A duration as people say it, with two units at most: ``2 h 5 min``."""
    seconds = duration_us / 1e6
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3_600:
        large, small, units = *divmod(whole, 60), ("min", "s")
    elif whole < 86_400:
        large, small, units = *divmod(round(whole / 60), 60), ("h", "min")
    else:
        large, small, units = *divmod(round(whole / 3_600), 24), ("d", "h")
    return f"{large} {units[0]}" + (f" {small} {units[1]}" if small else "")


def _quantity(value: float, unit: str) -> str:
    if not math.isfinite(value):
        return ""
    return f"{value:z.6g} {unit}".rstrip()


def _range(channel: Channel) -> str:
    low = "" if channel.min is None else f" from {channel.min:.6g}"
    high = "" if channel.max is None else f" to {channel.max:.6g}"
    return f"{low}{high} {channel.unit}".rstrip() if low or high else ""
