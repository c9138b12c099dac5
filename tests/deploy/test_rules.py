"""What is deployed beside DriftDetector says only what DriftDetector has."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from ruamel.yaml import YAML

from load.local_kafka import CHECKOUT
from tests.support.installed import need
from worker.api.metrics import ApiMetrics
from worker.drift_metrics import DriftMetrics
from worker.metrics import Metrics
from worker.online.metrics import OnlineMetrics

DEPLOY = CHECKOUT / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
NOT_OURS = {"up"}
# What PromQL itself is made of, and names of labels.
WORDS = set(
    re.findall(
        r"\w+",
        """and by on or unless offset ignoring sum min max count rate increase deriv topk vector
        histogram_quantile clamp_min job instance le group window feature features_source
        endpoint kind status reason channel partition version verdict fate""",
    )
)


def alerts() -> list[dict[str, Any]]:
    (group,) = YAML(typ="safe").load(RULES)["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def queries(path: Path) -> list[str]:
    panels = json.loads(path.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def metrics_in(query: str) -> set[str]:
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\"[^\"]*\"", " ", query)
    return set(re.findall(r"[a-z_][a-z0-9_]*[a-z_]", bare)) - WORDS


def exposed() -> set[str]:
    online = CollectorRegistry()
    OnlineMetrics(online)
    registries = [Metrics().registry, DriftMetrics().registry, ApiMetrics("", "").registry, online]
    found: set[str] = set()
    for registry in registries:
        for family in registry.collect():
            suffixes = {
                "counter": ["_total"],
                "histogram": ["_bucket", "_count", "_sum"],
                "info": ["_info"],
            }
            found |= {family.name + suffix for suffix in suffixes.get(family.type, [""])}
    return found


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "rules.yml"),
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "rules.test.yml"),
    ],
)
def test_promtool_finds_nothing_wrong(arguments: tuple[str, ...]) -> None:
    need("promtool", "prometheus")
    done = subprocess.run(
        ["promtool", *arguments],
        cwd=RULES.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_that_fires_and_one_that_stays_quiet() -> None:
    cases = YAML(typ="safe").load(RULES.with_name("rules.test.yml"))["tests"]
    told: dict[str, set[bool]] = {}
    for case in cases:
        (one,) = case["alert_rule_test"]
        told.setdefault(one["alertname"], set()).add(bool(one["exp_alerts"]))
    assert told == {alert["alert"]: {True, False} for alert in alerts()}


def test_every_alert_has_a_section_in_the_runbook_and_every_section_an_alert() -> None:
    text = (CHECKOUT / "docs" / "runbook.md").read_text()
    sections = set(re.findall(r"^## (DriftDetector\w+)$", text, re.MULTILINE))
    assert sections == {alert["alert"] for alert in alerts()}
    for alert in alerts():
        anchor = alert["alert"].lower()
        assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{anchor}"
        assert alert["labels"]["severity"] in ("page", "ticket")


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_ask_for_metrics_that_there_are(path: Path) -> None:
    asked = set().union(*(metrics_in(query) for query in queries(path)))
    assert asked
    assert asked - exposed() - NOT_OURS == set()


def test_alerts_ask_for_metrics_that_there_are() -> None:
    asked = set().union(*(metrics_in(alert["expr"]) for alert in alerts()))
    assert asked - exposed() - NOT_OURS == set()


def test_every_panel_says_what_it_shows_and_in_what_unit() -> None:
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text())
        assert dashboard["uid"] == f"driftdetector-{path.stem}"
        for panel in dashboard["panels"]:
            assert panel["description"].endswith("."), panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["datasource"]["uid"] == "driftdetector"


def test_every_metric_is_described() -> None:
    text = (CHECKOUT / "docs" / "observability.md").read_text()
    described = set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE))
    ours = {
        re.sub(r"_(bucket|count|sum)$", "", name)
        for name in exposed()
        if not name.startswith(("process_", "python_"))
    }
    assert described == ours
