"""The page as a file: what stands in it, and that nothing in it can do harm."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from xml.etree.ElementTree import Element

import html5lib
import polars as pl
import pytest

from tests.support.backtested import HOSTILE, Backtested
from worker.cli.main import run
from worker.core.errors import ConfigError
from worker.replay.sides import Data, Side
from worker.replay.trial import Trial
from worker.report.page import write_report
from worker.settings import Settings

ROOT = Path(__file__).parents[2]
UPLOT = ROOT / "worker" / "static" / "uplot"


def parsed(page: str) -> Element:
    """The page, read by a parser that refuses whatever is not right."""
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    root: Element = parser.parse(page)
    return root


def text(element: Element | None) -> str:
    assert element is not None
    return re.sub(r"\s+", " ", "".join(element.itertext())).strip()


def rows_of(root: Element, table: str) -> dict[str, list[str]]:
    body = root.find(f".//table[@id='{table}']/tbody")
    assert body is not None
    return {row[0]: row[1:] for row in ([text(cell) for cell in line] for line in body)}


def listed(root: Element) -> dict[str, str]:
    """Terms and what is said of them."""
    terms, said = root.findall(".//dt"), root.findall(".//dd")
    return {text(term): text(one) for term, one in zip(terms, said, strict=True)}


def chart_data(root: Element) -> dict[str, object]:
    element = root.find(".//script[@id='chart-data']")
    assert element is not None
    found: dict[str, object] = json.loads(element.text or "")
    return found


def test_the_verdict_is_three_sentences_that_count_what_the_tables_hold(plain: Backtested) -> None:
    root = parsed(plain.page)
    episodes = pl.read_parquet(plain.out / "episodes.parquet")
    sentences = root.findall(".//div[@role='status']/p")
    assert len(sentences) == 3
    assert f"machine-health/1.0.0 told {len(episodes):,} episodes:" in text(sentences[0])
    assert "Nobody has said which of them were true" in text(sentences[1])
    rows = rows_of(root, "figures")
    assert rows["episodes told"] == [f"{len(episodes):,}"]
    assert "recall" not in rows


def test_without_truth_other_or_sweep_the_page_has_no_place_for_them(plain: Backtested) -> None:
    root = parsed(plain.page)
    assert not {"truth", "sweep", "gate"} & {t.get("id") for t in root.findall(".//table")}
    headings = [text(h) for h in root.findall(".//h2")]
    assert headings == [
        "Figures",
        "Machine by machine",
        "What the episodes rest on",
        "Have the data drifted?",
        "Quality of the data",
        "Made from",
    ]


def test_the_page_allows_its_own_scripts_and_style_by_hash_and_no_request(
    plain: Backtested,
) -> None:
    root = parsed(plain.page)
    meta = root.find(".//meta[@http-equiv='Content-Security-Policy']")
    assert meta is not None
    rules = dict(rule.strip().split(" ", 1) for rule in (meta.get("content") or "").split(";"))
    assert rules["default-src"] == "'none'"
    scripts = [s for s in root.iter("script") if s.get("type") is None]
    assert rules["script-src"].split() == [source_hash(s.text) for s in scripts]
    assert rules["style-src"].split() == [source_hash(s.text) for s in root.iter("style")]
    assert set(rules) == {"default-src", "base-uri", "form-action", "style-src", "script-src"}
    assert not [e for e in root.iter() if {"src", "href", "style"} & set(e.attrib)]


def source_hash(content: str | None) -> str:
    digest = hashlib.sha256((content or "").encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def test_a_hostile_machine_is_a_name_and_nothing_else(plain: Backtested) -> None:
    root = parsed(plain.page)
    tags = {element.tag for element in root.iter() if isinstance(element.tag, str)}
    assert not tags & {"img", "iframe", "object", "link", "b"}
    machines = chart_data(root)["machines"]
    assert isinstance(machines, list)
    assert HOSTILE in {machine["id"] for machine in machines}
    assert "<b>now<b>" in text(root.find(".//p"))


def test_versions_and_hashes_are_those_of_the_files(plain: Backtested) -> None:
    made = listed(parsed(plain.page))
    data_hash = hashlib.sha256(plain.data.read_bytes()).hexdigest()
    assert made["data sha256"] == f"{data_hash} ({plain.data.stat().st_size:,} bytes)"
    manifest = ROOT / "models" / "machine-health" / "1.0.0" / "model.toml"
    assert made["model sha256"].startswith(hashlib.sha256(manifest.read_bytes()).hexdigest())
    for name in ("scores.parquet", "episodes.parquet"):
        digest = hashlib.sha256((plain.out / name).read_bytes()).hexdigest()
        assert f"{name} {digest}" in made["results"]


def trial(data: Path, out: Path) -> Trial:
    return Trial(Data(data), Side("machine-health", Settings()), out)


def test_the_same_results_give_the_same_page(plain: Backtested) -> None:
    before = plain.page
    write_report(trial(plain.data, plain.out))
    assert plain.page == before


def test_data_that_the_scores_are_not_of_are_refused(plain: Backtested, tmp_path: Path) -> None:
    shorter = tmp_path / "shorter.parquet"
    pl.read_parquet(plain.data).head(-1).write_parquet(shorter)
    with pytest.raises(ConfigError, match="has not the rows"):
        write_report(trial(shorter, plain.out))


def test_data_without_a_machine_give_a_page_without_charts(tmp_path: Path) -> None:
    data, out = tmp_path / "none.csv", tmp_path / "out"
    data.write_text(
        "machine_id,timestamp,vibration,temperature,rotational_speed,torque,tool_wear\n"
    )
    command = f"backtest --data {data} --model machine-health --out {out}"
    assert run(command.split()) == 0
    root = parsed((out / "report.html").read_text())
    assert chart_data(root)["machines"] == []
    assert root.find(".//div[@id='charts']") is None


def test_uplot_is_the_released_one_and_has_its_licence() -> None:
    documented = (ROOT / "docs" / "dependencies.md").read_text()
    for path in UPLOT.iterdir():
        assert f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" in documented
    assert "The MIT License" in (UPLOT / "LICENSE").read_text()


def test_what_is_marked_is_what_the_summary_counts(judged: Backtested) -> None:
    summary = json.loads((judged.out / "summary.json").read_text())
    machines = chart_data(parsed(judged.page))["machines"]
    assert isinstance(machines, list)
    right = [one[4] for machine in machines for one in machine["episodes"]]
    assert right.count(True) == summary["truth"]["true_alarms"] > 0
    assert right.count(False) == summary["truth"]["false_alarms"]
    missed = [one for machine in machines for one in machine["truth"] if not one[3]]
    assert len(missed) == summary["truth"]["missed"]
    assert sum(machine["missed"] for machine in machines) == len(missed)
    told = [max(len(machine["episodes"]), len(machine["others"])) for machine in machines]
    worst = [(-machine["missed"], -n) for machine, n in zip(machines, told, strict=True)]
    assert worst == sorted(worst)


def test_a_comparison_shows_gate_sweep_truth_and_what_one_side_alone_told(
    judged: Backtested,
) -> None:
    root = parsed(judged.page)
    summary = json.loads((judged.out / "summary.json").read_text())
    figures = rows_of(root, "figures")
    found = [summary["truth"]["found"], summary["against"]["true_episodes"]]
    assert figures["true episodes found"][0].startswith(f"{found[0]} of ")
    assert len(figures["recall"]) == 2
    assert list(rows_of(root, "gate")) == ["recall < 0.01", "episodes < 0"]
    assert list(rows_of(root, "sweep")) == ["0.01", "5"]
    alone = root.findall(".//table[@id='alone']/tbody/tr")
    told = pl.read_parquet(judged.out / "against" / "episodes.parquet")
    ours = pl.read_parquet(judged.out / "episodes.parquet")
    assert len(told) > len(ours)
    assert len(alone) >= len(told) - len(ours)
    assert {text(row[1]) for row in alone} <= {"these settings", "the others"}
    labels = {text(row[3]) for row in root.findall(".//table[@id='truth']/tbody/tr")}
    assert labels
    assert all(label.startswith("<i>") for label in labels)
    made = listed(root)
    assert "detection.budget = 5.0" in made["other settings"]
    assert made["settings sha256"] != made["other settings sha256"]
    assert len(made["truth sha256"].split()[0]) == 64


def test_drift_is_told_as_the_summary_counts_it(plain: Backtested) -> None:
    root = parsed(plain.page)
    counts = json.loads((plain.out / "summary.json").read_text())["drift"]
    events = pl.read_parquet(plain.out / "drift.parquet")
    assert len(events) == counts["events"] > 0
    said = [text(p) for p in root.findall(".//p")]
    told = f"{counts['windows_with_drift']:,} of {counts['windows']:,} windows differ"
    assert any(sentence.startswith(told) for sentence in said)
    assert len(root.findall(".//table[@id='drift']/tbody/tr")) == min(len(events), 12)
    charts = chart_data(root)["drift"]
    assert isinstance(charts, list)
    windows = pl.read_parquet(plain.out / "drift_windows.parquet").filter(
        pl.col("group") == "fleet", ~pl.col("verdict").is_in(["blind", "sparse"])
    )
    assert len(charts) == windows["window_s"].n_unique() > 0
    assert max(max(chart["score"]) for chart in charts) == windows["score"].max()
    assert any(any(chart["drift"]) for chart in charts)
