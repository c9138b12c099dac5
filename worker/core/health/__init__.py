"""Sensor health: sensors that fail, told apart from machines that fail.

:mod:`profile` is what training showed to be usual, :mod:`kernel` follows the readings of
each machine, :mod:`follow` is what the pipeline calls, :mod:`words` says it to people.
"""

from worker.core.health.follow import FIELDS, Health, Transition
from worker.core.health.profile import HealthProfile, learn_profile
from worker.core.health.words import sensor_health

__all__ = ["FIELDS", "Health", "HealthProfile", "Transition", "learn_profile", "sensor_health"]
