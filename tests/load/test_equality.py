from __future__ import annotations

from pathlib import Path

import pytest

from load.equality import Compared, Result, run


@pytest.mark.kafka
@pytest.mark.timeout(300)  # what it waits for has deadlines of its own
def test_a_backtest_says_what_a_worker_published_that_was_killed_on_its_way(
    tmp_path: Path,
) -> None:
    result = run(60_000, 1, tmp_path, lambda step: None)
    assert result.passed, result.streams
    assert sum(one.published for one in result.streams) > 200


def test_a_record_that_differs_fails_and_so_does_an_empty_stream() -> None:
    same = Compared("anomalies", 3, 0)
    assert Result(10, 1, [same], 1.0).passed
    assert not Result(10, 1, [same, Compared("late-events", 3, 1)], 1.0).passed
    assert not Result(10, 1, [same, Compared("late-events", 0, 0)], 1.0).passed
