from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from load.detection import nab
from load.detection.public import (
    VARIABLE,
    ai4i_cases,
    data_folder,
    nab_cases,
    required_folder,
    skab_cases,
)
from worker.core.errors import ConfigError

needs_data = pytest.mark.skipif(data_folder() is None, reason=f"{VARIABLE} is not set")


def test_a_folder_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(ConfigError, match="nab is not a folder"):
        required_folder("nab")
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(ConfigError, match=VARIABLE):
        required_folder("nab")


@needs_data
def test_ai4i_is_one_machine_split_in_the_middle() -> None:
    half, whole = ai4i_cases()
    assert (len(half.train.times_us), len(half.test.times_us)) == (5000, 5000)
    assert whole.labels.sum() == 339
    assert half.train.times_us.max() < half.test.times_us.min()


@needs_data
def test_skab_learns_400_rows_of_each_experiment() -> None:
    cases = list(skab_cases())
    assert len(cases) == 16
    assert all(len(case.train.times_us) == 400 and case.labels.any() for case in cases)


@needs_data
def test_nab_has_58_series_and_116_windows_after_probation() -> None:
    cases = list(nab_cases())
    truths = [case.extra for case in cases]
    assert (len(cases), sum(len(t.windows) for t in truths)) == (58, 116)
    first = [[first for first, _ in t.windows] for t in truths]
    assert nab.normalised_score(truths, first) == pytest.approx(100.0)
    assert all(len(c.test.times_us) == c.extra.rows - c.extra.probation for c in cases)
    assert np.mean([c.role == "learn" for c in cases]) == 0.5
