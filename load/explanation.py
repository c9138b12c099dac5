"""``make bench-explanation``: what explaining one anomaly costs, part by part.

Uses the default bundle's forest. Prints the median of each part in microseconds, its share of
the millisecond that an anomaly may take, and how long the shap package takes for the same.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import shap
from rich.console import Console
from rich.table import Table
from sklearn.ensemble import IsolationForest

from worker.assets import asset_dir
from worker.contracts import example_anomaly
from worker.core import messages
from worker.core.explanation import explain, with_forest
from worker.models.bundle import load_bundle
from worker.models.manifest import MODEL_NAME
from worker.models.trees import read_forest

LIMIT_US = 1000.0
REPEATS = 2000
TREES = 100


def median_us(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median time of one call."""
    work()
    times_us = []
    for _ in range(repeats):
        begun_ns = time.perf_counter_ns()
        work()
        times_us.append((time.perf_counter_ns() - begun_ns) / 1000.0)
    return statistics.median(times_us)


def shap_us(features: int) -> float:
    """Median time that the shap package takes for one row of a forest of the same size."""
    rows = np.random.default_rng(7).normal(size=(5000, features))
    forest = IsolationForest(n_estimators=TREES, max_samples=256, random_state=7).fit(rows)
    explainer = shap.TreeExplainer(forest)
    return median_us(lambda: explainer.shap_values(rows[:1]), 200)


def main() -> None:
    """Measure and print."""
    bundle = load_bundle("machine-health", asset_dir("models"))
    spec = bundle.spec
    content = (bundle.path / MODEL_NAME).read_bytes()
    forest = read_forest(content, len(spec.features), bundle.path / MODEL_NAME)
    worst = np.array(bundle.manifest.golden[0].features, np.float32)
    rng = np.random.default_rng(7)
    contributions, values, deviation = np.abs(rng.normal(0.0, 5.0, (3, len(spec.signals))))
    expected = values * 0.9
    shapley = forest.shapley(worst)
    whole = messages.Anomaly(**example_anomaly(spec))
    parts = {
        "Shapley values": median_us(lambda: forest.shapley(worst)),
        "forest's part by signal": median_us(
            lambda: with_forest(spec, contributions, shapley, 2.0)
        ),
        "causes and sentence": median_us(
            lambda: explain(spec, contributions, values, expected, deviation)
        ),
        "message to JSON": median_us(lambda: messages.encode(whole)),
    }
    table = Table(title=f"One anomaly, {len(spec.features)} features, {TREES} trees")
    table.add_column("Part")
    table.add_column("us", justify="right")
    table.add_column("of 1 ms", justify="right")
    for name, cost_us in {**parts, "all": sum(parts.values())}.items():
        table.add_row(name, f"{cost_us:.1f}", f"{cost_us / LIMIT_US:.1%}")
    reference_us = shap_us(len(spec.features))
    table.add_row("shap package, Shapley values", f"{reference_us:.1f}", "")
    Console().print(table)
    Console().print(
        f"Shapley values: {reference_us / parts['Shapley values']:.1f} times as fast as shap"
    )


if __name__ == "__main__":
    main()
