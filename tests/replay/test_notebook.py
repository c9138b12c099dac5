from __future__ import annotations

import re
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.replay.conftest import Pumps
from worker.core.errors import ConfigError
from worker.replay import explain, run_backtest

DOCS = Path(__file__).parents[2] / "docs" / "backtesting.md"


@pytest.fixture
def history(pumps: Pumps, tmp_path: Path) -> Path:
    """Four days of the pumps, the flow of one of which jumps on the third."""
    then = pl.col("timestamp") > pumps.frame["timestamp"].quantile(0.6)
    faulty = (pl.col("machine_id") == pumps.frame["machine_id"][0]) & then
    flow = pl.when(faulty).then(pl.col("flow") + 60.0).otherwise(pl.col("flow"))
    frame = pumps.frame.with_columns(flow)
    frame.write_parquet(tmp_path / "history.parquet")
    known = frame.filter(faulty)["timestamp"]
    row = f"{pumps.frame['machine_id'][0]},{known.min()},{known.max()}"
    (tmp_path / "faults.csv").write_text(f"machine_id,start,end\n{row}\n")
    return tmp_path / "history.parquet"


def test_the_example_of_the_page_works(
    pumps: Pumps, history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    shutil.copytree(pumps.path, history.parent / "models/pump/1.0.0")
    monkeypatch.chdir(history.parent)
    said: dict[str, Any] = {}
    exec(example, said)
    found = said["found"]
    assert found.summary["truth"]["found"] == 1
    assert found.episodes.num_rows == found.summary["episodes"] >= 1
    assert len(found.scores.to_pandas()) == found.summary["rows"]


def test_tables_are_there_as_long_as_the_results_are(pumps: Pumps, history: Path) -> None:
    found = run_backtest(history, pumps.path, against=pumps.path)
    assert found.truth is None
    assert found.drift_windows is not None
    assert found.health.num_rows == sum(found.summary["health"].values())
    other = found.against
    assert other is not None
    assert other.episodes == found.episodes
    folder = found.folder
    del found
    assert other.scores.num_rows
    del other
    assert not folder.exists()


def test_files_are_kept_where_asked(pumps: Pumps, history: Path, tmp_path: Path) -> None:
    found = run_backtest(history, pumps.path, out=tmp_path / "out")
    assert found.folder == tmp_path / "out"
    del found
    assert (tmp_path / "out" / "summary.json").exists()


def test_what_cannot_be_used_is_said_in_a_sentence(
    pumps: Pumps, history: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"detection\.budgit"):
        run_backtest(history, pumps.path, settings={"detection.budgit": 1})
    with pytest.raises(ConfigError, match="has no time zone"):
        explain(tmp_path, "pump-1", datetime(2026, 1, 1), pumps.path)  # noqa: DTZ001
    with pytest.raises(ConfigError, match="is no recording"):
        explain(tmp_path, "pump-1", datetime.fromisoformat("2026-01-01T00:00Z"), pumps.path)
