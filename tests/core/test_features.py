from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.core.reference import Late, Reference
from tests.core.strategies import START_US, events, make_spec, readings, specs
from worker.core.channels import ChannelSpec, spec_from_dict
from worker.core.features import FLOAT32_MAX, assemble, derive, mask_impossible
from worker.core.state import PartitionState
from worker.core.vocabulary import CHANNEL_KINDS, FEATURE_KINDS, STREAM_KINDS
from worker.core.windows import EMPTY

ROLLING = ("raw", *CHANNEL_KINDS[1:], "derived")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_features_equal_the_reference_for_any_channels_window_and_declaration(
    data: st.DataObject,
) -> None:
    spec = data.draw(specs())
    arrived = data.draw(events(spec, max_size=25))
    n, signals = len(arrived), len(spec.signals)
    expected = np.arange(float(len(spec.features)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    streams = rng.normal(0, 6, (n, 5, signals)).astype(np.float32)
    values = np.array([e.readings for e in arrived]).reshape(-1, len(spec.continuous))
    values = mask_impossible(spec, values)
    state = PartitionState(spec)
    aggregates, watermarks_us = state.add(
        state.indices([event.machine.encode() for event in arrived]),
        np.array([event.time_us for event in arrived], np.int64),
        values,
    )
    features = assemble(spec, values, aggregates, streams, expected)
    assert features.shape == (n, len(spec.features))
    assert features.dtype == np.float32
    reference = Reference(spec)
    for i, event in enumerate(arrived):
        used = reference.possible(event.readings)
        window = reference.window(event.machine, event.time_us, used)
        assert (watermarks_us[i] == EMPTY) == (not isinstance(window, Late))
        if isinstance(window, Late):
            continue
        by_kind = {kind: streams[i, s].tolist() for s, kind in enumerate(STREAM_KINDS)}
        wanted = reference.features(used, window, by_kind, expected.tolist())
        scale = max((seen.tolerance for seen in window), default=0.0) * 1000 + 1e-12
        for name, value, right in zip(
            spec.feature_names, features[i].tolist(), wanted, strict=True
        ):
            assert value == pytest.approx(right, rel=1e-6, abs=scale), name


@given(st.data())
def test_derived_values_are_products_and_differences_of_their_channels(data: st.DataObject) -> None:
    spec = make_spec(data.draw(st.integers(1, 4)))
    row = data.draw(st.lists(readings(), min_size=len(spec.continuous), max_size=4))
    values = np.array([row[: len(spec.continuous)]])
    first, last = values[0, 0], values[0, -1]
    wanted = [[0.5 * (first * last), last - first]]
    np.testing.assert_array_equal(derive(spec, values), wanted)


def features_in(
    spec: ChannelSpec, values: NDArray[np.float64], expected: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
    """Features of one machine's readings, a microsecond apart, in which no stream deviates."""
    state = PartitionState(spec)
    machines = np.repeat(state.indices([b"m"]), len(values))
    aggregates, _ = state.add(machines, START_US + np.arange(len(values)), values)
    streams = np.zeros((len(values), len(STREAM_KINDS), len(spec.signals)), np.float32)
    if expected is None:
        expected = np.full(len(spec.feature_names), np.nan)
    return assemble(spec, values, aggregates, streams, expected)


def test_a_missing_reading_counts_as_its_windows_mean() -> None:
    spec = make_spec(1, features=ROLLING)
    features = features_in(spec, np.array([[2.0], [4.0], [math.nan]]))
    last = dict(zip(spec.feature_names, features[2].tolist(), strict=True))
    assert last["c0"] == last["rolling_mean_c0"] == 3.0
    assert last["rolling_deviation_c0"] == 0.0
    assert last["product"] == 4.5


def test_a_channel_without_any_reading_takes_what_is_expected_of_each_feature() -> None:
    spec = make_spec(2, features=ROLLING)
    expected = np.arange(100.0, 100.0 + len(spec.feature_names))
    features = features_in(spec, np.array([[math.nan, 7.0]]), expected)
    by_name = dict(zip(spec.feature_names, features[0].tolist(), strict=True))
    usual = dict(zip(spec.feature_names, expected.tolist(), strict=True))
    for name in ("c0", *(f"{kind}_c0" for kind in CHANNEL_KINDS[1:]), "product", "gap"):
        assert by_name[name] == usual[name]
    assert by_name["c1"] == by_name["rolling_mean_c1"] == 7.0


def test_without_expected_values_training_sees_a_channel_never_read_as_nan() -> None:
    spec = make_spec(2)
    features = features_in(spec, np.array([[math.nan, 7.0]]))
    assert math.isnan(features[0, 0])


def test_a_reading_on_the_edge_of_its_range_is_kept_and_one_outside_is_masked() -> None:
    spec = make_spec(2)
    values = np.array([[1e4, 1e5], [np.nextafter(1e4, np.inf), -1e30], [-1e4, 2e30]])
    masked = mask_impossible(spec, values)
    assert np.isnan(masked).tolist() == [[False, False], [True, False], [False, True]]
    assert not np.isnan(values).any()


def test_model_inputs_are_finite_whatever_the_readings_are() -> None:
    spec = spec_from_dict(
        {
            "name": "x",
            "channel": [{"name": "a"}, {"name": "b"}],
            "derived": [{"name": "p", "product": ["a", "b"], "factor": 1e30}],
            "feature": [{"kind": kind} for kind in FEATURE_KINDS],
        }
    )
    values = np.array([[1e30, -1e30], [0.1, 0.2], [1e30, 1e30]])
    features = features_in(spec, values)
    assert np.isfinite(features).all()
    product = spec.feature_names.index("p")
    assert features[[0, 2], product].tolist() == [-FLOAT32_MAX, FLOAT32_MAX]
    assert features[1, 0] == np.float32(0.1)


def test_streams_are_cut_where_they_would_stretch_a_trees_range() -> None:
    spec = make_spec(1, features=["slow_normalised"])
    streams = np.full((1, 5, 3), 3.0, np.float32)
    streams[:, 4] = [[-50.0, 7.5, 1e6]]
    features = assemble(spec, np.zeros((1, 1)), np.zeros((1, 1, 5)), streams, np.zeros(3))
    assert features.tolist() == [[-8.0, 7.5, 8.0]]
