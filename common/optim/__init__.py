"""Optimizers and schedules by name."""

from common.optim.groups import parameter_groups, state_in_groups
from common.optim.optimizers import OPTIMIZERS, make_optimizer
from common.optim.schedules import IterationScheduler, Schedule, make_schedule

__all__ = [
    "OPTIMIZERS",
    "IterationScheduler",
    "Schedule",
    "make_optimizer",
    "make_schedule",
    "parameter_groups",
    "state_in_groups",
]
