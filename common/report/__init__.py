"""Reports: one HTML page that needs nothing but itself."""

from common.report.evaluation import EvaluationReport, ScoredSet
from common.report.examples import Example, choose_examples

__all__ = ["EvaluationReport", "Example", "ScoredSet", "choose_examples"]
