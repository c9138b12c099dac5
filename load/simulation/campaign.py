"""Many seeds on all cores, and what they met together."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from load.simulation.faults import EXPECTED
from load.simulation.world import Outcome, simulate

ENOUGH_SEEDS = 500
"""So many meet every kind of fault; fewer may not."""
_SEEDS_A_TASK = 10


@dataclass
class Summary:
    """What became of the seeds.

    Attributes:
        failed: the first few seeds with a violation.
        happened: counts by kind over all seeds.
    """

    seeds: int = 0
    violations: int = 0
    failed: list[Outcome] = field(default_factory=list)
    happened: Counter[str] = field(default_factory=Counter)
    virtual_s: float = 0.0

    @property
    def never_happened(self) -> list[str]:
        """Kinds of faults that so many seeds should have met; empty for a few seeds."""
        return sorted(EXPECTED - set(self.happened)) if self.seeds >= ENOUGH_SEEDS else []


def run_campaign(seeds: Sequence[int], done: Callable[[], None] = lambda: None) -> Summary:
    """Run all seeds.

    Args:
        done: called after each seed.
    """
    summary = Summary()
    # A fresh interpreter each: a fork would inherit the locks of whatever threads run here.
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(os.cpu_count() or 1, len(seeds))) as pool:
        for outcome in pool.imap_unordered(_run, seeds, _SEEDS_A_TASK):
            summary.seeds += 1
            summary.happened += outcome.happened
            summary.virtual_s += outcome.duration_s
            if outcome.violation is not None:
                summary.violations += 1
                summary.failed = sorted([*summary.failed, outcome], key=lambda o: o.seed)[:3]
            done()
    return summary


def _run(seed: int) -> Outcome:
    outcome = simulate(seed)
    return outcome if outcome.violation is not None else replace(outcome, trace=[])
