"""How machines behave: the milling machines of the default channels, and any other channel set.

A model turns blocks of ticks into readings. It keeps its state between blocks and
draws from the generator that it is handed, always in the same amounts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from worker.core.channels import Channel, ChannelSpec
from worker.simulator.faults import US_PER_DAY, US_PER_HOUR, Effects, MachineFaultKind

Floats = NDArray[np.float64]

US_PER_MIN = 60_000_000
RAD_PER_S_PER_RPM = 2.0 * math.pi / 60.0


class MachineModel(Protocol):
    """What :class:`worker.simulator.Simulator` needs of a model.

    Attributes:
        kinds: the faults it can show, by name.
        scales: (C,) ordinary standard deviation of each channel, in its unit.
        digits: (C,) decimals that a gateway would send.
    """

    kinds: Mapping[str, MachineFaultKind]
    scales: Floats
    digits: list[int]

    def block(self, effects: Effects, rng: np.random.Generator) -> Floats:
        """Advance by the ticks of ``effects`` and return readings (B, M, C)."""
        ...


class _Autoregression:
    """Independent AR(1) processes of unit variance, each with its correlation time."""

    def __init__(
        self, times_us: Floats, machines: int, interval_us: int, rng: np.random.Generator
    ) -> None:
        self._phi = np.exp(-interval_us / times_us)[:, None]
        self._noise = np.sqrt(1.0 - self._phi**2)
        self._state = rng.standard_normal((len(times_us), machines))

    def advance(self, ticks: int, rng: np.random.Generator) -> Floats:
        """The next values, (processes, ticks, M)."""
        path = self._noise * rng.standard_normal((ticks, *self._state.shape))
        state = self._state
        for k in range(ticks):
            path[k] += self._phi * state
            state = path[k]
        self._state = state.copy()
        return path.transpose(1, 0, 2)


def characters(machines: int, traits: int) -> tuple[Floats, Floats]:
    """What sets each machine apart; it has the same id, and character, in every simulation.

    Machines of one make differ, but none by more than 2 sd.

    Returns:
        (M,) uniform in [0, 1), and (M, traits) standard normal, cut at 2.
    """
    rngs = [np.random.default_rng([_CHARACTERS, m]) for m in range(machines)]
    chances = np.array([rng.random() for rng in rngs])
    normal = np.array([rng.standard_normal(traits) for rng in rngs]).reshape(machines, traits)
    return chances, np.clip(normal, -2.0, 2.0)


_CHARACTERS = 2


def _daily(times_us: NDArray[np.int64], peak_us: Floats) -> Floats:
    """(B, M): a sine over the day, 1 at each machine's peak time."""
    return np.cos(2.0 * np.pi * (times_us[:, None] - peak_us) / US_PER_DAY)


class MillingModel:
    """Milling machines of three quality types: L, M and H.

    Load follows the day and a slow AR(1). Load sets mechanical power; power and speed
    give torque; power heats the spindle with a lag; wear grows with load and adds to
    vibration and torque until the tool is changed.
    """

    CHANNELS = ("vibration", "temperature", "rotational_speed", "torque", "tool_wear")
    TYPES = ("L", "M", "H")
    TYPE_SHARES = (0.4, 0.35, 0.25)
    kinds: Mapping[str, MachineFaultKind] = {
        "heat-dissipation": MachineFaultKind(
            ("temperature", "rotational_speed", "vibration"), 0.15
        ),
        "power": MachineFaultKind(("torque", "rotational_speed"), 0.02, both_ways=True),
        "overstrain": MachineFaultKind(("torque", "rotational_speed", "vibration"), 0.1),
        "tool-wear": MachineFaultKind(("tool_wear", "vibration", "torque"), 0.2),
        "bearing": MachineFaultKind(("vibration", "temperature", "torque"), 0.4),
    }
    _POWER_W = np.array([8000.0, 8400.0, 8800.0])
    _SPEED_RPM = np.array([1460.0, 1500.0, 1540.0])
    _WEAR_RATE = np.array([1.0, 0.9, 0.8])
    _HEAT_LAG_US = 20.0 * US_PER_MIN
    _TOOL_LIFE_MIN = (190.0, 215.0)
    _WORN_OUT_MIN = 340.0

    def __init__(
        self, spec: ChannelSpec, types: NDArray[np.int64], interval_us: int, seed: int
    ) -> None:
        rng = np.random.default_rng([seed, 2])
        machines = len(types)
        self._columns = [self.CHANNELS.index(c.name) for c in spec.continuous]
        self.scales = np.array([0.5, 4.0, 45.0, 6.0, 60.0])[self._columns]
        self.digits = np.array([3, 2, 1, 2, 1])[self._columns].tolist()
        self._interval_us = interval_us
        power, speed, vibration, ambient, busy, warm = characters(machines, 6)[1].T
        self._power_w = self._POWER_W[types] * (1.0 + 0.03 * power)
        self._speed_rpm = self._SPEED_RPM[types] * (1.0 + 0.015 * speed)
        self._vibration = 1.5 + 0.1 * vibration
        self._ambient_degc = 24.0 + ambient
        self._wear_rate = self._WEAR_RATE[types]
        self._busy_us = (13.0 + 0.8 * busy) * US_PER_HOUR
        self._warm_us = (16.0 + 0.5 * warm) * US_PER_HOUR
        times_us = np.array([15.0, 2.0, 10.0, 1.5]) * US_PER_MIN
        self._noise = _Autoregression(times_us, machines, interval_us, rng)
        self._heat = np.full(machines, 0.65)
        self._life_min = rng.uniform(*self._TOOL_LIFE_MIN, machines)
        self._wear_min = rng.uniform(0.0, 1.0, machines) * self._life_min

    def block(self, effects: Effects, rng: np.random.Generator) -> Floats:
        """See :meth:`MachineModel.block`."""
        times_us = effects.times_us
        slow, speed, ambient, shake = self._noise.advance(len(times_us), rng)
        fine = rng.standard_normal((3, *slow.shape))
        lives_min = rng.uniform(*self._TOOL_LIFE_MIN, slow.shape)
        overstrain = effects.intensity("overstrain")
        overheat = effects.intensity("heat-dissipation")
        bearing = effects.intensity("bearing")
        power_fault = effects.intensity("power")

        load = 0.66 + 0.12 * _daily(times_us, self._busy_us) + 0.06 * slow
        load = np.clip(load, 0.3, 1.0)
        wear_min = self._wear(load, effects, lives_min)
        worn = wear_min / 200.0

        power_w = self._power_w * load
        power_w *= 1.0 + np.where(power_fault > 0, 0.9, 0.7) * power_fault
        power_w *= (1.0 + 0.6 * overstrain) * (1.0 - 0.25 * overstrain)
        speed_rpm = self._speed_rpm * (1.0 + 0.02 * speed)
        speed_rpm *= (1.0 - 0.25 * overstrain) * (1.0 - 0.1 * overheat)
        speed_rpm *= 1.0 + np.where(power_fault > 0, 0.08, 0.15) * power_fault
        torque = power_w / (RAD_PER_S_PER_RPM * speed_rpm)
        torque *= (1.0 + 0.08 * worn**2) * (1.0 + 0.12 * bearing) * (1.0 + 0.03 * fine[0])

        heat = self._heat_up(power_w / self._power_w * (1.0 + 1.6 * overheat))
        room = self._ambient_degc + 2.0 * _daily(times_us, self._warm_us) + 0.4 * ambient
        temperature = room + 30.0 * heat + 14.0 * bearing + 0.15 * fine[1]

        vibration = (
            self._vibration
            * (speed_rpm / self._speed_rpm) ** 2
            * (0.7 + 0.45 * power_w / self._power_w)
        )
        vibration *= 1.0 + 0.35 * worn**2
        vibration *= (1.0 + 4.0 * bearing) * (1.0 + 1.5 * overstrain) * (1.0 + 0.9 * overheat)
        vibration *= np.exp(0.07 * shake + 0.05 * fine[2])

        readings = np.stack([vibration, temperature, speed_rpm, torque, wear_min], axis=-1)
        return readings[:, :, self._columns]

    def _wear(self, load: Floats, effects: Effects, lives_min: Floats) -> Floats:
        """Tool wear (B, M); a tool at the end of its life is replaced, unless faulty."""
        fault = effects.intensity("tool-wear")
        growth_min = self._wear_rate * load * (self._interval_us / US_PER_MIN)
        wear_min = np.empty_like(load)
        current, life = self._wear_min, self._life_min
        for k in range(len(load)):
            current = current + growth_min[k]
            changed = current > life
            current = np.where(changed, 0.0, current)
            life = np.where(changed, lives_min[k], life)
            wear_min[k] = current
        self._wear_min, self._life_min = current, life
        overdue_min = np.maximum(self._WORN_OUT_MIN - wear_min, 0.0)
        return wear_min + np.clip(fault, 0.0, 1.0) * overdue_min

    def _heat_up(self, target: Floats) -> Floats:
        """First-order lag of ``target`` (B, M)."""
        keep = math.exp(-self._interval_us / self._HEAT_LAG_US)
        path = (1.0 - keep) * target
        state = self._heat
        for k in range(len(target)):
            path[k] += keep * state
            state = path[k]
        self._heat = state.copy()
        return path


class GenericModel:
    """Machines with any channels: level, daily cycle, common and own AR(1) noise.

    The usual range of a channel is its ``typical``; without it the middle fifth of
    [min, max]; without that one unit to either side of the nearest possible level.
    """

    kinds: Mapping[str, MachineFaultKind] = {
        "step": MachineFaultKind((), 0.0, both_ways=True),
        "ramp": MachineFaultKind((), 0.8, both_ways=True),
        "variance": MachineFaultKind((), 0.1),
    }

    def __init__(self, spec: ChannelSpec, machines: int, interval_us: int, seed: int) -> None:
        rng = np.random.default_rng([seed, 2])
        channels = len(spec.continuous)
        ranges = np.array([usual_range(c) for c in spec.continuous])
        self.scales = (ranges[:, 1] - ranges[:, 0]) / 4.0
        self.digits = [max(0, 2 - math.floor(math.log10(s))) for s in self.scales]
        _, traits = characters(machines, channels + 1)
        self._level = ranges.mean(axis=1) + self.scales * 0.4 * traits[:, 1:]
        self._low = np.array([-np.inf if c.min is None else c.min for c in spec.continuous])
        self._high = np.array([np.inf if c.max is None else c.max for c in spec.continuous])
        # Signs are the channels', not the machines': pressure falls where flow rises everywhere.
        make = np.random.default_rng(_CHARACTERS)
        self._common = 0.5 * make.choice([-1.0, 1.0], channels) * make.uniform(0.6, 1.0, channels)
        self._cycle = make.uniform(0.2, 0.5, channels)
        self._peak_us = (13.0 + traits[:, 0]) * US_PER_HOUR
        slow_us = max(spec.length_us / 4.0, 3.0 * interval_us)
        times_us = np.array([slow_us] + [slow_us / 4.0] * channels)
        self._noise = _Autoregression(times_us, machines, interval_us, rng)

    def block(self, effects: Effects, rng: np.random.Generator) -> Floats:
        """See :meth:`MachineModel.block`."""
        noise = self._noise.advance(len(effects.times_us), rng)
        common, own = noise[0][:, :, None], noise[1:].transpose(1, 2, 0)
        white = rng.standard_normal(own.shape)
        busy = _daily(effects.times_us, self._peak_us)[:, :, None]
        moves = self._common * common + self._cycle * busy + 0.4 * own + 0.15 * white
        moves += 8.0 * effects.by_channel("step") + 10.0 * effects.by_channel("ramp")
        moves += 6.0 * effects.by_channel("variance") * rng.standard_normal(own.shape)
        readings: Floats = np.clip(self._level + self.scales * moves, self._low, self._high)
        return readings


def usual_range(channel: Channel) -> tuple[float, float]:
    """The range of ordinary work that :class:`GenericModel` assumes for a channel."""
    if channel.typical is not None:
        return channel.typical
    if channel.min is not None and channel.max is not None:
        middle, tenth = (channel.min + channel.max) / 2.0, (channel.max - channel.min) / 10.0
        return middle - tenth, middle + tenth
    if channel.min is not None:
        return channel.min + 1.0, channel.min + 3.0
    if channel.max is not None:
        return channel.max - 3.0, channel.max - 1.0
    return -1.0, 1.0
