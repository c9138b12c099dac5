"""Putting the report together: one HTML file that opens anywhere and fetches nothing.

Owns the page's security: text from data is escaped by the template, data of the charts cannot end
their element, and the Content Security Policy allows exactly the scripts and the style that are
in the file, by their hashes, and no request at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined

from worker.assets import asset_dir
from worker.core.channels import US_PER_S, ChannelSpec
from worker.models.bundle import find_bundle
from worker.models.manifest import read_manifest
from worker.replay.sides import Data, writing
from worker.replay.trial import Trial
from worker.report.content import content
from worker.report.drifted import drift_charts
from worker.report.marks import marked
from worker.report.packing import LEVELS, packed
from worker.report.provenance import made_from
from worker.report.readings import read_parts
from worker.report.results import Results, read_results
from worker.report.selection import machines_of, wanted
from worker.report.timelines import (
    MOST_CHANNELS,
    Timelines,
    Wanted,
    buckets_for,
    machines_for,
)

REPORT_NAME = "report.html"
MOST_BYTES = 4_600_000
"""Of the packed timelines; with everything else the page stays within 5 MB."""
COARSE_LEVELS = 255
"""Enough for noise that does not deflate to fit as well: a byte a value."""
ANSWERS = 2
"""Series of each side: score and threshold."""
_FOLDER = Path(__file__).parent
_UPLOT = _FOLDER.parent / "static" / "uplot"


def write_report(trial: Trial) -> Path:
    """Write ``report.html`` into the results folder of a trial that was run.

    Returns:
        The page's path.

    Raises:
        ConfigError: the results are damaged, the data are not those they were made from, or the
            page cannot be written.
        BundleError: the bundle is damaged.
    """
    _, spec = read_manifest(find_bundle(trial.side.model, asset_dir("models")))
    results = marked(read_results(trial.out), spec)
    data = chart_data(results, trial.data, spec)
    text = page(content(results, made_from(trial)), data)
    path = trial.out / REPORT_NAME
    with writing(trial.out):
        path.write_text(text, encoding="utf-8")
    return path


def chart_data(results: Results, data: Data, spec: ChannelSpec) -> dict[str, Any]:
    """What the scripts of the page draw."""
    machines = machines_of(results)
    sides = [results.this] if results.other is None else [results.this, results.other]
    series = ANSWERS * len(sides) + min(len(spec.continuous), MOST_CHANNELS)
    shown = machines.head(machines_for(series))
    chosen = wanted(results, shown, spec)
    timelines = Timelines(chosen, series, buckets_for(len(chosen), series))
    for part in read_parts(spec, data.path, data.topic, [side.scores for side in sides]):
        timelines.add(part)
    drawn = [timelines.timeline(k) for k in range(len(chosen))]
    packs = [packed(one, LEVELS) for one in drawn]
    if sum(len(pack["data"]) for pack in packs) > MOST_BYTES:
        packs = [packed(one, COARSE_LEVELS) for one in drawn]
    return {
        "sides": len(sides),
        "channels": [{"name": c.name, "unit": c.unit} for c in spec.continuous],
        "end": max((one.end_us for one in chosen), default=0) / US_PER_S,
        "left_out": len(machines) - len(shown),
        "sweep": results.this.summary.get("sweep"),
        "drift": [] if results.drift is None else drift_charts(results.drift),
        "machines": [
            {
                "id": one.machine_id,
                "true": row["true"],
                "missed": row["missed"],
                "channels": one.channels,
                **pack,
                **_bands(results, one),
            }
            for one, row, pack in zip(chosen, shown.iter_rows(named=True), packs, strict=True)
        ],
    }


def _bands(results: Results, one: Wanted) -> dict[str, Any]:
    """What was told of a machine and what was true, in seconds of the epoch."""
    own = pl.col("machine_id") == one.machine_id
    told = ("opened_at", "closed_at", "severity", "top_channels", "right")
    truth, other = results.truth, results.other
    return {
        "episodes": _stretches(results.this.episodes.filter(own), *told),
        "others": [] if other is None else _stretches(other.episodes.filter(own), *told),
        "health": _stretches(
            results.this.health.filter(own), "opened_at", "closed_at", "kind", "channel"
        ),
        "truth": []
        if truth is None
        else _stretches(
            truth.filter(own | pl.col("machine_id").is_null()), "begin", "end", "label", "found"
        ),
    }


def _stretches(table: pl.DataFrame, begin: str, end: str, *others: str) -> list[list[Any]]:
    seconds = [pl.col(name).dt.epoch("us") / US_PER_S for name in (begin, end)]
    return [list(row) for row in table.select(*seconds, *others).iter_rows()]


def page(shown: dict[str, Any], data: dict[str, Any]) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("worker.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = _read(_UPLOT / "uPlot.min.css") + _read(_FOLDER / "page.css")
    own = [_FOLDER / name for name in ("charts.js", "sweep.js", "timeline.js", "drift.js")]
    scripts = [_read(path) for path in (_UPLOT / "uPlot.iife.min.js", *own)]
    return environment.get_template("page.html.j2").render(
        **shown,
        left_out=data["left_out"],
        machine_count=len(data["machines"]),
        style=style,
        scripts=scripts,
        style_hash=_source_hash(style),
        script_hashes=[_source_hash(script) for script in scripts],
        uplot_licence=_read(_UPLOT / "LICENSE"),
        chart_data=_for_script(data),
    )


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _source_hash(text: str) -> str:
    """As a Content Security Policy names what it allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _for_script(data: dict[str, Any]) -> str:
    """JSON that cannot end the element it stands in, whatever the data's names are."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
