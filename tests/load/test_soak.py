from __future__ import annotations

from pathlib import Path

import pytest

from load import soak
from load.soak import Result, Sample, figures, run


@pytest.mark.kafka
def test_a_short_soak_samples_memory_by_events_processed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "MAX_LEAD", 20_000)
    told: list[Sample] = []
    result = run(200_000, tmp_path, told.append)

    assert result.status == 0
    assert result.samples[1:] == told
    assert result.samples[-1].events == 200_000
    assert len({sample.events for sample in result.samples}) >= 5  # the lead was bounded
    assert all(50 < sample.memory_mib < 2_000 for sample in result.samples)
    assert result.disk_mib > 1
    found = figures(result)
    assert found["events"] == 200_000
    assert found["settled_events"] == 50_000
    assert len(found["rows"]) == 20


def made(memory_mib: list[float], status: int = 0) -> Result:
    """Samples at even steps."""
    step = 1_000 // (len(memory_mib) - 1)
    samples = [Sample(float(n), n * step, memory) for n, memory in enumerate(memory_mib)]
    return Result(1_000, samples, 1.0, status)


def test_growth_before_memory_has_settled_does_not_count() -> None:
    assert made([100.0, 150.0, 200.0, 200.0, 200.0]).growth == 0.0


@pytest.mark.parametrize(
    ("memory_mib", "status", "passed"),
    [
        ([100.0, 200.0, 200.0, 200.0, 209.0], 0, True),
        ([100.0, 200.0, 200.0, 200.0, 211.0], 0, False),
        ([100.0, 200.0, 200.0, 200.0, 189.0], 0, False),
        ([100.0, 200.0, 200.0, 200.0, 200.0], 1, False),
    ],
)
def test_the_bound_is_five_percent_either_way(
    memory_mib: list[float], status: int, passed: bool
) -> None:
    assert made(memory_mib, status).passed is passed
