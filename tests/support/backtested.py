"""Results of a backtest, and names that pages have to survive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HOSTILE = "</script><img src=x onerror=alert(1)>&amp;\u2028'\""


@dataclass(frozen=True)
class Backtested:
    """Data and the results folder of their backtest."""

    data: Path
    out: Path

    @property
    def page(self) -> str:
        """The report."""
        return (self.out / "report.html").read_text("utf-8")
