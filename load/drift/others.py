"""What other libraries say of the same windows; a program for an environment of their own.

Reads a list of plans as JSON from standard input, writes a list of counts to standard output. The
libraries' own defaults: of Evidently the tests that its reports are made of, a window drifts when a
column does; of alibi-detect KSDrift, which corrects for the number of columns, at 1 %.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import pandas as pd

from load.drift.series import Plan, change, draw

NAMES = ("evidently wasserstein", "evidently psi", "evidently ks", "alibi-detect ks")


def verdicts(reference: Any, windows: list[Any]) -> list[list[bool]]:
    """For each window, whether each of ``NAMES`` says drift."""
    from alibi_detect.cd import KSDrift
    from evidently.legacy.calculations import stattests
    from evidently.legacy.core import ColumnType

    tests = (
        stattests.wasserstein_stat_test,
        stattests.psi_stat_test,
        stattests.ks_stat_test,
    )
    alibi = KSDrift(reference, p_val=0.01)
    frame = pd.DataFrame(reference)
    found = []
    for window in windows:
        now = pd.DataFrame(window)
        own = [
            any(test(frame[c], now[c], ColumnType.Numerical, None).drifted for c in frame)
            for test in tests
        ]
        found.append([*own, bool(alibi.predict(window)["data"]["is_drift"])])
    return found


def main() -> None:
    """Count verdicts of drift over each plan's repetitions."""
    warnings.filterwarnings("ignore")
    counts = []
    for job in json.load(sys.stdin):
        plan = Plan(**(job["plan"] | {"windows": tuple(job["plan"]["windows"])}))
        total: dict[str, dict[str, int]] = {}
        for seed in plan.seeds(job["repetitions"]):
            reference, windows = draw(plan, seed)
            given = {
                f"{rows} {what}": [change(one, what, seed) for one in of_length]
                for rows, drawn in windows.items()
                for what, of_length in (("none", drawn), ("shift", drawn[:1]))
            }
            said = iter(verdicts(reference, [one for some in given.values() for one in some]))
            for name, some in given.items():
                sums = total.setdefault(name, dict.fromkeys(("windows", *NAMES), 0))
                for _ in some:
                    sums["windows"] += 1
                    for library, drifted in zip(NAMES, next(said), strict=True):
                        sums[library] += drifted
        counts.append(total)
        print(f"{plan}", file=sys.stderr, flush=True)
    json.dump(counts, sys.stdout)


if __name__ == "__main__":
    main()
