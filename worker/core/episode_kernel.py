"""The arithmetic of episodes: a compiled walk over events; see :mod:`worker.core.episodes`.

Owns the rules' application to one event after the other: arrays in, arrays out.
"""

from __future__ import annotations

import numpy as np
from numba import njit

NONE, PENDING, OPEN = range(3)
"""A machine's state: no episode, what may become one, or one that was opened."""
BEGAN, OPENED, LAST, WORST, NORMAL, PUBLISHED, CLOSED = range(7)
"""Times of an episode: first anomalous reading, the one that opened, the latest anomalous one, the
one with the lowest score, the first normal one after the latest anomalous one, the last
message, and when the last episode closed."""
TIMES = 7
NEVER = -1
NOTHING, WAS_OPENED, WAS_UPDATED, WAS_RECOVERED, WAS_MAINTAINED = range(5)
"""What :func:`follow` found."""
MEDIUM, HIGH = 1.0 / 3.0, 2.0 / 3.0
GAPS_A_SCALE = 4
"""The faster of the slow means that decide has a memory of a quarter of the long scale: what
comes back within it is the same excursion around the threshold, not new evidence."""


@njit("i8(f8, f8, f4[::1], i8, i8)", cache=True, nogil=True)
def severity_level(depth, duration, contributions, derived_start, derived_end):  # type: ignore[no-untyped-def]
    """How severe an episode is, as an index of ``LEVELS``.

    Size, duration and number of channels each raise it on their own, none can lower it::

        1 - (1 - size)(1 - duration / 2)(1 - channels / 2)

    Args:
        depth: of the worst reading: how far its score was on the way from its threshold to -1,
            in [0, 1]; the ``size``.
        duration: from the first to the latest anomalous reading, in long scales; ``d / (1 + d)``
            of it counts.
        contributions: (D,) of each signal, whose number of channels is
            ``k = (sum c)^2 / sum c^2``; ``1 - 1 / k`` of it counts.
        derived_start, derived_end: signals that are no channels of their own.
    """
    total = 0.0
    squares = 0.0
    for d in range(contributions.shape[0]):
        if d < derived_start or d >= derived_end:
            c = np.float64(contributions[d])
            total += c
            squares += c * c
    channels = 1.0 - squares / (total * total) if total > 0.0 else 0.0
    long = duration / (1.0 + duration)
    severity = 1.0 - (1.0 - depth) * (1.0 - 0.5 * long) * (1.0 - 0.5 * channels)
    if severity >= HIGH:
        return 2
    return 1 if severity >= MEDIUM else 0


@njit("i8(i8, f4[::1], f4[::1])", cache=True, nogil=True)
def _average(n, contributions, mean):  # type: ignore[no-untyped-def]
    """Add the ``n``-th contributions (D,) to their mean (D,); returns the largest's position."""
    first = 0
    for d in range(contributions.shape[0]):
        before = np.float64(mean[d]) if n > 1 else 0.0
        mean[d] = before + (contributions[d] - before) / n
        if mean[d] > mean[first]:
            first = d
    return first


@njit("void(f8[::1], f4[::1])", cache=True, nogil=True)
def _keep(values, kept):  # type: ignore[no-untyped-def]
    for d in range(values.shape[0]):
        kept[d] = values[d]


@njit("b1(i8, b1, i8, i8[::1])", cache=True, nogil=True)
def _is_over(t, maintained, gap_us, times):  # type: ignore[no-untyped-def]
    """Whether a reading that is not anomalous ends what the machine has; its times in and out."""
    # Out of order: from before the latest anomalous reading.
    if t < times[LAST]:
        return False
    if maintained:
        return True
    if t == times[LAST]:
        return False
    if times[NORMAL] == NEVER or t < times[NORMAL]:
        times[NORMAL] = t
    return t - times[NORMAL] >= gap_us


@njit("void(i8, i8[::1])", cache=True, nogil=True)
def _stretch(t, times):  # type: ignore[no-untyped-def]
    """Let a further anomalous reading be among those of an episode."""
    times[BEGAN] = min(times[BEGAN], t)
    times[LAST] = max(times[LAST], t)
    if times[NORMAL] <= times[LAST]:
        times[NORMAL] = NEVER


_SIGNATURE = (
    "UniTuple(i8, 2)(i8, i8[::1], i8[::1], i8[::1], b1[::1],"
    "f8[::1], f8[::1], f4[:, ::1], f8[:, ::1], f8[:, ::1], f4[:, ::1], i8, i8, i8, i8, i8,"
    "u1[::1], u1[::1], i2[::1], u4[::1], u4[::1], f4[::1], f8[::1], i8[:, ::1],"
    "f4[:, ::1], f4[:, ::1], f4[:, ::1], f4[:, ::1])"
)


@njit(_SIGNATURE, cache=True, nogil=True)
def follow(  # type: ignore[no-untyped-def]
    start,
    machines,
    times_us,
    scales_us,
    maintained,
    scores,
    thresholds,
    contributions,
    values,
    expected,
    deviation,
    merge_gap_us,
    cool_down_us,
    minimum_us,
    derived_start,
    derived_end,
    states,
    severities,
    tops,
    sequences,
    anomalies,
    depths,
    worst_scores,
    episode_times_us,
    mean_contributions,
    worst_values,
    worst_expected,
    worst_deviation,
):
    """Apply events from ``start`` on, up to the first transition.

    Args: as of :meth:`worker.core.episodes.Episodes.follow`, the rules (``NEVER``: by the long
        scale), the derived signals, and the fields of the table.

    Returns:
        The event of the transition and its code; n and ``NOTHING`` at the end.
    """
    for i in range(start, machines.shape[0]):
        m = machines[i]
        anomalous = scores[i] < thresholds[i] and not maintained[i]
        if states[m] == NONE and not anomalous:
            continue
        t = times_us[i]
        times = episode_times_us[m]
        scale_us = max(scales_us[i], 1)
        gap_us = merge_gap_us if merge_gap_us != NEVER else scale_us // GAPS_A_SCALE
        if not anomalous:
            if not _is_over(t, maintained[i], gap_us, times):
                continue
            was_pending = states[m] == PENDING
            states[m] = NONE
            if was_pending:
                continue
            times[CLOSED] = t
            sequences[m] += 1
            return i, WAS_MAINTAINED if maintained[i] else WAS_RECOVERED

        if t <= times[CLOSED]:
            continue
        if states[m] == NONE:
            states[m], severities[m], sequences[m], anomalies[m] = PENDING, 0, 0, 0
            depths[m], worst_scores[m] = 0.0, np.inf
            times[BEGAN], times[LAST], times[NORMAL] = t, t, NEVER
        _stretch(t, times)
        anomalies[m] += 1
        top = _average(anomalies[m], contributions[i], mean_contributions[m])
        depths[m] = max(depths[m], (thresholds[i] - scores[i]) / (1.0 + thresholds[i]))
        if scores[i] < worst_scores[m]:
            worst_scores[m], times[WORST] = scores[i], t
            _keep(values[i], worst_values[m])
            _keep(expected[i], worst_expected[m])
            worst_deviation[m] = deviation[i]
        duration = (times[LAST] - times[BEGAN]) / scale_us
        severity = severity_level(
            depths[m], duration, mean_contributions[m], derived_start, derived_end
        )

        if states[m] == PENDING:
            cool_us = cool_down_us if cool_down_us != NEVER else gap_us
            if times[LAST] - times[BEGAN] < minimum_us or (
                times[CLOSED] != NEVER and times[LAST] <= times[CLOSED] + cool_us
            ):
                continue
            states[m], times[OPENED] = OPEN, times[LAST]
            code = WAS_OPENED
        else:
            # At most two for severity, few for channels, and else when it has lasted twice as long.
            quiet_us = gap_us if top != tops[m] else max(times[PUBLISHED] - times[BEGAN], scale_us)
            if severity <= severities[m] and times[LAST] - times[PUBLISHED] < quiet_us:
                continue
            code = WAS_UPDATED
        severities[m] = max(severities[m], severity)
        tops[m] = top
        times[PUBLISHED] = times[LAST]
        sequences[m] += 1
        return i, code
    return machines.shape[0], NOTHING
