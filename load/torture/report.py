"""A campaign's table and its JSON."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.table import Table

from load.torture.campaign import Result
from load.torture.recovery import Injection
from load.verdict import Verdict


def figures(result: Result) -> dict[str, Any]:
    """The headline figures, and everything else under ``detail``."""
    plan = result.plan
    return {
        "kills": _count(result, "kill -9"),
        "rebalances": _count(result, "rebalance"),
        "zombies": _count(result, "zombie"),
        "broker_restarts": _count(result, "broker restart"),
        "network_cuts": _count(result, "network cut"),
        "lost": result.verdict.lost,
        "duplicated": result.verdict.duplicated,
        "state_identical": result.verdict.state_identical,
        "detail": {
            "passed": result.passed,
            "seed": plan.seed,
            "duration_s": round(result.duration_s, 1),
            "rows": [_row(kind, injections) for kind, injections in _by_kind(result).items()],
            "zombies": [{**asdict(z), "fenced": z.fenced} for z in result.zombies],
            "disturbed": asdict(result.verdict),
            "undisturbed": asdict(result.undisturbed),
            "worker_transactions": dict(result.transactions),
            "input_transactions_aborted": result.input_aborted,
            "recoveries_with_compaction": result.compacted,
            "changelog_records_written": result.changelog_written,
            "changelog_records_left": result.changelog_left,
            "exits": [e._asdict() for e in result.exits],
            "failures": result.failures,
        },
    }


def tables(result: Result) -> Group:
    """For people."""
    table = Table(
        title=f"torture, seed {result.plan.seed}, {result.duration_s:.0f} s", show_footer=True
    )
    injected = len(result.injections)
    recovered = sum(i.recovery_s is not None for i in result.injections)
    totals = [
        f"{injected}",
        f"{recovered}",
        f"{result.verdict.lost}",
        f"{result.verdict.duplicated}",
    ]
    table.add_column("", "all", no_wrap=True)
    for name, total in zip(("injected", "recovered", "lost", "duplicated"), totals, strict=True):
        table.add_column(name, total, justify="right")
    for name in ("recovery, median", "longest"):
        table.add_column(name, justify="right")
    for kind, injections in _by_kind(result).items():
        row = _row(kind, injections)
        times = [f"{row[key]:.1f} s" for key in ("median_s", "longest_s") if row[key] is not None]
        table.add_row(kind, f"{row['injected']}", f"{row['recovered']}", "", "", *times)
    changelog = (
        f"{result.changelog_written} records written, {result.changelog_left} left; "
        f"compacted during {result.compacted} of {injected} recoveries"
    )
    facts = Table.grid(padding=(0, 2))
    fenced = sum(zombie.fenced for zombie in result.zombies)
    committed, aborted = result.transactions["committed"], result.transactions["aborted"]
    for name, fact in (
        ("disturbed run", _sentence(result.verdict)),
        ("undisturbed run", _sentence(result.undisturbed)),
        ("zombies", f"{fenced} of {len(result.zombies)} fenced without a commit after waking up"),
        ("transactions", f"{committed} of the workers committed, {aborted} aborted"),
        ("", f"{result.input_aborted} aborted on the input topic"),
        ("changelog", changelog),
        ("ended by themselves", f"{len(result.exits)} workers, started again"),
        *(("failed", failure) for failure in result.failures),
        *(("wrong", example) for example in result.verdict.examples + result.undisturbed.examples),
    ):
        facts.add_row(name, fact)
    return Group(table, facts)


def _sentence(verdict: Verdict) -> str:
    state = "identical" if verdict.state_identical else "DIFFERENT"
    return (
        f"{verdict.records} events, {verdict.outputs} outputs: {verdict.lost} lost, "
        f"{verdict.duplicated} duplicated, state {state}"
    )


def _count(result: Result, kind: str) -> int:
    return sum(injection.kind == kind for injection in result.injections)


def _by_kind(result: Result) -> dict[str, list[Injection]]:
    kinds: dict[str, list[Injection]] = {}
    for injection in sorted(result.injections, key=lambda injection: injection.kind):
        kinds.setdefault(injection.kind, []).append(injection)
    return kinds


def _row(kind: str, injections: list[Injection]) -> dict[str, Any]:
    times_s = [i.recovery_s for i in injections if i.recovery_s is not None]
    return {
        "kind": kind,
        "injected": len(injections),
        "recovered": len(times_s),
        "median_s": round(statistics.median(times_s), 2) if times_s else None,
        "longest_s": round(max(times_s), 2) if times_s else None,
    }
