"""What the log says about a worker that is behind."""

from __future__ import annotations

import pytest

from worker.transport.backlog import BEHIND_EVENTS, CAUGHT_UP_EVENTS, Backlog


def test_it_says_once_that_it_is_behind_and_once_that_it_has_caught_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backlog = Backlog()
    with caplog.at_level("INFO"):
        for behind in [0, 500, 2_000_000, 2_500_000, 900_000, 20_000, CAUGHT_UP_EVENTS - 1, 0, 0]:
            backlog.look(behind)
    assert [record.getMessage() for record in caplog.records] == [
        "behind by 2000000 events: reading on only as fast as they are scored",
        "caught up; it was behind by up to 2500000 events",
    ]


def test_going_up_and_down_between_the_limits_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    backlog = Backlog()
    with caplog.at_level("INFO"):
        for behind in [CAUGHT_UP_EVENTS, BEHIND_EVENTS - 1] * 10:
            backlog.look(behind)
        assert not caplog.records
        for behind in [BEHIND_EVENTS, CAUGHT_UP_EVENTS] * 10:
            backlog.look(behind)
    assert len(caplog.records) == 1
