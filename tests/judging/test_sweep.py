from __future__ import annotations

import pytest

from worker.core.errors import ConfigError
from worker.judging.sweep import parse_sweep
from worker.settings import setting_keys


@pytest.mark.parametrize(
    ("text", "setting", "values"),
    [
        ("threshold=-0.2:0.0:0.05", "detection.threshold", (-0.2, -0.15, -0.1, -0.05, 0)),
        ("budget = 0.01, 0.1,1", "detection.budget", (0.01, 0.1, 1)),
        ("detection.budget=1:2:0.4", "detection.budget", (1, 1.4, 1.8)),
        ("episodes.merge_gap_s=0:7200:3600", "episodes.merge_gap_s", (0, 3600, 7200)),
    ],
)
def test_a_sweep_is_a_row_or_a_list_of_values(
    text: str, setting: str, values: tuple[float, ...]
) -> None:
    found = parse_sweep(text, setting_keys())
    assert (found.setting, found.values) == (setting, values)
    assert found.key == text.partition("=")[0].strip()


def test_a_budget_that_is_swept_takes_the_place_of_a_pinned_threshold() -> None:
    keys = setting_keys()
    assert parse_sweep("budget=1", keys).settings() == [
        {"detection.threshold": None, "detection.budget": 1}
    ]
    assert parse_sweep("threshold=0.5", keys).settings() == [{"detection.threshold": 0.5}]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("window=1:2:1", "'window' cannot be swept; write one of threshold, budget, detection"),
        ("kafka.brokers=1,2", "'kafka.brokers' cannot be swept"),
        ("budget", "has no row of numbers"),
        ("budget=a,b", "has no row of numbers"),
        ("budget=1:2", "has no row of numbers"),
        ("budget=2:1:0.1", "has no row of numbers"),
        ("budget=1:2:0", "has no row of numbers"),
        ("budget=1:inf:1", "has no row of numbers"),
        ("budget=0:1:0.0001", "write at most 200"),
    ],
)
def test_what_cannot_be_swept_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"--sweep: .*{sentence}"):
        parse_sweep(text, setting_keys())
