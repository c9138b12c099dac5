"""Timelines: what is thinned out, and what a browser unpacks again."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.report.packing import GAP, LEVELS, MISSING, packed
from worker.report.readings import Part
from worker.report.timelines import (
    CELLS,
    FEWEST_BUCKETS,
    Timeline,
    Timelines,
    Wanted,
    buckets_for,
    edges_us,
    machines_for,
)

S = 1_000_000
DAY_US = 86_400 * S


def part(times_us: np.ndarray, values: np.ndarray, machine: str = "m") -> Part:
    """Readings of one machine; score and threshold are nothing."""
    nothing = np.full((len(times_us), 2), np.nan)
    return Part(pl.Series([machine] * len(times_us)), times_us, nothing, values)


def timeline_of(
    times_us: np.ndarray, values: np.ndarray, buckets: int = 300, cut: int = 1, **more: Any
) -> Timeline:
    wanted = Wanted("m", int(times_us.min()), int(times_us.max()), more.get("focus", ()), (0,))
    timelines = Timelines([wanted], 3, buckets)
    for i in range(0, len(times_us), max(len(times_us) // cut, 1)):
        rows = slice(i, i + max(len(times_us) // cut, 1))
        timelines.add(part(times_us[rows], values[rows]))
    return timelines.timeline(0)


def unpacked(pack: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Times and low words (n, S) as the page's script reads them."""
    raw = np.frombuffer(zlib.decompress(base64.b64decode(pack["data"])), np.uint8).astype(int)
    half = len(raw) // 2
    words = (raw[:half] | raw[half:] << 8).reshape(-1, pack["n"])
    times = pack["start_us"] + pack["unit_us"] * np.cumsum(words[0] * 65_536 + words[1])
    return times, (np.cumsum(words[2::2], axis=1) % 65_536).T


def test_no_spike_is_lost_however_much_is_thinned_out() -> None:
    rng = np.random.default_rng(1)
    times_us = np.arange(100_000) * 10 * S
    values = rng.normal(size=(100_000, 1))
    values[71_234] = 40.0
    found = timeline_of(times_us, values, cut=7)
    assert len(found.times_us) <= 300
    assert np.nanmax(found.highs[:, 2]) == 40.0
    assert np.nanmin(found.lows[:, 2]) == values.min()
    at = int(np.nanargmax(found.highs[:, 2]))
    assert abs(found.times_us[at] - times_us[71_234]) < 100_000 * 10 * S / 300


def test_it_does_not_matter_how_the_data_are_cut() -> None:
    rng = np.random.default_rng(2)
    times_us = np.sort(rng.integers(0, DAY_US, 5000))
    values = rng.normal(size=(5000, 1))
    first, second = (timeline_of(times_us, values, cut=cut) for cut in (1, 13))
    np.testing.assert_array_equal(first.times_us, second.times_us)
    np.testing.assert_array_equal(first.highs, second.highs)
    np.testing.assert_array_equal(first.gaps, second.gaps)


def test_few_readings_stay_as_they_are() -> None:
    times_us = np.cumsum([5 * S, 60 * S, 61 * S, 59 * S, 600 * S])
    values = np.array([[1.0], [2.0], [1.5], [9.0], [3.0]])
    found = timeline_of(times_us, values, buckets=2000)
    kept = ~np.isnan(found.lows[:, 2])
    np.testing.assert_array_equal(found.times_us[kept], times_us)
    np.testing.assert_array_equal(found.lows[kept, 2], values[:, 0])
    np.testing.assert_array_equal(found.highs[kept, 2], values[:, 0])


def test_half_of_the_buckets_lie_around_the_episodes() -> None:
    episode = (10 * DAY_US, 10 * DAY_US + 3600 * S)
    wanted = Wanted("m", 0, 30 * DAY_US, (episode,), (0,))
    edges = edges_us(wanted, 1000)
    near = (edges > episode[0] - 3600 * S) & (edges < episode[1] + 3600 * S)
    assert 490 <= near.sum() <= 510
    assert (edges[0], edges[-1]) == (0, 30 * DAY_US + 1)


@settings(deadline=None)
@given(
    st.integers(0, 10**12),
    st.lists(st.tuples(st.integers(-(10**11), 2 * 10**12), st.integers(0, 10**12)), max_size=5),
)
def test_edges_ascend_from_the_first_to_after_the_last_reading(
    length_us: int, episodes: list[tuple[int, int]]
) -> None:
    focus = tuple((begin, begin + lasts) for begin, lasts in episodes)
    edges = edges_us(Wanted("m", 7, 7 + length_us, focus, (0,)), 500)
    assert (edges[0], edges[-1]) == (7, 8 + length_us)
    assert (np.diff(edges) >= 0).all()


def test_a_silence_interrupts_lines_and_a_channel_that_comes_seldom_does_not() -> None:
    times_us = np.arange(2000) * 10 * S
    times_us[1000:] += 6 * 3600 * S
    values = np.ones((2000, 1))
    values[np.arange(2000) % 30 != 0] = np.nan
    found = timeline_of(times_us, values, buckets=2500)
    silence = (times_us[999] < found.times_us) & (found.times_us < times_us[1000])
    assert silence.sum() == 1
    assert found.gaps[silence].all()
    inside = found.times_us < times_us[990]
    assert np.isnan(found.lows[inside, 2]).any()
    assert not found.gaps[inside, 2].any()


def test_a_channel_that_stops_is_interrupted() -> None:
    times_us = np.arange(2000) * 10 * S
    values = np.ones((2000, 1))
    values[700:1400] = np.nan
    found = timeline_of(times_us, values)
    missing = np.isnan(found.lows[:, 2])
    assert missing.sum() > 90
    assert found.gaps[missing, 2].all()


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e12])
def test_a_browser_unpacks_what_was_packed(scale: float) -> None:
    rng = np.random.default_rng(4)
    times_us = np.cumsum(rng.integers(1, 2 * 3600 * S, 400))
    lows = scale * rng.normal(size=(400, 2))
    highs = lows + scale * rng.random((400, 2))
    lows[10], highs[10] = np.nan, np.nan
    gaps = np.zeros((400, 2), np.bool_)
    gaps[10, 1] = True
    pack = packed(Timeline(times_us, lows, highs, gaps), LEVELS)
    times, words = unpacked(pack)
    assert np.abs(times - times_us).max() <= 400 * pack["unit_us"]
    assert (words[10, 0], words[10, 1]) == (MISSING, GAP)
    ranges = np.array(pack["ranges"])
    step = (ranges[:, 1] - ranges[:, 0]) / pack["levels"]
    known = np.delete(np.arange(400), 10)
    assert np.abs(ranges[:, 0] + step * words[known] - lows[known]).max() <= 0.51 * step.max()


def test_a_channel_that_never_changes_is_packed() -> None:
    times_us = np.arange(10) * S
    flat = np.full((10, 1), 7.5)
    pack = packed(Timeline(times_us, flat, flat, np.zeros((10, 1), np.bool_)), LEVELS)
    assert pack["ranges"] == [[7.5, 8.5]]
    assert (unpacked(pack)[1] == 0).all()


@pytest.mark.parametrize(("machines", "series"), [(1, 3), (100, 7), (100, 28), (5000, 28)])
def test_the_page_is_bounded_however_many_machines_and_channels_there_are(
    machines: int, series: int
) -> None:
    shown = min(machines, machines_for(series))
    buckets = buckets_for(shown, series)
    assert shown * series * 2 * buckets <= CELLS
    assert buckets >= FEWEST_BUCKETS
    assert shown >= min(machines, 100)
