"""False alarms keep to what was asked for, and real drift is seen; bounds are generous."""

from __future__ import annotations

import numpy as np
import pytest

from tests.core.drift.series import autoregressive, gathered, learned
from worker.core.drift.judge import judge

ROWS, WINDOW, COLUMNS = 3000, 300, 6


def alarms(phi: float, shift: float, repetitions: int) -> int:
    count = 0
    for seed in range(repetitions):
        rng = np.random.default_rng([seed, int(phi * 100)])
        series = autoregressive(rng, ROWS + 1000 + WINDOW, COLUMNS, phi)
        reference = learned(series[:ROWS])
        window = series[-WINDOW:].copy()
        window[:, 0] += shift
        (partial,) = gathered(reference, window, WINDOW * 1_000_000)
        report = judge(reference, reference.groups["fleet"], partial, 0.01, 30).report
        count += report.verdict == "drift"
    return count


@pytest.mark.parametrize("phi", [0.0, 0.9, 0.99])
def test_windows_without_drift_raise_few_alarms(phi: float) -> None:
    # 6 of 40 has a chance below 1e-4 when there is one in fifty.
    assert alarms(phi, 0.0, 40) <= 5


def test_a_shift_of_a_standard_deviation_is_seen() -> None:
    assert alarms(0.5, 1.0, 10) == 10
