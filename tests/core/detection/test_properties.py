"""What must hold of detection whatever the data are, on a small fleet trained for real."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.core.channels import ChannelSpec, spec_from_dict
from worker.core.detection import detector
from worker.core.detection.detector import Detector, Scores
from worker.core.explanation import channel_contributions
from worker.core.features import mask_impossible
from worker.core.forest import Forest
from worker.core.state import PartitionState
from worker.core.table import MachineTable
from worker.models.trees import read_forest
from worker.training.export import to_onnx
from worker.training.fit import Fitted, fit
from worker.training.readings import MachineReadings

Floats = NDArray[np.float64]

MINUTE_US = 60_000_000
NAMES = ("flow", "pressure", "current")
TRAINED, TESTED = 900, 500


def make_spec(names: Sequence[str] = NAMES, **more: Any) -> ChannelSpec:
    return spec_from_dict({"name": "pump", "channel": [{"name": name} for name in names], **more})


def pump(rng: np.random.Generator, rows: int) -> Floats:
    """Readings (rows, 3) of a machine: two channels that belong together, one that wanders."""
    load = rng.normal(size=rows)
    wander = np.convolve(rng.normal(size=rows + 19), np.ones(20) / 4.5, "valid")
    flow = 40.0 + 3.0 * rng.normal() + 2.0 * load + 0.5 * rng.normal(size=rows)
    return np.stack([flow, 6.0 + load + 0.3 * rng.normal(size=rows), 20.0 + wander], axis=1)


@dataclass(frozen=True)
class Fleet:
    """Training and test readings of machines; the middle of each test has a fault."""

    trained: dict[str, Floats]
    tested: dict[str, Floats]

    @classmethod
    def make(cls, machines: int = 4) -> Fleet:
        rng = np.random.default_rng(11)
        trained, tested = {}, {}
        for m in range(machines):
            both = pump(rng, TRAINED + TESTED)
            both[TRAINED + 200 : TRAINED + 260, m % 3] += 7.0
            both[rng.random(both.shape) < 0.02] = np.nan
            trained[f"m{m}"], tested[f"m{m}"] = both[:TRAINED], both[TRAINED:]
        return cls(trained, tested)

    def map(self, change: Any) -> Fleet:
        return Fleet(
            {name: change(values) for name, values in self.trained.items()},
            {name: change(values) for name, values in self.tested.items()},
        )


def learn(spec: ChannelSpec, trained: dict[str, Floats]) -> Fitted:
    sizes = [len(values) for values in trained.values()]
    values = np.concatenate(list(trained.values()))
    return fit(
        spec,
        MachineReadings(
            source="test",
            machine_ids=tuple(trained),
            starts=np.cumsum([0, *sizes]),
            times_us=np.concatenate([np.arange(n, dtype=np.int64) * MINUTE_US for n in sizes]),
            values=values,
            impossible=np.zeros(values.shape, np.bool_),
            categories={},
            rows=np.arange(len(values)),
        ),
    )


class Scorer:
    """Scores events of machines as a worker does, in as many calls as it is asked."""

    def __init__(
        self,
        spec: ChannelSpec,
        fitted: Fitted,
        names: Sequence[str],
        forest: Forest | None = None,
    ) -> None:
        self.spec = spec
        self.detector = Detector(
            spec,
            fitted.baselines,
            fitted.codes,
            lambda x: fitted.forest.score_samples(x).astype(np.float32),
            fitted.expected,
            forest,
        )
        lengths = {"channel": len(spec.continuous), "signal": len(spec.signals)}
        self.table = MachineTable(self.detector.fields, lengths, len(names))
        rows = np.arange(len(names))
        self.table.reset(rows)
        self.detector.begin(self.table, rows, list(names))
        self.state = PartitionState(spec)
        self.windows = self.state.indices([name.encode() for name in names])

    def __call__(self, machines: NDArray[np.int64], times_us: Any, values: Floats) -> Scores:
        values = mask_impossible(self.spec, values)
        aggregates, _ = self.state.add(self.windows[machines], times_us, values)
        signals = self.detector.signals(values, [])
        no = np.zeros(len(values), np.bool_)
        return self.detector.score(self.table, machines, times_us, signals, aggregates, no, no)


def score(
    spec: ChannelSpec, fitted: Fitted, tested: dict[str, Floats], forest: Forest | None = None
) -> dict[str, Scores]:
    """Scores by machine of the machines' rows, in turn, in one call."""
    names = list(tested)
    count = len(names)
    rows = np.stack(list(tested.values()), axis=1).reshape(-1, len(spec.continuous))
    machines = np.tile(np.arange(count), len(rows) // count)
    times_us = (TRAINED + np.repeat(np.arange(len(rows) // count), count)) * MINUTE_US
    found = Scorer(spec, fitted, names, forest)(machines, times_us, rows)
    return {name: Scores(*(column[m::count] for column in found)) for m, name in enumerate(names)}


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet.make()


@pytest.fixture(scope="module")
def fitted(fleet: Fleet) -> Fitted:
    return learn(make_spec(), fleet.trained)


@pytest.fixture(scope="module")
def scores(fleet: Fleet, fitted: Fitted) -> dict[str, Scores]:
    return score(make_spec(), fitted, fleet.tested)


def alarms(scores: dict[str, Scores]) -> dict[str, list[bool]]:
    return {name: (s.anomaly_score < s.threshold).tolist() for name, s in scores.items()}


def test_the_faults_are_found_so_that_the_properties_mean_something(
    scores: dict[str, Scores],
) -> None:
    for found in alarms(scores).values():
        assert sum(found[200:280]) >= 30
        assert sum(found[:200]) <= 2


@pytest.mark.parametrize(
    ("channel", "scale", "shift"),
    [(0, 1024.0, 0.0), (1, 1e-3, 0.0), (2, 1.0, 1e3), (0, 1.8, 32.0), (1, 25.4, -500.0)],
)
def test_scaling_or_shifting_a_channel_with_its_training_data_leaves_decisions_unchanged(
    fleet: Fleet, scores: dict[str, Scores], channel: int, scale: float, shift: float
) -> None:
    def change(values: Floats) -> Floats:
        changed = values.copy()
        changed[:, channel] = scale * changed[:, channel] + shift
        return changed

    other = fleet.map(change)
    found = score(make_spec(), learn(make_spec(), other.trained), other.tested)
    for name, wanted in scores.items():
        np.testing.assert_allclose(found[name].anomaly_score, wanted.anomaly_score, atol=1e-2)
        # The last digits of features differ, and can take a row along another branch of a tree.
        clear = np.abs(wanted.anomaly_score - wanted.threshold) > 1e-2
        assert clear.mean() > 0.9
        ours, theirs = alarms({name: found[name]})[name], alarms({name: wanted})[name]
        assert np.array_equal(np.array(ours)[clear], np.array(theirs)[clear])


@pytest.mark.parametrize("order", [(2, 0, 1), (1, 0, 2)])
def test_permuting_channels_permutes_explanations(
    fleet: Fleet, scores: dict[str, Scores], order: tuple[int, ...]
) -> None:
    spec = make_spec([NAMES[c] for c in order])
    other = fleet.map(lambda values: values[:, order])
    found = score(spec, learn(spec, other.trained), other.tested)
    for name, wanted in scores.items():
        np.testing.assert_allclose(found[name].anomaly_score, wanted.anomaly_score, atol=1e-6)
        np.testing.assert_allclose(
            found[name].contributions, wanted.contributions[:, order], rtol=1e-4, atol=1e-4
        )
    assert alarms(found) == alarms(scores)


@pytest.mark.parametrize("at", [0, 3])
def test_adding_a_constant_channel_changes_nothing(
    fleet: Fleet, scores: dict[str, Scores], at: int
) -> None:
    spec = make_spec([*NAMES[:at], "idle", *NAMES[at:]])
    other = fleet.map(lambda values: np.insert(values, at, 5.0, axis=1))
    found = score(spec, learn(spec, other.trained), other.tested)
    for name, wanted in scores.items():
        np.testing.assert_allclose(found[name].anomaly_score, wanted.anomaly_score, atol=1e-6)
        assert not found[name].contributions[:, at].any()
    assert alarms(found) == alarms(scores)


def test_a_machine_does_not_depend_on_which_others_share_its_partition(
    fleet: Fleet, fitted: Fitted, scores: dict[str, Scores]
) -> None:
    strangers = {"new": fleet.tested["m0"] + 3.0}
    for names in (["m2"], ["m3", "m2"], ["m0", "m2", "m1"]):
        part = {**strangers, **{name: fleet.tested[name] for name in names}}
        found = score(make_spec(), fitted, part)["m2"]
        for mine, wanted in zip(found, scores["m2"], strict=True):
            np.testing.assert_array_equal(mine, wanted)


@pytest.mark.parametrize("cuts", [[1, 2, 3], [7, 450, 451, 1200], list(range(64, 2000, 64))])
def test_any_cut_of_a_stream_gives_the_same_scores(
    fleet: Fleet, fitted: Fitted, scores: dict[str, Scores], cuts: list[int]
) -> None:
    spec = make_spec()
    names = list(fleet.tested)
    rows = np.stack(list(fleet.tested.values()), axis=1).reshape(-1, 3)
    machines = np.tile(np.arange(len(names)), TESTED)
    times_us = (TRAINED + np.repeat(np.arange(TESTED), len(names))) * MINUTE_US
    scorer = Scorer(spec, fitted, names)
    parts = [
        scorer(machines[a:b], times_us[a:b], rows[a:b])
        for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)
    ]
    for column, pieces in enumerate(zip(*parts, strict=True)):
        whole = np.concatenate(pieces)
        for m, name in enumerate(names):
            np.testing.assert_array_equal(whole[m :: len(names)], scores[name][column])


@pytest.mark.parametrize("moved", [0, 1])
def test_a_channel_that_only_seems_wrong_because_another_moved_is_not_the_cause(
    moved: int,
) -> None:
    spec = make_spec(derived=[{"name": "power", "product": ["flow", "pressure"]}])
    rng = np.random.default_rng(5)
    values = np.array([180.0, 11.5, 30.0]) + rng.normal(size=(TRAINED + TESTED, 3)) * [20, 0.2, 3]
    values[TRAINED + 100 :, moved] += [200.0, 2.0][moved]
    trained, tested = values[:TRAINED], values[TRAINED:]
    found = score(spec, learn(spec, {"m": trained}), {"m": tested})["m"]
    anomalies = np.flatnonzero(found.anomaly_score < found.threshold)
    assert len(anomalies) > 300
    shares = channel_contributions(spec, found.contributions[anomalies])
    assert (shares.argmax(axis=1) == moved).mean() > 0.95


def test_deviations_point_from_what_is_expected_to_the_value(
    fleet: Fleet, scores: dict[str, Scores]
) -> None:
    for name, found in scores.items():
        distance = fleet.tested[name] - found.expected
        there = ~np.isnan(distance)
        np.testing.assert_array_equal(np.sign(distance[there]), np.sign(found.deviation[there]))
        assert not found.deviation[~there].any()
        assert np.isfinite(found.expected).all()


def test_asking_the_forest_why_changes_no_decision_and_adds_to_anomalies_only(
    fleet: Fleet,
    fitted: Fitted,
    scores: dict[str, Scores],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(detector, "FOREST_COUNTS", 0.0)  # these faults are too clear for it
    spec = make_spec()
    forest = read_forest(to_onnx(fitted.forest, {}), len(spec.features), Path("model.onnx"))
    found = score(spec, fitted, fleet.tested, forest)
    assert alarms(found) == alarms(scores)
    for name, wanted in scores.items():
        np.testing.assert_array_equal(found[name].anomaly_score, wanted.anomaly_score)
        added = found[name].contributions - wanted.contributions
        assert (added > -1e-4).all()
        normal = wanted.anomaly_score >= wanted.threshold
        assert not added[normal].any()
        assert (added[~normal].max(axis=1) > 0.0).mean() > 0.9
