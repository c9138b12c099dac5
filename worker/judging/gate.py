"""Conditions that a backtest must not meet: ``false_alarms_per_machine_day > 0.1``.

Owns how they are written, what their names mean, and ``junit.xml``.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args
from xml.etree import ElementTree as ET

from worker.core.errors import ConfigError
from worker.core.messages import DeadLetterReason, HealthKind

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
SHORT = {
    "recall": "truth.recall.value",
    "precision": "truth.precision.value",
    "false_alarms": "truth.false_alarms",
    "false_alarms_per_machine_day": "truth.false_alarms_per_machine_day.value",
    "delay_s": "truth.delay_s.median",
    "roc_auc": "truth.rows.roc_auc",
    "pr_auc": "truth.rows.pr_auc",
    "f1": "truth.rows.f1",
}
OPTIONS = {"truth": "--truth", "against": "--against"}
"""What has to be asked for to have keys of this kind."""
COUNTED: dict[str, Any] = {"health": HealthKind, "dead_letters": DeadLetterReason}
"""Keys whose counts are 0 where they are not said."""
_CONDITION = re.compile(
    r"\s*(?P<name>[\w.-]+)\s*(?P<operator><=|>=|==|!=|<|>)\s*"
    r"(?P<number>[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)\s*"
)


@dataclass(frozen=True)
class Condition:
    """One condition.

    Attributes:
        text: as it was written.
        key: dotted key of the summary.
    """

    text: str
    key: str
    operator: str
    number: float


def parse_condition(text: str) -> Condition:
    """Understand NAME, a comparison and a number.

    Raises:
        ConfigError: it is something else.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"--fail-if: {text!r} is no condition; write a name, one of {' '.join(OPERATORS)}, and "
            'a number, such as "false_alarms_per_machine_day > 0.1".'
        )
    name = match["name"]
    return Condition(text.strip(), SHORT.get(name, name), match["operator"], float(match["number"]))


def require_options(conditions: Iterable[Condition], given: Iterable[str]) -> None:
    """Refuse conditions on what was not asked for, before anything is done.

    Args:
        given: keys of :data:`OPTIONS`.

    Raises:
        ConfigError: naming the option.
    """
    for condition in conditions:
        section = condition.key.partition(".")[0]
        if section in OPTIONS and section not in given:
            raise ConfigError(
                f"--fail-if: {condition.text!r} goes by {condition.key}, which is only there with "
                f"{OPTIONS[section]}; give that too."
            )


def judge(conditions: Iterable[Condition], summary: Mapping[str, Any]) -> dict[str, Any]:
    """Hold conditions against a summary.

    Returns:
        ``passed``, and ``conditions`` with ``text``, ``value`` and ``failed`` of each.

    Raises:
        ConfigError: a name is none of the summary's, or has no value in it.
    """
    values = dict(_numbers(summary))
    for section, kinds in COUNTED.items():
        if section in summary:
            values = {f"{section}.{kind}": 0 for kind in get_args(kinds)} | values
    found = []
    for condition in conditions:
        value = _value(condition, values)
        failed = OPERATORS[condition.operator](value, condition.number)
        found.append({"text": condition.text, "value": value, "failed": failed})
    return {"passed": not any(one["failed"] for one in found), "conditions": found}


def _value(condition: Condition, values: Mapping[str, float | None]) -> float:
    value = values.get(condition.key)
    if value is not None:
        return value
    short = [name for name, key in SHORT.items() if values.get(key) is not None]
    there = ", ".join([*short, *(key for key, value in values.items() if value is not None)])
    what = "has no value here" if condition.key in values else "is nothing that summary.json says"
    raise ConfigError(f"--fail-if: {condition.text!r}: {condition.key} {what}; there are {there}.")


def _numbers(summary: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float | None]]:
    """Dotted keys of everything that is a number or null."""
    for key, value in summary.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}.")
        elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            yield prefix + key, value


def junit(gate: Mapping[str, Any]) -> bytes:
    """The conditions as test cases, as CI systems read them."""
    failures = sum(one["failed"] for one in gate["conditions"])
    counts = {"tests": str(len(gate["conditions"])), "failures": str(failures), "errors": "0"}
    root = ET.Element("testsuites", counts)
    suite = ET.SubElement(root, "testsuite", {"name": "backtest", **counts})
    for one in gate["conditions"]:
        name = f"not {one['text']}"
        case = ET.SubElement(suite, "testcase", classname="backtest", name=name, time="0")
        if one["failed"]:
            message = f"{one['text']}: it is {one['value']:g}"
            ET.SubElement(case, "failure", message=message, type="condition")
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"
