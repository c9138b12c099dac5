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

import pandas as pd  # type: ignore[import-not-found,import-untyped,unused-ignore]

from load.drift.series import FIRST_SEED, SHORT_WINDOWS, Plan, change, draw

NAMES = ("evidently wasserstein", "evidently psi", "evidently ks", "alibi-detect ks")


def verdicts(reference: Any, windows: list[Any]) -> list[list[bool]]:
    """For each window, whether each of ``NAMES`` says drift."""
    from alibi_detect.cd import KSDrift  # type: ignore[import-not-found]
    from evidently.legacy.calculations import stattests  # type: ignore[import-not-found]
    from evidently.legacy.core import ColumnType  # type: ignore[import-not-found]

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
        total: dict[str, list[int]] = {}
        for seed in range(FIRST_SEED, FIRST_SEED + job["repetitions"]):
            reference, windows = draw(plan, seed, SHORT_WINDOWS)
            names, given = [], []
            for rows, (window, *_) in windows.items():
                for what in ("none", "shift"):
                    names.append(f"{rows} {what}")
                    given.append(change(window, what, seed))
            for name, own in zip(names, verdicts(reference, given), strict=True):
                sums = total.setdefault(name, [0] * len(NAMES))
                for k, drifted in enumerate(own):
                    sums[k] += drifted
        counts.append(total)
        print(f"{plan}", file=sys.stderr, flush=True)
    json.dump(counts, sys.stdout)


if __name__ == "__main__":
    main()
