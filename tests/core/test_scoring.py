from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.core.strategies import make_scoring, make_spec
from worker.core.channels import parse_spec
from worker.core.messages import encode
from worker.core.scoring import (
    LARGEST_DEVIATION,
    MAX_CAUSES,
    NOTABLE_DEVIATION,
    Scoring,
    feature_owners,
)

SCORES = st.floats(-1.0, 1.0, width=32)
SPEC = make_spec(3)
GRADES = ("low", "medium", "high")


def scoring(threshold: float = -0.5, quantiles: list[float] | None = None) -> Scoring:
    n = len(SPEC.feature_names)
    return Scoring(
        "x/1", threshold, np.zeros(n), np.ones(n), np.array(quantiles or [-0.7, -0.5, -0.45, -0.4])
    )


@given(st.lists(SCORES, min_size=2, max_size=20), SCORES, SCORES)
def test_confidence_is_a_share_and_never_falls_as_scores_get_worse(
    quantiles: list[float], a: float, b: float
) -> None:
    graded = scoring(quantiles=sorted(quantiles))
    assert 0.0 <= graded.confidence(max(a, b)) <= graded.confidence(min(a, b)) <= 1.0


@pytest.mark.parametrize(
    ("score", "confidence"),
    [(-1.0, 1.0), (-0.7, 1.0), (-0.6, 0.833333), (-0.5, 0.666667), (-0.4, 0.0), (1.0, 0.0)],
)
def test_confidence_is_the_share_of_training_scores_above(score: float, confidence: float) -> None:
    assert scoring().confidence(score) == confidence


@pytest.mark.parametrize(
    ("value", "shown"),
    [(float(np.float32(4.3)), 4.3), (0.1, 0.1), (2.0**27, 2.0**27), (1 / 3, 1 / 3)],
)
def test_a_value_kept_in_single_precision_is_shown_with_its_own_digits(
    value: float, shown: float
) -> None:
    features = np.zeros(len(SPEC.feature_names))
    features[0] = value
    (cause, *_) = Scoring(
        "x/1", -0.5, np.full_like(features, -1e3), np.ones_like(features), np.array([-0.5, -0.4])
    ).causes(SPEC, features)
    assert cause.value == shown


@given(st.floats(-0.999, 1.0), SCORES, SCORES)
def test_severity_never_falls_as_scores_get_worse(threshold: float, a: float, b: float) -> None:
    graded = scoring(threshold)
    worse, better = (GRADES.index(graded.severity(score)) for score in sorted((a, b)))
    assert worse >= better


def test_severity_has_three_grades_from_just_below_the_threshold_to_the_worst_score() -> None:
    assert scoring().severity(math.nextafter(-0.5, -1)) == "low"
    assert scoring().severity(-1.0) == "high"
    grades = [scoring().severity(score) for score in np.linspace(-0.5, -1.0, 200).tolist()]
    assert list(dict.fromkeys(grades)) == list(GRADES)


FEATURES = st.lists(
    st.floats(-1e90, 1e90) | st.floats(-10.0, 10.0),
    min_size=len(SPEC.feature_names),
    max_size=len(SPEC.feature_names),
)


@given(FEATURES)
def test_causes_are_the_largest_deviations_of_different_channels_in_order(
    features: list[float],
) -> None:
    used = make_scoring(SPEC)
    causes = used.causes(SPEC, np.array(features))
    assert len(causes) <= MAX_CAUSES
    assert len({cause.channel for cause in causes}) == len(causes)
    deviations = np.abs((np.array(features) - used.expected) / used.spread)
    owners = feature_owners(SPEC)
    largest: dict[str, float] = {}
    for owner, deviation in zip(owners, deviations.tolist(), strict=True):
        largest[owner] = max(largest.get(owner, 0.0), deviation)
    notable = sorted((d for d in largest.values() if d >= NOTABLE_DEVIATION), reverse=True)
    shown = [min(deviation, LARGEST_DEVIATION) for deviation in notable[:MAX_CAUSES]]
    assert [abs(cause.deviation) for cause in causes] == pytest.approx(shown, abs=5e-4)
    for cause in causes:
        assert (cause.deviation > 0) == (cause.value > cause.expected)


def test_of_equal_deviations_the_first_feature_is_the_cause() -> None:
    features = np.full(len(SPEC.feature_names), 5.0)
    causes = scoring().causes(SPEC, features)
    assert [cause.channel for cause in causes] == ["c0", "c1", "c2"]


def test_one_channel_is_one_cause_however_many_of_its_features_deviate() -> None:
    spec = parse_spec('name = "x"\nchannel = [{ name = "a" }]')
    n = len(spec.feature_names)
    alone = Scoring("x/1", 0.0, np.zeros(n), np.ones(n), np.array([-1.0, 0.0]))
    (cause,) = alone.causes(spec, np.arange(3.0, 3.0 + n))
    assert cause.channel == "a"


@pytest.mark.parametrize("spread", [1e-9, 1e-300, 5e-324])
def test_a_feature_that_never_moved_in_training_gives_a_finite_deviation(spread: float) -> None:
    n = len(SPEC.feature_names)
    constant = Scoring("x/1", 0.0, np.zeros(n), np.full(n, spread), np.array([-1.0, 0.0]))
    with np.errstate(over="ignore"):
        causes = constant.causes(SPEC, np.full(n, -1e30))
    assert [cause.deviation for cause in causes] == [-LARGEST_DEVIATION] * MAX_CAUSES
    assert b"null" not in encode(causes[0])


def test_each_statistic_belongs_to_its_channel_and_each_derived_feature_to_itself() -> None:
    spec = parse_spec(
        'name = "x"\nchannel = [{ name = "a" }, { name = "a_b" }]\n'
        'derived = [{ name = "d", difference = ["a", "a_b"] }]'
    )
    owners = dict(zip(spec.feature_names, feature_owners(spec), strict=True))
    assert owners["a"] == owners["rolling_std_a"] == owners["residual_a"] == "a"
    assert owners["a_b"] == owners["rolling_std_a_b"] == owners["slow_mean_a_b"] == "a_b"
    assert owners["normalised_d"] == "d"


@given(SCORES)
def test_confidence_of_a_model_with_one_training_score_is_still_a_share(score: float) -> None:
    assume(score != 0.25)
    graded = scoring(quantiles=[0.25, 0.25])
    assert graded.confidence(score) == (1.0 if score < 0.25 else 0.0)
