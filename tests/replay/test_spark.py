"""Recordings applied on Spark give what they give here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tests.replay.conftest import Pumps
from tests.support.recorded import keep
from worker.cli.main import run
from worker.core.errors import ConfigError, RecordingError
from worker.core.outgoing import partition_of
from worker.replay.engine import Spark
from worker.replay.partition import Source
from worker.replay.recorded import Result, backtest_recording
from worker.replay.spark import spark_session
from worker.settings import Settings

TOPIC, PARTITIONS = "events", 3
LOCAL = Spark("local[2]")
SETTINGS = Settings.model_validate({"drift": {"windows_min": [360]}})
Sent = tuple[bytes, bytes, int]


@pytest.fixture(scope="module", autouse=True)
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One session for all tests: it takes seconds to start.

    The first ``python3`` of PATH is not this one, as where no environment is activated.
    """
    other = tmp_path_factory.mktemp("bin") / "python3"
    other.write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{other.parent}:{os.environ['PATH']}")
        patch.delenv("PYSPARK_PYTHON", raising=False)
        with spark_session(LOCAL.master):
            yield


def keep_days(root: Path, partition: int, sent: list[Sent]) -> None:
    """Write a partition's records, a file for each day."""
    days: dict[int, list[tuple[int, Sent]]] = {}
    for offset, one in enumerate(sent):
        days.setdefault(one[2] // 86_400_000, []).append((offset, one))
    for own in days.values():
        keep(root, TOPIC, partition, [one for _, one in own], own[0][0])


def sent_of(frame: pl.DataFrame) -> list[Sent]:
    """As gateways would have sent the rows."""
    text = pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").alias("timestamp")
    values = frame.select(pl.struct(pl.exclude("timestamp"), text).struct.json_encode()).to_series()
    stamps = frame["timestamp"].dt.epoch("ms")
    keys = frame["machine_id"]
    return [(k.encode(), v.encode(), t) for k, v, t in zip(keys, values, stamps, strict=True)]


@pytest.fixture(scope="module")
def recording(pumps: Pumps, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four days of the pumps: a fault, a stuck sensor, a silent one, garbage, late events."""
    root = tmp_path_factory.mktemp("recording")
    first, second, third, *_ = sorted(set(pumps.frame["machine_id"]))
    start = pumps.frame["timestamp"].min()
    assert start is not None
    then = pl.col("timestamp") - start  # type: ignore[operator]
    machine = pl.col("machine_id")
    faulty = (machine == first) & (then > timedelta(days=2, hours=20))
    stuck = (machine == second) & (then > timedelta(hours=20)) & (then < timedelta(hours=40))
    silent = (machine == third) & (then > timedelta(hours=20)) & (then < timedelta(hours=60))
    frame = pumps.frame.filter(~silent).with_columns(
        pl.when(faulty).then(pl.col("flow") + 60.0).otherwise(pl.col("flow")).alias("flow"),
        pl.when(stuck).then(pl.lit(4.0)).otherwise(pl.col("pressure")).alias("pressure"),
    )
    by_partition: list[list[Sent]] = [[] for _ in range(PARTITIONS)]
    for one in sent_of(frame.sort("timestamp", maintain_order=True)):
        by_partition[partition_of(one[0], PARTITIONS)].append(one)
    for partition, sent in enumerate(by_partition):
        if sent:
            sent.insert(40, (b"x", b"\xffgarbage", sent[40][2]))
            sent.append((*sent[0][:2], sent[-1][2]))
            keep_days(root, partition, sent)
    assert len({path.parent for path in root.glob("*/*/*.parquet")}) >= 4
    return root


def applied(pumps: Pumps, root: Path, out: Path, engine: int | Spark) -> Result:
    out.mkdir()
    source = Source(root, TOPIC, str(pumps.path), SETTINGS)
    return backtest_recording(source, out / "scores.parquet", engine)


def assert_same(pumps: Pumps, root: Path, folder: Path) -> Result:
    here = applied(pumps, root, folder / "here", 1)
    there = applied(pumps, root, folder / "there", LOCAL)
    scores = [pl.read_parquet(folder / name / "scores.parquet") for name in ("here", "there")]
    assert_frame_equal(*scores, check_exact=True)
    assert_frame_equal(here.episodes, there.episodes, check_exact=True)
    assert_frame_equal(here.health, there.health, check_exact=True)
    assert here.drift is not None
    assert there.drift is not None
    assert_frame_equal(here.drift.windows, there.drift.windows, check_exact=True)
    assert here.drift.records == there.drift.records
    speed = {"seconds", "rows_per_second"}
    assert {k: v for k, v in here.summary.items() if k not in speed} == {
        k: v for k, v in there.summary.items() if k not in speed
    }
    return here


def test_spark_says_what_is_said_here(pumps: Pumps, recording: Path, tmp_path: Path) -> None:
    found = assert_same(pumps, recording, tmp_path)
    assert len(found.episodes)
    assert "silent" in found.health["kind"].to_list()
    assert found.summary["late"] >= 1
    assert found.summary["dead_letters"]


def test_a_thousand_machines_in_many_small_partitions(pumps: Pumps, tmp_path: Path) -> None:
    root = tmp_path / "recording"
    (one,) = (
        pumps.frame.filter(pl.col("machine_id") == pumps.frame["machine_id"][0])
        .head(8)
        .partition_by("machine_id")
    )
    for partition in range(50):
        fleet = [one.with_columns(machine_id=pl.lit(f"pump-{partition}-{m}")) for m in range(20)]
        keep_days(root, partition, sent_of(pl.concat(fleet).sort("timestamp", maintain_order=True)))
    found = assert_same(pumps, root, tmp_path)
    assert found.summary["machines"] == 1000
    assert found.summary["rows"] == 8000


def test_days_that_are_not_in_the_order_of_offsets_are_refused(
    pumps: Pumps, recording: Path, tmp_path: Path
) -> None:
    sent = sent_of(pumps.frame.head(20))
    day_ms = 86_400_000
    later = [(key, value, time + day_ms) for key, value, time in sent[:10]]
    keep_days(tmp_path / "recording", 0, [*later, *sent[10:]])
    with pytest.raises(RecordingError, match="not in the order of offsets"):
        applied(pumps, tmp_path / "recording", tmp_path / "out", LOCAL)


def test_data_that_spark_does_not_find_give_a_sentence(pumps: Pumps, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Spark finds no recording in .*topic=events"):
        applied(pumps, tmp_path / "nothing", tmp_path / "out", LOCAL)


def test_the_command_runs_it_on_spark(
    pumps: Pumps, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"backtest --data {recording} --model {pumps.path} --out {tmp_path / 'out'}"
    assert run(f"{command} --engine spark --master local[2]".split()) == 0
    assert (tmp_path / "out" / "report.html").exists()
    assert "machine-days" in capsys.readouterr().out


def test_an_address_goes_to_spark_as_it_is(
    pumps: Pumps, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"backtest --data file://{recording} --model {pumps.path} --out {tmp_path / 'out'}"
    assert run(f"{command} --engine spark --master local[2]".split()) == 78
    assert "error: --topic: an address is not looked into" in capsys.readouterr().err
    assert run(f"{command} --engine spark --master local[2] --topic {TOPIC}".split()) == 0
    assert (tmp_path / "out" / "scores.parquet").exists()
    assert not (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--engine spark --messages", "--messages: Spark keeps no messages"),
        ("--engine spark --jobs 2", "--jobs: Spark has tasks of its own"),
        ("--engine spark --warm-up x.csv", "--warm-up: a recording begins with fresh state"),
        ("--master local[2]", "--master: is for --engine spark"),
        ("--engine flink", "'flink' is not one of"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    pumps: Pumps,
    recording: Path,
    tmp_path: Path,
    options: str,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = f"backtest --data {recording} --model {pumps.path} --out {tmp_path} {options}"
    assert run(command.split()) != 0
    assert sentence in " ".join(capsys.readouterr().err.split())
