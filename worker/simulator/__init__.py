"""Simulated machines with known faults.

Everything is a function of the seed: the same simulator gives the same events,
however its output is fetched. No clock, broker or file is touched here.
"""

from worker.simulator.changes import FleetChange
from worker.simulator.faults import Fault, FaultRates
from worker.simulator.stream import Simulator
from worker.simulator.truth import FaultReport, OpenedEpisode, Truth, match_faults

__all__ = [
    "Fault",
    "FaultRates",
    "FaultReport",
    "FleetChange",
    "OpenedEpisode",
    "Simulator",
    "Truth",
    "match_faults",
]
