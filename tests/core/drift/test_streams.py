"""Tests over several windows: chances hold, statistics are river's and SciPy's, and they add."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from river.drift import PageHinkley
from scipy import stats

from tests.core.drift.series import SECOND_US, autoregressive, gathered, learned
from worker.core.drift import DriftMonitor, Outputs, Settings, streams
from worker.core.drift.calibration import LongRun

SERIES = 8_000
WINDOW_US = 60 * SECOND_US
SETTINGS = Settings(windows_us=(WINDOW_US,), grace_us=0)


def departing(white: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(white.shape[1]), np.ones(white.shape[1], np.bool_)


@pytest.mark.parametrize("windows", [12, 24, 64])
def test_chances_are_how_often_independent_numbers_are_so_far(
    windows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Changes back to what is usual have no chance of a vote; here both ways count.
    monkeypatch.setattr(streams, "_departing", departing)
    white = np.random.default_rng(windows).normal(size=(windows, SERIES))
    found = streams.run_all(white, np.full(SERIES, 1e6), dict.fromkeys(streams.NAMES, 1e-3))
    for name, one in found.items():
        for chance in (0.1, 0.01):
            share = np.mean(one.p_value <= chance)
            # Four standard errors of a share of one in a hundred are 0.44 of it.
            assert share <= 1.5 * chance, name
            # Few windows have few distances of distribution functions.
            assert share >= (0.2 if name == "kswin" else 0.5) * chance, name


def test_page_hinkley_is_rivers() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        white = rng.normal(size=40) + np.repeat([0.0, rng.normal()], 20)
        value = float(streams.page_hinkley(white[:, None])[0][0])
        for threshold, expected in ((value - 1e-9, True), (value + 1e-9, False)):
            # river stops at the first alarm, here only the last number may raise one.
            river = PageHinkley(len(white), streams.DELTA, threshold, alpha=1.0)
            for number in white:
                river.update(float(number))
            assert river.drift_detected is expected


def test_the_distance_of_kswin_is_scipys() -> None:
    white = np.random.default_rng(3).normal(size=(60, 5))
    one = streams.run_all(white, np.full(5, 50.0), dict.fromkeys(streams.NAMES, 1e-3))["kswin"]
    for f in range(5):
        exact = stats.ks_2samp(white[-streams.RECENT :, f], white[: -streams.RECENT, f])
        assert one.value[f] == pytest.approx(exact.statistic)


def test_adwin_is_the_largest_difference_of_means_around_any_cut() -> None:
    white = np.random.default_rng(4).normal(size=(30, 1))
    one = streams.run_all(white, np.full(1, 50.0), dict.fromkeys(streams.NAMES, 1e-3))["adwin"]
    cuts = range(streams.SIDE, 30 - streams.SIDE + 1)
    expected = max(
        abs(white[k:].mean() - white[:k].mean()) / np.sqrt(1 / k + 1 / (30 - k)) for k in cuts
    )
    assert one.value[0] == pytest.approx(expected)


@pytest.mark.parametrize("phi", [0.0, 0.9, 0.99])
def test_windows_that_are_alike_are_made_independent_by_the_reference(phi: float) -> None:
    rows = autoregressive(np.random.default_rng(6), 120_000, 2, phi).astype(np.float64)
    run = LongRun.learn(rows[:60_000])
    rho, beyond = streams.correlation(run, 60.0, np.arange(2))
    variance, _ = run.of_mean(np.full(2, 60.0))
    means = rows[60_000:].reshape(1000, 60, 2).mean(axis=1) / np.sqrt(variance)
    follows = np.append(False, np.ones(999, np.bool_))
    white = streams.whiten(means, follows, rho, beyond)
    for f in range(2):
        assert abs(np.corrcoef(white[1:, f], white[:-1, f])[0, 1]) < 0.2
        assert white[:, f].std() == pytest.approx(1.0, abs=0.15)


def test_slow_parts_of_the_reference_make_them_slow_to_alarm() -> None:
    rng = np.random.default_rng(7)
    cycle = np.sin(np.arange(40_000) / 2_000 * 2 * np.pi)[:, None]
    run = LongRun.learn(rng.normal(size=(40_000, 1)) + cycle)
    plain = LongRun.learn(rng.normal(size=(40_000, 1)))
    of_cycle = streams.correlation(run, 60.0, np.arange(1))
    rho, beyond = streams.correlation(plain, 60.0, np.arange(1))
    assert float(rho[0]) < 0.1
    assert float(beyond[0]) < 1.2
    assert float(of_cycle[0][0]) > 0.5 or float(of_cycle[1][0]) > 3.0


def followed(change: np.ndarray, seed: int) -> tuple[list[Outputs], DriftMonitor]:
    """A machine whose first column changes by that much (n,) after its reference."""
    series = autoregressive(np.random.default_rng(seed), 12_000 + len(change), 3, 0.5)
    reference = learned(series[:12_000])
    live = series[12_000:].copy()
    live[:, 0] += change
    monitor = DriftMonitor(reference, "fleet", SETTINGS, "plant/1.0.0")
    outputs = [monitor.add(partial) for partial in gathered(reference, live, WINDOW_US)]
    return [*outputs, monitor.flush()], monitor


def voted(outputs: list[Outputs]) -> set[str]:
    reports = [report for out in outputs for report in out.windows]
    return {
        test.name for r in reports for one in r.features for test in one.tests if test.voted
    } & set(streams.NAMES)


def test_a_small_change_that_lasts_is_seen_over_several_windows() -> None:
    step = np.repeat([0.0, 0.55], [40 * 60, 40 * 60])
    outputs, _ = followed(step, 3)
    assert "adwin" in voted(outputs)
    (opened,) = [e for out in outputs for e in out.events if e.status == "opened"]
    assert opened.features[0].feature == "f0"
    assert opened.features[0].direction == "up"
    assert abs(opened.began_us - 40 * WINDOW_US) <= 3 * WINDOW_US
    reports = [report for out in outputs for report in out.windows]
    (test,) = [
        t for f in reports[-1].features if f.feature == "f0" for t in f.tests if t.name == "adwin"
    ]
    assert test.effect == pytest.approx(0.55, abs=0.25)
    assert test.unit == "mm"


def test_without_a_change_they_do_not_vote() -> None:
    assert voted(followed(np.zeros(70 * 60), 0)[0]) == set()


def test_a_change_that_is_over_is_closed_although_it_is_remembered() -> None:
    bump = np.repeat([0.0, 1.5, 0.0], [30 * 60, 10 * 60, 8 * 60])
    outputs, _ = followed(bump, 5)
    assert [e.status for out in outputs for e in out.events][-1] == "closed"


def test_after_a_change_was_accepted_they_begin_anew() -> None:
    series = np.repeat([0.0, 1.0], [30 * 60, 30 * 60])
    _, monitor = followed(series, 6)
    monitor.accept(60 * WINDOW_US)
    rng = np.random.default_rng(8)
    live = autoregressive(rng, 20 * 60, 3, 0.5)
    live[:, 0] += 1.0
    partials = gathered(monitor.reference, live, WINDOW_US, start_us=60 * WINDOW_US)
    outputs = [monitor.add(replace(partial, sequence=10**6)) for partial in partials]
    first = next(report for out in outputs for report in out.windows)
    assert not any(t.name in streams.NAMES for f in first.features for t in f.tests)
    assert not [e for out in outputs for e in out.events]
