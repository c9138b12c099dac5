"""What is followed of each machine beside its panes: the fields of all who follow it."""

from __future__ import annotations

from worker.core import episodes, health, maintenance
from worker.core.channels import ChannelSpec
from worker.core.detection import detector
from worker.core.table import Field, Fields, MachineTable

MODEL = {"model": Field("<u4")}
"""Fingerprint of the bundle whose baseline the machine's detection goes by; 0: none yet."""


def machine_fields() -> Fields:
    """All fields of a machine's row, in order."""
    return {**MODEL, **maintenance.FIELDS, **health.FIELDS, **detector.FIELDS, **episodes.FIELDS}


def machine_table(spec: ChannelSpec) -> MachineTable:
    """An empty table with these fields."""
    lengths = {"channel": len(spec.continuous), "signal": len(spec.signals)}
    return MachineTable(machine_fields(), lengths)
