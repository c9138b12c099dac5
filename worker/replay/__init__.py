"""Recorded readings through the worker's own pipeline.

For notebooks and scripts: ``from worker.replay import run_backtest, explain, Spark``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.replay.engine import Spark
    from worker.replay.notebook import Results, explain, run_backtest

__all__ = ["Results", "Spark", "explain", "run_backtest"]


def __getattr__(name: str) -> Any:
    # Only when asked for: the command line starts without polars and pyarrow.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "Spark":
        from worker.replay.engine import Spark

        return Spark
    from worker.replay import notebook

    return getattr(notebook, name)
