"""Flags of the comparison of experiments, of the search for drift, and of reviews."""

from dataclasses import dataclass
from typing import Literal

from common.errors import InputError
from flags.parsing import Switch, above, at_least, require


@dataclass(frozen=True)
class ComparisonConfig:
    """What scripts/compare.py compares, on patients that all have scored."""

    ev_experiments: str | None = None
    """Two or more, separated by commas, the others with the first: ids of experiments, folders of
    predictors, or prediction tables. On --data_dataset the evaluation of each counts, but for
    experiments of that dataset, whose out-of-fold or validation predictions do."""
    ev_margin: float | None = None
    """How much worse than the first is still no loss, in units of --ev_margin_score: says which
    experiments are not worse than that (none: differences only)."""
    ev_margin_score: Literal["auc", "weighted_log_loss", "brier"] = "auc"
    """The score that --ev_margin is of."""

    def __post_init__(self) -> None:
        if self.ev_margin is not None:
            above(self, 0, "ev_margin")

    @property
    def names(self) -> list[str]:
        """The experiments, in the order given; InputError where there are fewer than two."""
        names = [name.strip() for name in (self.ev_experiments or "").split(",") if name.strip()]
        if len(names) < 2 or len(set(names)) < len(names):
            raise InputError(
                "--ev_experiments needs two or more different experiments, such as 0001,0002"
            )
        return names


@dataclass(frozen=True)
class DriftConfig:
    """New studies that scripts/drift.py compares with the reference of a predictor."""

    dr_input: str | None = None
    """Output folder of predict.py, or a prepared dataset."""
    dr_predictions: str | None = None
    """Output folder of predict.py with the predictions of that dataset (default: those of its
    evaluation, else headers and pixels alone are compared)."""
    dr_fit: Switch = 0
    """1: make these studies the reference, in place of those that the training kept."""
    dr_false_alarms: float = 0.05
    """Share of comparisons of studies like the reference that end with an alarm."""
    dr_permutations: int = 1999
    """Permutations of the test: no p-value is below 1 / (1 + this)."""

    def __post_init__(self) -> None:
        rate = self.dr_false_alarms
        require(self, "dr_false_alarms", 0 < rate <= 0.5, "greater than 0, at most 0.5")
        at_least(self, 99, "dr_permutations")
        if rate * (1 + self.dr_permutations) < 1:
            raise InputError(
                f"--dr_permutations {self.dr_permutations}: can't tell a rate of {rate:g}: at "
                f"least {round(1 / rate)}"
            )


@dataclass(frozen=True)
class ReviewConfig:
    """The predictions that scripts/review.py makes pages of, and what is ticked in these."""

    rv_predictions: str | None = None
    """Output folder of predict.py, in place of an experiment or a predictor."""
    rv_num: int = 10
    """Most pages of each kind: likely label errors, slices unlike their neighbours, uncertain."""
    rv_ticks: str | None = None
    """Write no pages, but the labels of the dataset with what was ticked in them: csv files that
    pages saved, or folders with these, with commas between them."""

    def __post_init__(self) -> None:
        at_least(self, 1, "rv_num")
