"""What the drift agent does with its input: partials in, drift events and requests out.

agent    a chunk of partials applied to the monitors of their groups
state    the monitors of a partition, and their rows in the changelog
words    what a monitor says, as messages
"""

from worker.core.drifting.agent import Drifting, DriftOutputs
from worker.core.drifting.state import DriftState, DriftStateReader, Monitors

__all__ = ["DriftOutputs", "DriftState", "DriftStateReader", "Drifting", "Monitors"]
