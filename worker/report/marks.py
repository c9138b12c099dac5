"""Which of the episodes were right, and which of them both candidates told of.

Judged as the summary's figures are: by ``worker/judging``.
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from worker.core.channels import ChannelSpec
from worker.judging import matching
from worker.judging.truth import windows
from worker.report.results import Results, Side


def marked(results: Results, spec: ChannelSpec) -> Results:
    """The same with two more columns of each side's episodes.

    Returns:
        Results whose episodes have ``right`` (null without a truth) and ``both`` (null without
        another side).
    """
    sides = [results.this] if results.other is None else [results.this, results.other]
    judged = []
    for side in sides:
        episodes = side.episodes.with_columns(
            right=_right(side, results, spec), both=pl.lit(None, pl.Boolean)
        )
        for other in sides:
            if other is not side:
                told = [matching.told_spans(one.episodes) for one in (side, other)]
                both = pl.Series("both", matching.matches(*told).met)
                episodes = episodes.with_columns(both)
        judged.append(replace(side, episodes=episodes))
    return replace(results, this=judged[0], other=None if len(judged) == 1 else judged[1])


def _right(side: Side, results: Results, spec: ChannelSpec) -> pl.Series:
    """Whether each episode opened in a true one."""
    if results.truth is None:
        return pl.Series("right", [None] * len(side.episodes), pl.Boolean)
    # Labels of rows are exact, faults that were written down are not.
    by_row = results.this.summary["truth"]["rows"] is not None
    known = windows(results.truth, 0 if by_row else spec.length_us)
    return pl.Series("right", matching.matches(matching.alarms(side.episodes), known).met)
