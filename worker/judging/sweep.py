"""A row of values for one setting: ``threshold=-0.2:0.0:0.02``, ``budget=0.01,0.1,1``.

Owns how they are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from worker.core.errors import ConfigError

SHORT = {"threshold": "detection.threshold", "budget": "detection.budget"}
SECTIONS = ("detection.", "episodes.")
MOST_POINTS = 200


@dataclass(frozen=True)
class Sweep:
    """What is swept.

    Attributes:
        key: as it was written.
        setting: its dotted key.
        values: in the order given.
    """

    key: str
    setting: str
    values: tuple[int | float, ...]

    def settings(self) -> list[dict[str, int | float | None]]:
        """What each value overrides; a budget also a threshold that is pinned."""
        unpinned = {SHORT["threshold"]: None} if self.setting == SHORT["budget"] else {}
        return [{**unpinned, self.setting: value} for value in self.values]


def parse_sweep(text: str, settings: Sequence[str]) -> Sweep:
    """Understand ``KEY=FROM:TO:STEP``, both ends included, or ``KEY=A,B,C``.

    Args:
        settings: every dotted key there is.

    Raises:
        ConfigError: saying what to write.
    """
    key, _, written = (part.strip() for part in text.partition("="))
    possible = [name for name in settings if name.startswith(SECTIONS)]
    setting = SHORT.get(key, key)
    if setting not in possible:
        raise ConfigError(
            f"--sweep: {key!r} cannot be swept; write one of {', '.join([*SHORT, *possible])}."
        )
    try:
        values = _values(written)
    except (ValueError, InvalidOperation) as error:
        raise ConfigError(
            f"--sweep: {text!r} has no row of numbers; write {key}=FROM:TO:STEP or {key}=A,B,C."
        ) from error
    if len(values) > MOST_POINTS:
        raise ConfigError(
            f"--sweep: {text!r} has {len(values):,} values, and each is a backtest of its own; "
            f"write at most {MOST_POINTS}."
        )
    whole = [int(value) if value == int(value) else float(value) for value in values]
    return Sweep(key, setting, tuple(whole))


def _values(text: str) -> Sequence[Decimal]:
    """Decimals, so that ten steps of 0.02 are 0.2."""
    parts = [Decimal(part) for part in text.split(":")] if ":" in text else []
    if not parts:
        values = [Decimal(part) for part in text.split(",")]
        if not all(value.is_finite() for value in values):
            raise ValueError(text)
        return values
    first, last, step = parts
    if not all(part.is_finite() for part in parts) or step <= 0 or last < first:
        raise ValueError(text)
    return [first + step * i for i in range(min(int((last - first) / step), MOST_POINTS) + 1)]


def point(value: float, summary: dict[str, Any], figures: dict[str, Any] | None) -> dict[str, Any]:
    """A row of the table.

    Args:
        summary: of the backtest with this value.
        figures: from :func:`verdict.figures`; None: nothing is known.
    """
    names = ("recall", "precision", "false_alarms_per_machine_day")
    return {
        "value": value,
        "episodes": summary["episodes"],
        "episodes_per_machine_day": summary["episodes_per_machine_day"],
        **{name: None if figures is None else figures[name] for name in names},
    }
