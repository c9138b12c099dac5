"""Runs detectors on cases, in two processes, and gathers what they reached."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, NamedTuple

import numpy as np

from load.detection import metrics, nab
from load.detection.cases import Case
from load.detection.detectors import CLOSING_ROWS, SIMPLE, Detections, Detector
from load.detection.fleets import FLEETS, fleet_cases
from load.detection.product import DriftDetector
from load.detection.public import NabTruth, ai4i_cases, nab_cases, skab_cases
from load.detection.simulated import plant_cases, plants

PROCESSES = 2
PRODUCT = "driftdetector"
DETECTORS: dict[str, Callable[[], Detector]] = {**SIMPLE, PRODUCT: DriftDetector}

BUDGET = 0.1
"""False episodes per machine and day: the default of training."""
BUDGETS = {"fleet": 0.01, "simulator": 0.01}
"""Sets with so many quiet machine-days that a smaller one can be measured."""
NAB_THRESHOLDS = 200
NAB_BUDGETS = tuple(10.0 ** np.arange(-3.0, 1.6, 0.5))
"""What is swept on NAB, for the product: its budget; for other detectors, their score."""


class Result(NamedTuple):
    """One detector on one set.

    Attributes:
        measures: of rows and events, and of NAB's own rules on NAB.
        slices: row measures of each part of the set.
        kinds: caught and all events of each kind.
    """

    group: str
    detector: str
    role: str
    budget: float
    measures: dict[str, float]
    slices: dict[str, dict[str, float]]
    kinds: dict[str, tuple[int, int]]


def make_cases(sets: Sequence[str], seeds: range) -> Iterator[Case]:
    """All cases of the sets that were asked for.

    Raises:
        ConfigError: the data of a set are not there.
    """
    if "ai4i" in sets:
        yield from ai4i_cases()
    if "skab" in sets:
        yield from skab_cases()
    if "nab" in sets:
        yield from nab_cases()
    if "fleets" in sets:
        for fleet in FLEETS:
            yield from fleet_cases(fleet, seeds)
    if "simulator" in sets:
        for plant in plants():
            yield from plant_cases(plant, seeds)


def budget_of(case: Case) -> float:
    """The budget that a case is judged at."""
    return BUDGETS.get(case.group.split("-", maxsplit=1)[0], BUDGET)


def judge(name: str, case: Case) -> metrics.Outcome:
    """Let one detector learn and judge one case."""
    detector = DETECTORS[name]()
    detector.fit(case.spec, case.train, seed=1)
    outcome = metrics.judge(case, detector.detect(case.test, budget_of(case)))
    if isinstance(case.extra, NabTruth) and name == PRODUCT:
        swept = (detector.detect(case.test, budget) for budget in NAB_BUDGETS)
        return outcome._replace(swept=tuple(_opened_rows(case, found) for found in swept))
    return outcome


def run(
    cases: Iterable[Case], detectors: Sequence[str], on_done: Callable[[int, int], None]
) -> dict[tuple[str, str], list[metrics.Outcome]]:
    """Every detector on every case; ``on_done`` is told how many are done, and of how many.

    Returns:
        Outcomes by set and detector, in the order of the cases.
    """
    jobs = [(name, case) for case in cases for name in detectors]
    outcomes: dict[int, metrics.Outcome] = {}
    # Libraries with threads of their own do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, context) as pool:
        running = {pool.submit(judge, *job): number for number, job in enumerate(jobs)}
        for done in as_completed(running):
            outcomes[running[done]] = done.result()
            on_done(len(outcomes), len(jobs))
    gathered: dict[tuple[str, str], list[metrics.Outcome]] = {}
    for number, (name, case) in enumerate(jobs):
        gathered.setdefault((case.group, name), []).append(outcomes[number])
    return gathered


def summarise(group: str, detector: str, outcomes: Sequence[metrics.Outcome]) -> list[Result]:
    """Measures of a set: of all of it and, where it has both, of each half of the research."""
    roles = sorted({o.case.role for o in outcomes})
    parts = [("all", list(outcomes))]
    if len(roles) > 1:
        parts += [(role, [o for o in outcomes if o.case.role == role]) for role in roles]
    results = []
    for role, part in parts:
        budget = budget_of(part[0].case)
        measures = {**metrics.row_measures(part), **metrics.event_measures(part, budget)}
        if group == "nab":
            measures |= nab_measures(part)
        slices = metrics.slice_measures(part)
        kinds = metrics.kind_measures(part)
        results.append(Result(group, detector, role, budget, measures, slices, kinds))
    return results


def nab_measures(outcomes: Sequence[metrics.Outcome]) -> dict[str, float]:
    """NAB's standard score at the budget, and with the one threshold that suits it best."""
    truths = [o.case.extra for o in outcomes]
    own = nab.normalised_score(truths, [_opened_rows(o.case, o.detections) for o in outcomes])
    swept = [nab.normalised_score(truths, rows) for rows in _candidates(outcomes)]
    found = {"nab_score": own, "nab_swept_score": max(swept)}
    if outcomes[0].swept:
        found["nab_best_budget"] = NAB_BUDGETS[int(np.argmax(swept))]
    return found


def _candidates(outcomes: Sequence[metrics.Outcome]) -> Iterator[list[tuple[int, ...]]]:
    """What would be detected in each series, at one threshold after the other."""
    if outcomes[0].swept:
        yield from ([o.swept[k] for o in outcomes] for k in range(len(NAB_BUDGETS)))
        return
    scores = [np.nan_to_num(o.detections.anomaly_score, nan=np.inf) for o in outcomes]
    shares = np.logspace(-5.0, -0.5, NAB_THRESHOLDS)
    for threshold in np.unique(np.quantile(np.concatenate(scores), shares)):
        yield [
            tuple(o.case.extra.probation + r for r in nab.openings(own, threshold, CLOSING_ROWS))
            for o, own in zip(outcomes, scores, strict=True)
        ]


def _opened_rows(case: Case, detections: Detections) -> tuple[int, ...]:
    """Rows of the whole series at which episodes opened."""
    row_of: dict[int, int] = {}
    for row, time_us in enumerate(case.test.times_us.tolist()):
        row_of.setdefault(time_us, row)
    return tuple(case.extra.probation + row_of[e.opened_us] for e in detections.episodes)


def as_row(result: Result) -> dict[str, Any]:
    """A result as it goes into the file."""
    return {
        "set": result.group,
        "detector": result.detector,
        "part": result.role,
        "budget": result.budget,
        **metrics.flat(result.measures),
        "slices": {name: metrics.flat(part) for name, part in result.slices.items()},
        "kinds": {name: list(counts) for name, counts in result.kinds.items()},
    }
