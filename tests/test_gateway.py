from __future__ import annotations

import time

import pytest

from worker.gateway import Pace, now_us, start_us

SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US


def test_simulated_time_begins_so_that_it_never_overtakes_the_clock() -> None:
    clock_us = 100 * HOUR_US
    assert start_us(clock_us, 1.0, None, HOUR_US) == clock_us
    assert start_us(clock_us, 60.0, None, HOUR_US) == clock_us - HOUR_US
    begin_us = start_us(clock_us, 60.0, 10 * SECOND_US, HOUR_US)
    assert begin_us + 60 * 10 * SECOND_US == clock_us + 10 * SECOND_US


def test_steps_follow_the_speed_and_end_at_the_clock() -> None:
    begin_us = now_us() - 10 * SECOND_US
    pace = Pace(begin_us, speed=100.0, longest_step_us=5 * SECOND_US)
    time.sleep(0.2)
    end_us, caught_up = pace.step(begin_us)
    assert (end_us, caught_up) == (begin_us + 5 * SECOND_US, False)
    end_us, caught_up = pace.step(end_us + 3 * SECOND_US)
    assert caught_up
    assert end_us == pytest.approx(now_us(), abs=SECOND_US)
    assert end_us <= now_us()


def test_a_step_never_goes_back() -> None:
    pace = Pace(now_us() - HOUR_US, speed=1.0)
    ahead_us = now_us()
    assert pace.step(ahead_us) == (ahead_us, True)
