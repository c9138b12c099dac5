from __future__ import annotations

import hashlib
import json
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import pytest

from worker.core.channels import ChannelSpec, parse_spec
from worker.core.errors import ConfigError
from worker.judging.truth import EPISODES
from worker.models.bundle import load_bundle
from worker.replay.backtest import answers_to
from worker.simulator import FaultRates, OpenedEpisode, Simulator, match_faults
from worker.training.readings import (
    MachineReadings,
    machine_readings,
    recording_of,
    simulated_readings,
)
from worker.training.train import TrainingResult, next_version, train

ROOT = Path(__file__).parents[2]
DATE = "2026-01-31"
START = datetime(2026, 1, 1, tzinfo=UTC)
START_US = 1_780_000_000_000_000
DAY_US = 86_400_000_000
FILES = ("model.onnx", "baselines.npz", "model.toml")
TWO = parse_spec('name = "two"\n[[channel]]\nname = "a"\n[[channel]]\nname = "b"\n')


@pytest.fixture(scope="module")
def spec() -> ChannelSpec:
    return parse_spec((ROOT / "tests/data/pump.toml").read_text())


@pytest.fixture(scope="module")
def readings(spec: ChannelSpec) -> MachineReadings:
    return simulated_readings(spec, seed=1, machines=5)


@pytest.fixture(scope="module")
def result(
    spec: ChannelSpec, readings: MachineReadings, tmp_path_factory: pytest.TempPathFactory
) -> TrainingResult:
    out = tmp_path_factory.mktemp("models") / "pump"
    return train(spec, readings, out, training_date=DATE)


def history(
    rows: int = 300, machines: int = 2, minutes: int = 1, spec: ChannelSpec = TWO
) -> pl.DataFrame:
    """Machines at work: independent noise, machine after machine."""
    rng = np.random.default_rng(rows)
    times = [START + timedelta(minutes=minutes * i) for i in range(rows)] * machines
    return pl.DataFrame(
        {
            "machine_id": np.repeat([f"m{k}" for k in range(machines)], rows),
            "timestamp": times,
            **{c.name: rng.normal(size=rows * machines) for c in spec.continuous},
        }
    )


def train_on(
    frame: pl.DataFrame, out: Path, spec: ChannelSpec = TWO, **options: object
) -> TrainingResult:
    readings = machine_readings(recording_of(frame, spec, "history"), spec)
    return train(spec, readings, out, training_date=DATE, **options)  # type: ignore[arg-type]


def test_the_written_bundle_loads_and_carries_what_was_learned(
    spec: ChannelSpec, readings: MachineReadings, result: TrainingResult
) -> None:
    bundle = load_bundle(result.path, result.path)
    assert bundle.spec == spec
    assert bundle.model_version == "pump/1.0.0"
    assert tuple(bundle.baselines.machine_ids) == readings.machine_ids
    assert bundle.health.machine_ids == readings.machine_ids
    assert (bundle.budget, bundle.threshold) == (0.1, None)
    training = bundle.manifest.training
    assert (training.rows, training.machines) == (len(readings), 5)
    assert training.interval_s == pytest.approx(600.0, abs=1.0)
    answers = answers_to(bundle.pipeline(), readings)
    assert bundle.metadata["contamination"] == pytest.approx(answers.anomalies / len(readings))
    assert result.episodes == len(answers.episodes())
    assert result.machine_days == pytest.approx(150.0, rel=0.01)


def test_the_model_carries_its_metadata_inside(result: TrainingResult, spec: ChannelSpec) -> None:
    props = {p.key: p.value for p in onnx.load(result.path / "model.onnx").metadata_props}
    manifest = tomllib.loads((result.path / "model.toml").read_text())
    assert props["version"] == "1.0.0"
    assert props["training_date"] == DATE
    assert json.loads(props["features"]) == list(spec.feature_names)
    for name in ("author", "description"):
        assert props[name] == manifest["metadata"][name]
    assert float(props["contamination"]) == manifest["metadata"]["contamination"]
    for name, key in (("model.onnx", "model"), ("baselines.npz", "baselines")):
        content = (result.path / name).read_bytes()
        assert manifest["sha256"][key] == hashlib.sha256(content).hexdigest()
    assert manifest["format"] == 2
    assert len(manifest["golden"]) == 8


def test_the_same_training_writes_the_same_bytes_on_any_number_of_cores(tmp_path: Path) -> None:
    frame = history(rows=300, machines=4)
    paths = [train_on(frame, tmp_path / f"{i}", workers=n).path for i, n in enumerate((1, 1, 2))]
    for name in FILES:
        assert len({path.joinpath(name).read_bytes() for path in paths}) == 1


def test_versions_count_up_and_existing_ones_are_never_overwritten(tmp_path: Path) -> None:
    shares: list[float] = []
    first = train_on(history(), tmp_path, on_progress=shares.append)
    second = train_on(history(), tmp_path)
    assert (first.path.name, second.path.name) == ("1.0.0", "1.1.0")
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    with pytest.raises(ConfigError, match=r"1\.1\.0 exists already"):
        train_on(history(), tmp_path, version="1.1.0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.0.0", "1.1.0"]
    assert next_version(["1.9.0", "2"]) == "2.1.0"


@pytest.mark.parametrize(("minutes", "length"), [(1, "1h"), (60, "1d"), (1440, "12d")])
def test_a_specification_without_a_window_gets_one_that_fits(
    minutes: int, length: str, tmp_path: Path
) -> None:
    result = train_on(history(rows=120, minutes=minutes), tmp_path)
    window = load_bundle(result.path, tmp_path).spec.window
    assert window is not None
    assert window.length == result.window == length


def test_a_pinned_threshold_holds_for_every_reading(tmp_path: Path) -> None:
    frame = history()
    result = train_on(frame, tmp_path, threshold=0.7)
    bundle = load_bundle(result.path, tmp_path)
    assert bundle.threshold == result.manifest.threshold == 0.7
    readings = machine_readings(recording_of(frame, TWO, "history"), TWO)
    answers = answers_to(bundle.pipeline(), readings)
    assert answers.anomalies > 0
    assert result.manifest.metadata.contamination == pytest.approx(answers.anomalies / 600)


def with_faults(frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A history in which two machines are off for an hour, and the labels of that."""
    labels = []
    for machine_id, minute in (("m0", 500), ("m1", 2500)):
        since, until = START + timedelta(minutes=minute), START + timedelta(minutes=minute + 60)
        faulty = pl.col("timestamp").is_between(since, until) & (pl.col("machine_id") == machine_id)
        frame = frame.with_columns(a=pl.when(faulty).then(pl.col("a") + 6.0).otherwise("a"))
        labels.append((machine_id, since, until, None))
    return frame, pl.DataFrame(labels, EPISODES, orient="row")


def test_labels_choose_the_budget_and_only_that(tmp_path: Path) -> None:
    frame, labels = with_faults(history(rows=3000, machines=5))
    plain = train_on(frame, tmp_path / "plain")
    assert plain.verdicts == {}
    chosen = train_on(frame, tmp_path / "labels", labels=labels)
    assert list(chosen.verdicts) == [0.01, 0.03, 0.1, 0.3, 1.0, 3.0]
    best = chosen.verdicts[chosen.manifest.budget]
    assert best.f1 == max(verdict.f1 for verdict in chosen.verdicts.values())
    assert (best.labels, best.caught) == (2, 2)
    assert all(
        chosen.verdicts[budget].f1 < best.f1
        for budget in chosen.verdicts
        if budget < chosen.manifest.budget
    )
    assert load_bundle(chosen.path, tmp_path).budget == chosen.manifest.budget
    baselines = {(result.path / "baselines.npz").read_bytes() for result in (plain, chosen)}
    assert len(baselines) == 1
    given = train_on(frame, tmp_path / "given", labels=labels, budget=0.5)
    assert list(given.verdicts) == [0.5]
    assert given.manifest.budget == 0.5


def changed(**columns: object) -> pl.DataFrame:
    return history().with_columns(**columns)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        (history().clear(), r"history: 0 usable readings are too few .* at least 50"),
        (history()[:1], r"history: 1 usable readings are too few"),
        (history()[:49], r"49 usable readings are too few"),
        (changed(a=None, b=None), r"0 usable readings are too few"),
        (changed(a=pl.lit(np.inf), b=pl.lit(-np.inf)), r"0 usable readings are too few"),
        (changed(timestamp=pl.lit(START)), r"no machine has readings of two different moments"),
        (changed(a=pl.lit(5.0), b=pl.lit(0.0)), r"no channel ever changes"),
        (changed(a=pl.lit(5.0), b=None), r"no channel ever changes"),
        (changed(machine_id=None), r"0 usable readings are too few"),
        (history().drop("b"), r"history: there is no column 'b'"),
        (changed(a=pl.lit("high")), r"history, row 1, a: 'high' is not a number"),
    ],
)
def test_data_that_cannot_be_learned_from_end_training_with_one_sentence(
    frame: pl.DataFrame, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=sentence) as refusal:
        train_on(frame, tmp_path / "out")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


def gaps(frame: pl.DataFrame) -> pl.DataFrame:
    """Half of all readings are missing, and so are hours of rows."""
    rng = np.random.default_rng(3)
    kept = frame.filter(~pl.col("timestamp").dt.hour().is_in([1, 2]))
    return kept.with_columns(
        pl.when(pl.lit(rng.random(len(kept)) < 0.5)).then(pl.col(name)).alias(name)
        for name in ("a", "b")
    )


@pytest.mark.parametrize(
    ("frame", "note"),
    [
        (history(rows=100, machines=1), None),
        (history(rows=60, machines=40), None),
        (gaps(history(rows=400)), None),
        (changed(b=None), "b: no reading at all, so it is not watched"),
        (changed(b=pl.lit(7.5)), "b: always 7.5, so any other value is a deviation"),
        (pl.concat([history(), history()]), "rows that repeat the one before .* left out: 600"),
        (pl.concat([history(), changed(a=1.0)]), "sorted: 2"),
        (history().reverse(), "rows older than the one before of their machine, sorted: 598"),
        (changed(timestamp=pl.col("timestamp").dt.replace_time_zone(None)), "taken as UTC"),
        (changed(machine_id=pl.col("machine_id").str.slice(1).cast(pl.Int64)), None),
        (changed(a=pl.when(pl.col("a") > 1).then(np.inf).otherwise(pl.col("a"))), "infinite"),
        (changed(a=pl.col("a").cast(pl.String)), None),
        (changed(a=pl.col("a") * 1e29, b=pl.col("b") * 1e-29), None),
        (changed(a=pl.col("a") + 1e15), None),
    ],
)
def test_odd_data_make_a_bundle_that_scores_and_what_was_odd_is_said(
    frame: pl.DataFrame, note: str | None, tmp_path: Path
) -> None:
    result = train_on(frame, tmp_path)
    if note is None:
        assert result.notes == ()
    else:
        assert any(pl.Series([text]).str.contains(note).all() for text in result.notes)
    readings = machine_readings(recording_of(frame, TWO, "history"), TWO)
    answers = answers_to(load_bundle(result.path, tmp_path).pipeline(), readings)
    usable = (~np.isnan(readings.values)).any(axis=1).sum()
    assert answers.scored == usable
    assert answers.anomalies < 0.05 * usable


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    frame = history(rows=200, machines=3)
    shuffled = frame.sample(fraction=1.0, shuffle=True, seed=4)
    paths = [train_on(one, tmp_path / f"{i}").path for i, one in enumerate((frame, shuffled))]
    for name in FILES:
        assert paths[0].joinpath(name).read_bytes() == paths[1].joinpath(name).read_bytes()


def test_moments_in_different_time_zones_are_the_moments_they_are(tmp_path: Path) -> None:
    frame = history(rows=100)
    zones = pl.when(pl.int_range(pl.len()) % 2 == 0).then(
        pl.col("timestamp").dt.convert_time_zone("Asia/Kolkata").dt.strftime("%FT%T%:z")
    )
    mixed = frame.with_columns(timestamp=zones.otherwise(pl.col("timestamp").dt.strftime("%FT%TZ")))
    assert mixed["timestamp"][:2].to_list() == ["2026-01-01T05:30:00+05:30", "2026-01-01T00:01:00Z"]
    paths = [train_on(one, tmp_path / f"{i}").path for i, one in enumerate((frame, mixed))]
    assert len({path.joinpath("baselines.npz").read_bytes() for path in paths}) == 1


def test_five_hundred_channels_can_be_trained_on(tmp_path: Path) -> None:
    text = "\n".join(f'[[channel]]\nname = "c{i}"' for i in range(500))
    spec = parse_spec(f'name = "wide"\n{text}\n')
    frame = history(rows=100, machines=2, spec=spec)
    result = train_on(frame, tmp_path, spec)
    assert len(load_bundle(result.path, tmp_path).spec.signals) == 500


def test_most_faults_of_a_fresh_simulation_are_detected_and_chance_would_find_few() -> None:
    bundle = load_bundle("machine-health", ROOT / "models")
    source = Simulator(
        bundle.spec,
        start_us=START_US,
        machines=20,
        interval_s=10.0,
        seed=31,
        faults=FaultRates(machine=2.0),
    )
    found = source.readings(START_US + DAY_US)
    names = (c.name for c in bundle.spec.continuous)
    frame = pl.DataFrame(
        {
            "machine_id": np.array(source.machine_ids)[found.machines],
            "timestamp": found.times_us,
            **dict(zip(names, found.values.T, strict=True)),
        }
    )
    recording = recording_of(frame, bundle.spec, "simulation")
    readings = machine_readings(recording, bundle.spec)
    episodes = answers_to(bundle.pipeline(), readings).episodes()
    opened = [
        OpenedEpisode(row["machine_id"], row["us"], tuple(row["top_channels"]))
        for row in episodes.with_columns(us=pl.col("opened_at").dt.epoch("us")).to_dicts()
    ]
    report = match_faults(source.truth(), opened)
    assert report.injected >= 20
    assert report.detected / report.injected >= 0.8
    assert report.chance_level < 0.05
