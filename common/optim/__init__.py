"""Optimizers and schedules by name."""

from common.optim.optimizers import make_optimizer
from common.optim.schedules import make_schedule

__all__ = ["make_optimizer", "make_schedule"]
