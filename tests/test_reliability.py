"""docs/reliability.md promises nothing that no test holds."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from worker.settings import setting_keys

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "reliability.md").read_text()


def test_every_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    existing = {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert named
    assert named - existing == set()


def test_every_promise_names_its_test_and_every_setting_exists() -> None:
    promises = TEXT.partition("## Promises")[2].partition("\n## ")[0]
    rows = [line for line in promises.splitlines() if line.startswith("| **")]
    assert rows
    for row in rows:
        *_, under, tested_by, _ = row.split("|")
        assert re.search(r"`(test_\w+|make \w+)`", tested_by), row
        for name in re.findall(r"`([a-z_]+)(?:`| =)", under):
            assert f"worker.{name}" in setting_keys(), name


def test_every_make_target_that_the_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", TEXT)) - targets == set()
