"""Why a reading or an episode is abnormal, in terms of channels and for a person.

Owns how the contributions of signals and of the forest's features become channels in order,
each with its value, what was expected and the distance, and one sentence. How abnormal
something is was decided before; nothing here changes that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.core.channels import ChannelSpec
from worker.core.messages import Cause

Floats = NDArray[np.float64]
Numbers = NDArray[np.float64] | NDArray[np.float32]

MAX_CAUSES = 3
LEAST_SHARE = 0.1
"""A channel is named from this share of all contributions on; the first always is."""
NOTABLE_DEVIATION = 2.0
"""In standard deviations; below, a value says nothing by itself."""
LARGEST_DEVIATION = 1e6
MAX_DECIMALS = 9
UNUSUAL_COMBINATION = "an unusual combination of readings, each within its usual range"


class SeenCode(NamedTuple):
    """A code of an event, and how many events of the training carried it."""

    code: str
    seen: int


class _Evidence(NamedTuple):
    """The arguments of :func:`explain`."""

    contributions: Numbers
    values: Numbers
    expected: Numbers
    deviation: Numbers


class Explanation(NamedTuple):
    """Causes, those that contributed most first, and all of it in one sentence."""

    causes: list[Cause]
    reason: str


def channel_contributions(spec: ChannelSpec, contributions: Numbers) -> Floats:
    """Attribute what signals contributed to channels.

    What a derived signal contributed goes to its two channels in proportion to their own
    contributions; in equal parts where they have none.

    Args:
        contributions: (..., D) of signals, >= 0.

    Returns:
        (..., C + E) of the continuous channels, then of the channels of codes; the same sum.
    """
    count = len(spec.continuous)
    own = contributions[..., :count].astype(np.float64)
    shares = own.copy()
    for e, (a, b) in enumerate(spec.operands):
        part = contributions[..., count + e].astype(np.float64)
        both = own[..., a] + own[..., b]
        to_a = np.where(both > 0.0, own[..., a], 0.5) / np.where(both > 0.0, both, 1.0)
        shares[..., a] += part * to_a
        shares[..., b] += part * (1.0 - to_a)
    codes = contributions[..., count + len(spec.derived) :].astype(np.float64)
    return np.concatenate([shares, codes], axis=-1)


def with_forest(
    spec: ChannelSpec, contributions: Numbers, shapley: Floats, weight: float
) -> Floats:
    """Add the forest's part to the contributions of signals.

    Args:
        contributions: (D,) of the other families.
        shapley: (F,) of each model input to the mean path length; see ``worker.core.forest``.
        weight: of the forest among the families, on the scale of the contributions.

    Returns:
        (D,): roots of sums of squares, as the families add up. The forest's weight is divided
        among the signals whose inputs shorten the row's paths.
    """
    lengthening = np.bincount(spec.feature_owners, shapley, len(spec.signals))
    shortening = np.maximum(-lengthening, 0.0)
    total = float(shortening.sum())
    parts = shortening * (weight / total) if total > 0.0 else shortening
    return np.hypot(contributions.astype(np.float64), parts)


def explain(
    spec: ChannelSpec,
    contributions: Numbers,
    values: Numbers,
    expected: Numbers,
    deviation: Numbers,
    *,
    codes: Sequence[SeenCode | None] = (),
    experience: float = 1.0,
) -> Explanation:
    """Name the channels that made a reading or an episode abnormal.

    Args:
        contributions: (D,) of signals, >= 0; of an episode their means.
        values: (D,) in the signal's unit, of codes the surprisal; NaN where missing.
        expected: (D,) in the signal's unit.
        deviation: (D,) of the value from what was expected, in standard deviations.
        codes: of each channel of kind "event", where they are known; None without a code.
        experience: share of the machine's warm-up that is done, in [0, 1].
    """
    evidence = _Evidence(contributions, values, expected, deviation)
    count = len(spec.continuous)
    shares = channel_contributions(spec, contributions)
    total = float(shares.sum())
    causes: list[Cause] = []
    clauses: dict[int, str] = {}
    for channel in np.argsort(-shares, kind="stable")[:MAX_CAUSES].tolist():
        share = float(shares[channel]) / total if total > 0.0 else 0.0
        if share <= 0.0 or (causes and share < LEAST_SHARE):
            break
        if channel < count:
            cause = _reading_cause(spec, evidence, channel, share)
            clauses[channel] = describe(cause)
        else:
            code = codes[channel - count] if codes else None
            signal = channel + len(spec.derived)
            cause, clauses[channel] = _code_cause(spec, evidence, signal, code, share)
        causes.append(cause)
    parts = list(clauses.values())
    first = int(np.argmax(contributions)) - count
    if 0 <= first < len(spec.derived) and causes:
        said = [c for c, cause in zip(clauses, causes, strict=True) if _is_notable(cause)]
        said = [c for c in clauses if c in said or c not in spec.operands[first]]
        parts = [_derived_clause(spec, evidence, first), *(clauses[c] for c in said)]
    reason = "; ".join(parts) or UNUSUAL_COMBINATION
    if experience < 1.0:
        done = max(int(experience * 100.0), 0)
        reason += f"; less certain, because the machine is still warming up ({done} % done)"
    return Explanation(causes, reason)


def describe(cause: Cause) -> str:
    """A clause about one continuous channel, with numbers to compare with a gauge."""
    value, expected = cause.value, cause.expected
    if not isinstance(value, float) or expected is None:
        return f"{cause.channel} has been unusual lately"
    shown, usual, distance = _readable(value, expected, cause.deviation)
    shown = _with_unit(shown, cause.unit)
    if not _is_notable(cause):
        return f"{cause.channel} has been unusual lately (now {shown}, expected {usual})"
    side = "above" if value > expected else "below"
    sd = abs(cause.deviation)
    size = f"{sd:.1f}" if sd < 100.0 else f"{sd:.0f}"
    return f"{cause.channel} {shown} is {distance} {side} the expected {usual} ({size} sd)"


def _reading_cause(spec: ChannelSpec, evidence: _Evidence, signal: int, share: float) -> Cause:
    return Cause(
        channel=spec.signals[signal],
        unit=spec.signal_units[signal],
        value=_finite(float(evidence.values[signal])),
        expected=_finite(float(evidence.expected[signal])),
        deviation=_deviation(evidence, signal),
        share=round(share, 3),
    )


def _code_cause(
    spec: ChannelSpec, evidence: _Evidence, signal: int, code: SeenCode | None, share: float
) -> tuple[Cause, str]:
    cause = Cause(
        channel=spec.signals[signal],
        unit="",
        value=None if code is None else code.code,
        expected=None,
        deviation=_deviation(evidence, signal),
        share=round(share, 3),
    )
    surprisal = float(evidence.values[signal])
    if code is not None and code.seen == 0:
        return cause, f"{cause.channel} {code.code} was never seen in training"
    if not surprisal > 0.0:
        return cause, f"{cause.channel} has had rare codes lately"
    of = f"one in {10.0 ** min(surprisal, 15.0):,.0f} readings of the training"
    if code is None:
        return cause, f"{cause.channel} had a code as rare as {of}"
    return cause, f"{cause.channel} {code.code} is as rare as {of}"


def _derived_clause(spec: ChannelSpec, evidence: _Evidence, e: int) -> str:
    """A clause about a derived signal and the channels that it is made of."""
    cause = _reading_cause(spec, evidence, len(spec.continuous) + e, 1.0)
    operands = []
    for signal in dict.fromkeys(spec.operands[e]):
        value = _finite(float(evidence.values[signal]))
        unit = spec.signal_units[signal]
        shown = "" if value is None else f" {_with_unit(_plain(value, 4), unit)}"
        operands.append(f"{spec.signals[signal]}{shown}")
    return f"{describe(cause)}, from {' and '.join(operands)}"


def _is_notable(cause: Cause) -> bool:
    return abs(cause.deviation) >= NOTABLE_DEVIATION and cause.value != cause.expected


def _readable(value: float, expected: float, deviation: float) -> tuple[str, str, str]:
    """Value, expected value and their distance, to a fifth of a standard deviation or finer."""
    distance = abs(value - expected)
    largest = max(abs(value), abs(expected))
    if distance > 0.0 and deviation != 0.0 and largest < 1e15:
        decimals = max(math.ceil(math.log10(5.0 * abs(deviation)) - math.log10(distance)), 0)
        if decimals <= MAX_DECIMALS:
            shown, usual = f"{value:z.{decimals}f}", f"{expected:z.{decimals}f}"
            return shown, usual, f"{abs(float(shown) - float(usual)):.{decimals}f}"
    digits = 4
    while digits < 17 and value != expected and _plain(value, digits) == _plain(expected, digits):
        digits += 1
    return _plain(value, digits), _plain(expected, digits), _plain(distance, 4)


def _plain(number: float, digits: int) -> str:
    """A number with at least that many significant digits; to 1e15 with all before the point."""
    if 9999 <= abs(number) < 1e15:
        return f"{number:.{max(digits - len(str(int(abs(number)))), 0)}f}"
    return f"{number:z.{digits}g}"  # z: zero has no sign


def _with_unit(number: str, unit: str) -> str:
    return f"{number} {unit}" if unit else number


def _deviation(evidence: _Evidence, signal: int) -> float:
    deviation = float(evidence.deviation[signal])
    if math.isnan(deviation):
        return 0.0
    return round(min(max(deviation, -LARGEST_DEVIATION), LARGEST_DEVIATION), 3)


def _finite(value: float) -> float | None:
    """The value with the digits it has, such as 4.3 for the nearest in single precision."""
    if not math.isfinite(value):
        return None
    if abs(value) >= 2**24:  # whole numbers from here on have no digits to drop
        return value
    narrow = np.float32(value)
    return float(str(narrow)) if float(narrow) == value else float(f"{value:.9g}")
