"""Cheap second levels over the predictions of a series' slices: moving averages, boosted trees."""

from common.second_level.inputs import LevelInputs
from common.second_level.sequences import SliceSequences
from common.second_level.smoothing import Smoothing

__all__ = ["LevelInputs", "SliceSequences", "Smoothing"]
