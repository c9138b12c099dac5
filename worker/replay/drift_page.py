"""A comparison as a page that an engineer reads in a minute.

One HTML file without scripts and without anything fetched; all text from data is escaped by the
template. However many features there are, the page has an end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from worker import __version__
from worker.core.channels import US_PER_S, format_duration
from worker.core.drift import FLEET, FeatureDrift, WindowReport
from worker.core.drift.cells import CELLS, MISSING
from worker.replay.comparison import Comparison, moment

LISTED = 200
PICTURED = 24
GROUPS = 40
BINS = 40
WIDTH, HEIGHT = 240.0, 76.0
TIMELINE_WIDTH, TIMELINE_HEIGHT = 720.0, 130.0
LIMIT = 0.3
HIGHEST = 1.5
"""Where the bars of the timeline end: beyond that everything is far away."""
ADVICE = {
    "sensor-fault": "A sensor looks faulty: look at it first.",
    "recalibrated-sensor": "One channel changed at once: was its sensor recalibrated or replaced?",
    "new-regime": "Several things changed at once: do the machines work in another way?",
    "gradual-wear": "It grows from window to window, as with wear.",
    "seasonal": "It comes and goes with the hour of the day.",
    "unclear": "",
}
Floats = NDArray[np.float64]


class Source(NamedTuple):
    """What a page is made from, for people: names of files, and of the bundle if any."""

    data: str
    reference: str
    bundle: str | None


def page(found: Comparison, source: Source) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("worker.replay", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("drift_page.html.j2").render(**_content(found, source))


def _content(found: Comparison, source: Source) -> dict[str, Any]:
    judged = found.judged
    listed = judged.features[:LISTED]
    top = min(max([LIMIT * 2.0, *(one.score for one in found.timeline)]), HIGHEST)
    opened = [event for event in found.events if event.status == "opened"]
    voted = [test.name for test in judged.joint if test.voted]
    tone = "drift" if found.drifted else "ordinary" if judged.verdict == "ordinary" else "unsure"
    answer = {"drift": "Yes.", "ordinary": "No drift seen.", "unsure": "Not judged."}[tone]
    return {
        "data": source.data,
        "against": source.reference,
        "rows": f"{found.data_rows:,}",
        "start": moment(found.start_us),
        "end": moment(found.end_us),
        "tone": tone,
        "answer": answer,
        "verdict": found.verdict,
        "sentence": judged.sentence,
        "advice": ADVICE[_latest_advice(found)] if found.drifted else "",
        "top": f"{top:.2g}",
        "features": [_row(found, one) for one in listed],
        "left_out": max(len(judged.features) - LISTED, 0),
        "joint": f"{', '.join(voted)} changed" if voted else "",
        "table_of": _window_name(found, judged),
        "pictures": [_picture(found, one) for one in listed[:PICTURED]],
        "bars": _bars(found, top),
        "mark_y": round(_height(LIMIT, top), 1),
        "window": found.window,
        "events": [f"{e.kind.capitalize()} since {moment(e.began_us)}: {e.reason}" for e in opened],
        "machines": [
            {"name": one.machine_id, "share": f"{one.share:.0%}"} for one in found.machines
        ],
        "shifted": next((one.feature for one in judged.features if one.drifted), ""),
        "groups": [_group(report) for name, report in found.whole.items() if name != FLEET][
            :GROUPS
        ],
        "limits": _limits(found),
        "made": _made(found, source),
    }


def _latest_advice(found: Comparison) -> str:
    """What the last message about a drift advised; it has seen most."""
    told = [one.advice for one in found.events if one.kind == "drift" and one.status != "closed"]
    return told[-1] if told else "unclear"


def _window_name(found: Comparison, judged: WindowReport) -> str:
    if judged is found.whole[FLEET]:
        return "All data as one window."
    return (
        f"The reference is too short to judge all data at once; this is the window of "
        f"{found.window} from {moment(judged.start_us)} on, which shows most."
    )


def _row(found: Comparison, one: FeatureDrift) -> dict[str, Any]:
    since_us = found.since_us(one.feature) if one.drifted else None
    return {
        "name": one.feature,
        "drifted": one.drifted,
        "score": _number(one.score),
        "bar": round(100.0 * min(max(_finite(one.score), 0.0), 1.0), 1),
        "effect": _number(one.effect, one.unit, sign=True),
        "direction": one.direction if one.drifted else "",
        "since": moment(since_us).removesuffix(" UTC") if since_us is not None else "",
        "p_value": f"{one.p_value:.2g}" if one.p_value >= 1e-12 else "< 1e-12",
        "effective_rows": f"{_finite(one.effective_rows):,.0f}",
        "smallest": _number(one.smallest_detectable, one.unit),
    }


def _number(value: float, unit: str = "", *, sign: bool = False) -> str:
    if not math.isfinite(value):
        return "unknown"
    return f"{value:{'+' if sign else ''}.3g}" + (f" {unit}" if unit else "")


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _group(report: WindowReport) -> dict[str, str]:
    return {
        "name": report.group,
        "verdict": report.verdict,
        "score": _number(report.score),
        "what": ", ".join(one.feature for one in report.features if one.drifted)[:120],
    }


def _limits(found: Comparison) -> list[str]:
    usual = found.reference.groups[FLEET]
    lines = [found.limits] if found.limits else []
    blind = sum(one.verdict == "blind" for one in found.timeline)
    if blind:
        lines.append(f"{blind} windows of {found.window} are too long for the reference.")
    lines.append(
        f"What lasts longer than the reference: it has {usual.slots:,} readings a machine of "
        f"{usual.machines:,} machines, one each {_about(usual.interval_us)}. Seasons that "
        "it does not contain look like drift; changes that it contains do not."
    )
    lines.append("Why something changed. The advice above is a rule of thumb, no diagnosis.")
    return lines


def _made(found: Comparison, source: Source) -> list[tuple[str, str]]:
    made = [
        ("data", f"{source.data}, {found.data_rows:,} rows"),
        ("reference", f"{source.reference}, {found.reference.groups[FLEET].rows:,} rows"),
        ("reference hash", found.reference.hash),
        ("driftdetector", __version__),
    ]
    if source.bundle is not None:
        made.insert(2, ("model", source.bundle))
    return made + [("note", note) for note in found.notes]


def _height(score: float, top: float) -> float:
    return TIMELINE_HEIGHT * (1.0 - min(_finite(score) / top, 1.0))


def _bars(found: Comparison, top: float) -> list[dict[str, Any]]:
    span_us = max(found.end_us - found.start_us, 1)
    bars = []
    for one in found.timeline:
        start_us, end_us = max(one.start_us, found.start_us), min(one.end_us, found.end_us)
        unseen = one.verdict in ("blind", "sparse")
        y = TIMELINE_HEIGHT - 8.0 if unseen else min(_height(one.score, top), TIMELINE_HEIGHT - 1.0)
        bars.append(
            {
                "verdict": one.verdict,
                "x": round(TIMELINE_WIDTH * (start_us - found.start_us) / span_us, 2),
                "width": round(max(TIMELINE_WIDTH * (end_us - start_us) / span_us - 1.0, 0.5), 2),
                "y": round(y, 2),
                "height": round(TIMELINE_HEIGHT - y, 2),
                "title": f"{moment(one.start_us)}: {one.verdict}, score {_number(one.score)}",
            }
        )
    return bars


def _picture(found: Comparison, one: FeatureDrift) -> dict[str, str]:
    """Both distributions of a feature on one axis."""
    reference = found.reference
    f = reference.columns.index(one.feature)
    usual = reference.groups[FLEET]
    values = found.pictured[:, f].astype(np.float64)
    values = values[np.isfinite(values)]
    edges = reference.edges[f].astype(np.float64)
    ends = [edges[0], edges[-1], *(np.quantile(values, [0.005, 0.995]) if len(values) else ())]
    low, high = float(min(ends)), float(max(ends))
    if not high > low:
        low, high = low - 0.5, high + 0.5
    grid = np.linspace(low, high, BINS + 1)
    then, now = _spread(usual.counts[f, 1 : CELLS - 1], edges, grid), np.histogram(values, grid)[0]
    then, now = then / max(then.sum(), 1.0), now / max(now.sum(), 1)
    top = max(then.max(), now.max(), 1e-12)
    shares = (
        found.counts[f, MISSING] / max(found.counts[f].sum(), 1),
        usual.counts[f, MISSING] / max(usual.rows, 1),
    )
    missing = f"missing {shares[1]:.1%} then, {shares[0]:.1%} now" if max(shares) > 0.0 else ""
    return {
        "name": one.feature,
        "unit": one.unit,
        "low": _end(low, high - low),
        "high": _end(high, high - low),
        "usual": _steps(then / top) + "Z",
        "now": _steps(now / top),
        "missing": missing,
    }


def _about(duration_us: int) -> str:
    """A duration, to the second where it is longer."""
    whole = duration_us if duration_us < US_PER_S else round(duration_us / US_PER_S) * US_PER_S
    return format_duration(whole)


def _end(value: float, width: float) -> str:
    return f"{0.0 if abs(value) < 1e-6 * width else value:.4g}"


def _spread(counts: NDArray[np.int64], edges: Floats, grid: Floats) -> Floats:
    """Counts of the cells between edges, spread evenly over each, in the bins of a grid."""
    below = np.concatenate([[0.0], np.cumsum(counts[: len(edges) - 1])])
    # Cells without width hold one value: a step, put just before it.
    places, last = np.unique(edges[::-1], return_index=True)
    total = below[::-1][last]
    if len(places) < 2:
        found = np.zeros(len(grid) - 1)
        found[min(int(np.searchsorted(grid, edges[0], "right")) - 1, len(found) - 1)] = 1.0
        return found
    spread: Floats = np.diff(np.interp(grid, places, total, left=0.0, right=total[-1]))
    return spread


def _steps(heights: Sequence[float] | Floats) -> str:
    """The outline of a histogram as the path of an SVG."""
    width = WIDTH / len(heights)
    points = [f"M0 {HEIGHT + 2:.1f}"]
    for i, height in enumerate(heights):
        y = HEIGHT + 2.0 - HEIGHT * float(height)
        points.append(f"L{i * width:.1f} {y:.1f}L{(i + 1) * width:.1f} {y:.1f}")
    return "".join([*points, f"L{WIDTH:.1f} {HEIGHT + 2:.1f}"])
