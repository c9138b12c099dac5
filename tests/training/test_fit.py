from __future__ import annotations

import numpy as np
import pytest

from tests.support.detection import readings_of, score, spec_of
from worker.core.detection.baselines import Baselines
from worker.training.crossfit import is_counter
from worker.training.fit import counters, fit


@pytest.mark.parametrize("rows", [1, 2, 39, 40, 100])
def test_few_rows_of_one_machine_make_a_model(rows: int) -> None:
    rng = np.random.default_rng(rows)
    spec = spec_of(3)
    fitted = fit(spec, readings_of([rng.normal(size=(rows, 3))]))
    values = rng.normal(size=(200, 3))
    values[100:] += 100.0
    scores = score(spec, fitted, "m0", values)
    assert np.isfinite(scores.anomaly_score).all()
    assert (scores.anomaly_score < scores.threshold).any()


def test_a_jump_of_one_signal_is_an_anomaly_and_is_named() -> None:
    rng = np.random.default_rng(1)
    spec = spec_of(4)
    fitted = fit(spec, readings_of([rng.normal(size=(2000, 4))]))
    values = rng.normal(size=(600, 4))
    values[300:, 2] += 8.0
    scores = score(spec, fitted, "m0", values)
    anomalies = scores.anomaly_score < scores.threshold
    assert not anomalies[:300].any()
    assert anomalies[305:330].all()
    assert (scores.contributions[305:330].argmax(axis=1) == 2).all()


def test_baselines_survive_their_arrays() -> None:
    rng = np.random.default_rng(2)
    baselines = fit(spec_of(2), readings_of([rng.normal(size=(100, 2))])).baselines
    again = Baselines.from_arrays(baselines.to_arrays())
    for name, array in baselines.to_arrays().items():
        assert np.array_equal(array, again.to_arrays()[name])


def test_processes_learn_what_one_learns() -> None:
    rng = np.random.default_rng(3)
    readings = readings_of([rng.normal(size=(100, 2)) + k for k in range(3)])
    one = fit(spec_of(2), readings, workers=1).baselines.to_arrays()
    two = fit(spec_of(2), readings, workers=2).baselines.to_arrays()
    for name, array in one.items():
        assert np.array_equal(array, two[name])


def fleet_with_a_slow_channel(rng: np.random.Generator, rows: int) -> np.ndarray:
    """A channel with noise at a level of the machine's own, and one that climbs for a thousand
    rows before it falls back to zero, as the wear of a tool does."""
    wear = (np.arange(rows) + rng.integers(1000)) % 1000.0
    return np.stack([rng.normal(5.0) + rng.normal(0.0, 0.2, rows), wear + rng.normal(size=rows)], 1)


def test_a_newcomer_whose_channel_is_slow_keeps_to_the_fleets_place_for_it() -> None:
    rng = np.random.default_rng(11)
    spec = spec_of(2)
    fitted = fit(spec, readings_of([fleet_with_a_slow_channel(rng, 4000) for _ in range(8)]))
    for k in range(5):
        values = fleet_with_a_slow_channel(rng, 3000)
        values[2500:, 0] += 4.0
        scores = score(spec, fitted, f"new{k}", values)
        anomalies = scores.anomaly_score < scores.threshold
        assert not anomalies[:2500].any()
        assert anomalies[2500:2520].any()
        assert scores.contributions[2510].argmax() == 0


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_counter_is_not_watched_and_hides_nothing_else(sign: float) -> None:
    rng = np.random.default_rng(12)
    spec = spec_of(3)
    values = rng.normal(size=(4000, 3))
    values[:, 1] = sign * np.cumsum(rng.uniform(size=4000))
    fitted = fit(spec, readings_of([values[:2000]]))
    live = values[2000:].copy()
    live[1500:, 0] += 8.0
    scores = score(spec, fitted, "m0", live)
    anomalies = scores.anomaly_score < scores.threshold
    assert not anomalies[:1500].any()
    assert anomalies[1505:1530].all()
    assert (scores.contributions[:, 1] == 0.0).all()


def test_what_has_no_readings_in_training_is_not_watched() -> None:
    rng = np.random.default_rng(13)
    spec = spec_of(3)
    values = rng.normal(size=(1500, 3))
    values[:1000, 2] = np.nan
    fitted = fit(spec, readings_of([values[:1000]]))
    scores = score(spec, fitted, "m0", values[1000:])
    assert not (scores.anomaly_score < scores.threshold).any()


def test_where_nothing_else_moves_a_rising_channel_is_watched() -> None:
    rising = np.arange(200.0)[:, None]
    assert not counters(rising, np.array([0, 200])).any()
    both = np.concatenate([rising, np.random.default_rng(1).normal(size=(200, 1))], axis=1)
    assert counters(both, np.array([0, 200])).tolist() == [True, False]


def test_a_setting_that_was_changed_a_few_times_is_no_counter() -> None:
    steps = np.repeat(np.arange(10.0), 50)
    assert not is_counter(steps)
    assert is_counter(np.arange(500.0))
    assert not is_counter(np.append(np.arange(500.0), 0.0))
