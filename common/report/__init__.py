"""Reports: one HTML page that needs nothing but itself."""

from common.report.evaluation import EvaluationReport, PlannedSchedule, ScoredSet
from common.report.examples import Example, choose_examples

__all__ = ["EvaluationReport", "Example", "PlannedSchedule", "ScoredSet", "choose_examples"]
