from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

import pytest

from worker.core.errors import ConfigError
from worker.judging import gate
from worker.judging.intervals import rate, share

SUMMARY: dict[str, Any] = {
    "model": "pump/1.0.0",
    "rows": 100,
    "episodes": 4,
    "health": {"stuck": 2},
    "threshold": None,
    "truth": {
        "recall": share(9, 10),
        "precision": share(0, 0),
        "false_alarms_per_machine_day": rate(3, 6.0),
        "delay_s": {"median": 90.0},
    },
}


def judged(*texts: str) -> dict[str, Any]:
    return gate.judge([gate.parse_condition(text) for text in texts], SUMMARY)


@pytest.mark.parametrize(
    ("text", "value", "failed"),
    [
        ("episodes > 3", 4, True),
        ("episodes>4", 4, False),
        ("rows == 100", 100, True),
        ("rows != 1e2", 100, False),
        ("recall < 0.9", 0.9, False),
        ("truth.recall.low < .9", share(9, 10)["low"], True),
        ("false_alarms_per_machine_day <= 0.5", 0.5, True),
        (" delay_s >= -1.5 ", 90.0, True),
        ("health.stuck > 1", 2, True),
        ("health.silent > 0", 0, False),
    ],
)
def test_a_condition_compares_a_number_of_the_summary(
    text: str, value: float, failed: bool
) -> None:
    found = judged(text)
    assert found == {
        "passed": not failed,
        "conditions": [{"text": text.strip(), "value": value, "failed": failed}],
    }


def test_one_condition_that_is_met_is_enough_to_fail() -> None:
    assert judged("episodes > 5", "rows < 5")["passed"]
    assert not judged("episodes > 5", "rows < 500", "rows < 5")["passed"]


@pytest.mark.parametrize(
    "text",
    ["", "rows", "rows > ", "rows > many", "rows = 3", "3 < rows", "rows > 1 > 0", "rows > nan"],
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--fail-if: .* is no condition; write a name"):
        gate.parse_condition(text)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("alarms > 1", "alarms is nothing that summary.json says"),
        ("model > 1", "model is nothing that summary.json says"),
        ("precision < 0.5", "truth.precision.value has no value here"),
        ("threshold < 0", "threshold has no value here"),
    ],
)
def test_a_name_without_a_number_is_refused_with_those_there_are(text: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what) as refused:
        judged(text)
    there = str(refused.value).partition("there are ")[2].rstrip(".").split(", ")
    assert {"recall", "truth.recall.value", "truth.recall.low", "rows", "episodes"} <= set(there)
    assert not {"precision", "threshold", "model", "f1"} & set(there)


def test_what_was_not_asked_for_is_refused_before_anything_is_done() -> None:
    conditions = [gate.parse_condition("rows < 1"), gate.parse_condition("recall < 0.9")]
    with pytest.raises(ConfigError, match=r"truth.recall.value, which is only there with --truth"):
        gate.require_options(conditions, ["against"])
    gate.require_options(conditions, ["truth"])


def test_junit_has_a_case_for_each_condition_and_a_failure_for_each_that_is_met() -> None:
    root = ET.fromstring(gate.junit(judged("episodes > 3", "rows < 5")))
    assert (root.get("tests"), root.get("failures")) == ("2", "1")
    (suite,) = root
    names = [case.get("name") for case in suite]
    assert names == ["not episodes > 3", "not rows < 5"]
    failures = [failure.get("message") for failure in suite.iter("failure")]
    assert failures == ["episodes > 3: it is 4"]
