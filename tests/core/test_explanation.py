from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.core.channels import ChannelSpec, spec_from_dict
from worker.core.explanation import (
    LARGEST_DEVIATION,
    MAX_CAUSES,
    UNUSUAL_COMBINATION,
    Explanation,
    SeenCode,
    channel_contributions,
    describe,
    explain,
    with_forest,
)
from worker.core.messages import Cause, encode


def make(
    channels: dict[str, str], derived: Sequence[dict[str, Any]] = (), codes: int = 0
) -> ChannelSpec:
    return spec_from_dict(
        {
            "name": "x",
            "channel": [
                *({"name": name, "unit": unit} for name, unit in channels.items()),
                *({"name": f"alarm{i}", "kind": "event"} for i in range(codes)),
            ],
            "derived": list(derived),
        }
    )


MILL = make(
    {"vibration": "mm/s", "speed": "rpm", "torque": "N*m"},
    [
        {"name": "power", "unit": "kW", "product": ["torque", "speed"]},
        {"name": "square", "product": ["vibration", "vibration"]},
    ],
    codes=1,
)
"""Signals: vibration, speed, torque, power, square, alarm0."""

SHARES = st.floats(0.0, 1e6) | st.just(0.0)


def explained(
    contributions: list[float],
    values: list[float] | None = None,
    expected: list[float] | None = None,
    deviation: list[float] | None = None,
    **more: Any,
) -> Explanation:
    return explain(
        MILL,
        np.array(contributions, np.float32),
        np.array(values or [14.2, 1503.0, 65.2, 10.3, 201.6, 0.0]),
        np.array(expected or [4.9, 1498.0, 42.1, 6.6, 24.0, 0.0]),
        np.array(deviation or [6.1, 0.2, 3.0, 5.0, 4.0, 0.0]),
        **more,
    )


@given(st.lists(SHARES, min_size=6, max_size=6))
def test_attributing_to_channels_keeps_the_sum_and_takes_from_none(row: list[float]) -> None:
    shares = channel_contributions(MILL, np.array(row))
    assert shares.shape == (4,)
    assert shares.sum() == pytest.approx(sum(row))
    assert (shares >= np.array([*row[:3], row[5]]) * (1 - 1e-9)).all()


def test_what_a_derived_signal_contributed_goes_to_its_channels_in_proportion_to_their_own() -> (
    None
):
    rows = np.array([[0, 1, 3, 8, 0, 0], [0, 0, 0, 8, 0, 2], [1, 0, 0, 0, 5, 0]], np.float32)
    wanted = [[0, 3, 9, 0], [0, 4, 4, 2], [6, 0, 0, 0]]
    assert channel_contributions(MILL, rows).tolist() == wanted


@given(st.lists(SHARES, min_size=4, max_size=4), st.permutations(range(3)))
def test_permuting_channels_permutes_what_they_contributed(
    row: list[float], order: list[int]
) -> None:
    units = {"a": "A", "b": "B", "c": "C"}
    derived = [{"name": "gap", "difference": ["a", "c"]}]
    names = [list(units)[i] for i in order]
    permuted = make({name: units[name] for name in names}, derived)
    one = channel_contributions(make(units, derived), np.array(row))
    other = channel_contributions(permuted, np.array([*(row[i] for i in order), row[3]]))
    assert other.tolist() == one[order].tolist()


def test_channels_are_named_by_contribution_with_numbers_in_their_units() -> None:
    found = explained([9.0, 0.3, 4.0, 0.0, 0.0, 0.0])
    assert found.reason == (
        "vibration 14.2 mm/s is 9.3 above the expected 4.9 (6.1 sd); "
        "torque 65 N*m is 23 above the expected 42 (3.0 sd)"
    )
    assert found.causes == [
        Cause("vibration", "mm/s", 14.2, 4.9, 6.1, 0.677),
        Cause("torque", "N*m", 65.2, 42.1, 3.0, 0.301),
    ]


def test_at_most_three_channels_are_named_and_none_that_hardly_contributed() -> None:
    many = make({f"c{i}": "" for i in range(9)})
    ones = np.ones(9)
    assert [c.channel for c in explain(many, ones, ones, ones, ones).causes] == ["c0", "c1", "c2"]
    few = explained([100.0, 0.0, 9.0, 0.0, 0.0, 0.0])
    assert [c.channel for c in few.causes] == ["vibration"]


def test_a_derived_signal_that_contributed_most_is_told_with_its_channels() -> None:
    found = explained([0.1, 2.0, 1.0, 9.0, 0.0, 0.0])
    assert found.reason == (
        "power 10.3 kW is 3.7 above the expected 6.6 (5.0 sd), from torque 65.2 N*m and "
        "speed 1503 rpm; torque 65 N*m is 23 above the expected 42 (3.0 sd)"
    )
    assert [c.channel for c in found.causes] == ["speed", "torque"]
    alone = explained([0.0, 0.0, 0.0, 0.0, 4.0, 0.0])
    assert alone.reason.startswith("square 202 is 178 above the expected 24 (4.0 sd), from vibrat")
    assert [c.channel for c in alone.causes] == ["vibration"]


def test_a_channel_that_is_hardly_off_now_is_said_to_have_been_unusual() -> None:
    found = explained([0.0, 7.0, 0.0, 0.0, 0.0, 0.0])
    assert found.reason == "speed has been unusual lately (now 1503 rpm, expected 1498)"


def test_a_channel_without_a_reading_is_null_and_said_so() -> None:
    found = explained(
        [7.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [math.nan, 1.0, 1.0, 1.0, math.nan, 0.0],
        deviation=[math.nan] * 6,
    )
    assert found.reason == "vibration has been unusual lately"
    assert found.causes == [Cause("vibration", "mm/s", None, 4.9, 0.0, 1.0)]


@pytest.mark.parametrize(
    ("code", "surprisal", "told"),
    [
        (SeenCode("E42", 0), 4.0, "alarm0 E42 was never seen in training"),
        (SeenCode("E42", 8), 3.0, "alarm0 E42 is as rare as one in 1,000 readings of the training"),
        (None, 3.0, "alarm0 had a code as rare as one in 1,000 readings of the training"),
        (None, 0.0, "alarm0 has had rare codes lately"),
        (None, math.nan, "alarm0 has had rare codes lately"),
        (None, 6.0, "alarm0 had a code as rare as one in 1,000,000 readings of the training"),
    ],
)  # fmt: skip
def test_a_code_is_told_by_how_rare_it_was(
    code: SeenCode | None, surprisal: float, told: str
) -> None:
    values = [14.2, 1503.0, 65.2, 10.3, 201.6, surprisal]
    found = explained([0.0, 0.0, 0.0, 0.0, 0.0, 5.0], values, codes=[code])
    assert found.reason == told
    (cause,) = found.causes
    assert (cause.channel, cause.unit, cause.expected) == ("alarm0", "", None)
    assert cause.value == (code and code.code)


def test_codes_need_not_be_known() -> None:
    assert explained([0.0] * 5 + [5.0]).reason == "alarm0 has had rare codes lately"


def test_a_machine_that_warms_up_is_said_to() -> None:
    told = explained([9.0, 0.0, 0.0, 0.0, 0.0, 0.0], experience=0.999).reason
    assert told.endswith(
        "(6.1 sd); less certain, because the machine is still warming up (99 % done)"
    )
    assert "warming" not in explained([9.0] * 6).reason


def test_without_contributions_the_reason_is_a_combination() -> None:
    assert explained([0.0] * 6) == Explanation([], UNUSUAL_COMBINATION)


def test_the_forests_part_goes_to_the_signals_whose_inputs_shorten_paths() -> None:
    spec = make({"a": "", "b": ""})
    shapley = np.zeros(len(spec.features))
    own = [i for i, owner in enumerate(spec.feature_owners) if owner == 0]
    shapley[own[0]], shapley[own[1]] = -0.5, 0.1
    shapley[[i for i in range(len(shapley)) if i not in own]] = 0.2
    assert with_forest(spec, np.array([3.0, 3.0]), shapley, 4.0).tolist() == [5.0, 3.0]


@given(
    st.lists(st.floats(0, 100), min_size=2, max_size=2),
    st.lists(st.floats(-3, 3), min_size=12, max_size=12),
    st.floats(0, 100),
)
def test_the_forest_never_takes_from_a_signal_and_gives_no_more_than_its_weight(
    row: list[float], shapley: list[float], weight: float
) -> None:
    contributions = np.array(row)
    found = with_forest(make({"a": "", "b": ""}), contributions, np.array(shapley), weight)
    assert (found >= contributions * (1 - 1e-9)).all()
    assert (found <= (contributions + weight) * (1 + 1e-9)).all()


@pytest.mark.parametrize(
    ("value", "expected", "deviation", "told"),
    [
        (7.5, 2.5, 8.25, "s 7.5 u is 5.0 above the expected 2.5 (8.2 sd)"),
        (1499.96, 1300.0, 2.0, "s 1500 u is 200 above the expected 1300 (2.0 sd)"),
        (-12345.6, -0.5, -12.0, "s -12346 u is 12346 below the expected 0 (12.0 sd)"),
        (0.00012, 0.0, 2.0, "s 0.00012 u is 0.00012 above the expected 0.00000 (2.0 sd)"),
        (1e6 + 0.25, 1e6, 5.0, "s 1000000.25 u is 0.25 above the expected 1000000.00 (5.0 sd)"),
        (1e-12, 2e-12, -5.0, "s 1e-12 u is 1e-12 below the expected 2e-12 (5.0 sd)"),
        (1e30, -1e30, 250.0, "s 1e+30 u is 2e+30 above the expected -1e+30 (250 sd)"),
        (5.0, 5.0, 9.0, "s has been unusual lately (now 5 u, expected 5)"),
        (5.0, 4.9, 1.99, "s has been unusual lately (now 5.00 u, expected 4.90)"),
    ],
)  # fmt: skip
def test_numbers_are_as_fine_as_the_deviation_needs(
    value: float, expected: float, deviation: float, told: str
) -> None:
    assert describe(Cause("s", "u", value, expected, deviation, 1.0)) == told


ANY = st.floats() | st.floats(-1e3, 1e3)


@settings(max_examples=200)
@example([1.0] * 6, [1e300] * 6, [-1e300] * 6, [math.inf] * 6, 0.0)
@given(
    st.lists(SHARES, min_size=6, max_size=6),
    st.lists(ANY, min_size=6, max_size=6),
    st.lists(ANY, min_size=6, max_size=6),
    st.lists(ANY, min_size=6, max_size=6),
    st.floats(0.0, 1.0),
)
def test_whatever_the_numbers_are_causes_are_json_and_the_sentence_is_short(
    contributions: list[float],
    values: list[float],
    expected: list[float],
    deviation: list[float],
    experience: float,
) -> None:
    found = explained(contributions, values, expected, deviation, experience=experience)
    assert 0 < len(found.reason) < 600
    assert "nan" not in found.reason
    assert "inf" not in found.reason
    assert len(found.causes) <= MAX_CAUSES
    shares = [cause.share for cause in found.causes]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 1.0 + 0.001 * MAX_CAUSES
    for cause in found.causes:
        assert abs(cause.deviation) <= LARGEST_DEVIATION
        assert msgspec.json.decode(encode(cause), type=Cause) == cause


@settings(max_examples=200)
@given(st.floats(-1e90, 1e90), st.floats(-1e90, 1e90), st.floats(2.0, 1e6))
def test_a_sentence_shows_different_numbers_for_different_values(
    value: float, expected: float, deviation: float
) -> None:
    told = describe(Cause("s", "", value, expected, deviation, 1.0)).split()
    if value != expected:
        assert told[1] != told[told.index("expected") + 1]
    assert len(told) <= 11
