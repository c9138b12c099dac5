from __future__ import annotations

import pytest

from worker.judging.intervals import rate, share


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17, 857, table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_a_share_has_the_interval_of_the_textbook(
    count: int, total: int, low: float, high: float
) -> None:
    found = share(count, total)
    assert found["value"] == count / total
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("count", "low", "high"),
    # Exact limits of a Poisson mean, as tabulated since Garwood 1936.
    [(0, 0.0, 3.689), (1, 0.0253, 5.572), (3, 0.619, 8.767), (10, 4.795, 18.390)],
)
def test_a_rate_has_the_exact_interval_of_the_textbook(count: int, low: float, high: float) -> None:
    found = rate(count, 4.0)
    assert found["value"] == count / 4.0
    assert (found["low"], found["high"]) == pytest.approx((low / 4.0, high / 4.0), abs=2e-4)


def test_of_nothing_there_is_no_share_and_no_rate() -> None:
    nothing = {"value": None, "low": None, "high": None}
    assert share(0, 0) == nothing
    assert rate(0, 0.0) == nothing
