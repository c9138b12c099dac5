from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.reference import Late, Reference
from tests.core.strategies import START_US, events, make_spec, specs
from worker.core.features import FLOAT32_MAX, features_of, mask_impossible, to_model_input


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_features_equal_the_reference_for_any_channels_and_window(data: st.DataObject) -> None:
    spec = data.draw(specs())
    arrived = data.draw(events(spec, max_size=25))
    names = spec.feature_names
    expected = np.arange(float(len(names)))
    features, scored = features_of(
        spec,
        [event.machine for event in arrived],
        np.array([event.time_us for event in arrived], np.int64),
        np.array([event.readings for event in arrived]).reshape(-1, len(spec.continuous)),
        expected,
    )
    assert features.shape == (len(arrived), len(names))
    reference = Reference(spec)
    for i, event in enumerate(arrived):
        used = reference.possible(event.readings)
        window = reference.window(event.machine, event.time_us, used)
        assert scored[i] == (not isinstance(window, Late))
        if isinstance(window, Late):
            continue
        wanted = reference.features(used, window, dict(zip(names, expected, strict=True)))
        assert tuple(wanted) == names
        scale = max((seen.tolerance for seen in window), default=0.0) * 1000 + 1e-12
        for name, value in zip(names, features[i].tolist(), strict=True):
            assert value == pytest.approx(wanted[name], rel=1e-9, abs=scale), name


def test_a_missing_reading_counts_as_its_windows_mean() -> None:
    spec = make_spec(1)
    features, _ = features_of(
        spec, ["m"] * 3, START_US + np.arange(3), np.array([[2.0], [4.0], [math.nan]])
    )
    last = dict(zip(spec.feature_names, features[2].tolist(), strict=True))
    assert last["c0"] == last["mean_c0_5m"] == 3.0
    assert last["dev_c0_5m"] == 0.0
    assert last["product"] == 4.5


def test_a_channel_without_any_reading_takes_what_is_expected_of_each_feature() -> None:
    spec = make_spec(2)
    expected = np.arange(100.0, 100.0 + len(spec.feature_names))
    features, _ = features_of(
        spec, ["m"], np.array([START_US]), np.array([[math.nan, 7.0]]), expected
    )
    by_name = dict(zip(spec.feature_names, features[0].tolist(), strict=True))
    usual = dict(zip(spec.feature_names, expected.tolist(), strict=True))
    for name in ("c0", *(f"{s}_c0_5m" for s in ("mean", "std", "min", "max", "dev"))):
        assert by_name[name] == usual[name]
    assert by_name["c1"] == by_name["mean_c1_5m"] == 7.0
    assert by_name["product"] == 0.5 * usual["c0"] * 7.0


def test_without_expected_values_training_sees_a_channel_never_read_as_nan() -> None:
    spec = make_spec(2)
    features, scored = features_of(spec, ["m"], np.array([START_US]), np.array([[math.nan, 7.0]]))
    assert scored.all()
    assert math.isnan(features[0, 0])


def test_a_reading_on_the_edge_of_its_range_is_kept_and_one_outside_is_masked() -> None:
    spec = make_spec(2)
    values = np.array([[1e4, 1e5], [np.nextafter(1e4, np.inf), -1e30], [-1e4, 2e30]])
    masked = mask_impossible(spec, values)
    assert np.isnan(masked).tolist() == [[False, False], [True, False], [False, True]]
    assert not np.isnan(values).any()


def test_model_inputs_are_finite_float32_whatever_the_features_are() -> None:
    given_features = np.array([[1e300, -1e300, 1e39, 0.1, np.inf]])
    inputs = to_model_input(given_features)
    assert inputs.dtype == np.float32
    assert inputs[0, :3].tolist() == [FLOAT32_MAX, -FLOAT32_MAX, FLOAT32_MAX]
    assert inputs[0, 3] == np.float32(0.1)
    assert np.isfinite(inputs).all()
