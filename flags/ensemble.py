"""Flags of what is fitted on predictions: blends, second levels, pseudo-labels."""

import re
from dataclasses import dataclass, field
from typing import Literal

from common.errors import InputError
from flags.parsing import Switch, above, at_least, between, names_folder, require


@dataclass(frozen=True)
class EnsembleConfig:
    """How experiments are blended; what is fitted is fitted on other folds than it is scored on."""

    ens_experiments: str | None = None
    """Members, separated by commas: ids of experiments with predictions/oof.parquet (or, of one
    fold, valid.parquet), such as 0003,0004, or paths of such tables (test.parquet beside them), or
    of predictors that evaluate.py has evaluated on --data_dataset."""
    ens_method: Literal["mean", "geometric", "rank", "power", "weights", "stacking"] = "mean"
    """mean of probabilities; geometric: of the odds; rank: of ranks, as a probability again; power:
    (mean of p^a)^(1/a); weights: the best ones per label; stacking: logistic regression per label
    on the members' logits."""
    ens_power: float = 0.5
    """power: the exponent a, not 0; 1 is the mean."""
    ens_space: Literal["probability", "logit"] = "probability"
    """weights: whether they add probabilities or logits."""
    ens_weight_sum_min: float = 1.0
    """weights: they are at least 0, and their sum lies between this and 1 (some systems: 0.98)."""
    ens_stack_c: float = 1.0
    """stacking: inverse strength of the ridge."""
    ens_consistency: Switch = 0
    """1: raise `any` to the largest subtype, after calibrating."""
    ens_calibration: Literal["none", "temperature", "isotonic"] = "none"
    """Calibration of the blend per label: temperature and bias, or a rising step function."""
    ens_studies: Switch = 1
    """1: probabilities of studies come from a calibrator per label on the largest probability of
    the slices, the mean of the top three and their number; 0: they are the largest."""
    stack_nested: Switch = 0
    """1: fit on predictions of members that saw neither the fold that is scored nor the fold that
    they predict; the trainings that are missing are listed. Experiments of all folds only."""

    def __post_init__(self) -> None:
        require(self, "ens_power", self.ens_power != 0, "other than 0")
        between(self, 0.5, 1, "ens_weight_sum_min")
        above(self, 0, "ens_stack_c")

    @property
    def members(self) -> list[str]:
        """The members, in the order given; InputError where there are none, or one twice."""
        names = [name.strip() for name in (self.ens_experiments or "").split(",") if name.strip()]
        if not names:
            raise InputError("--ens_experiments is missing: say which, such as 0003,0004")
        if len(set(names)) < len(names):
            raise InputError(f"--ens_experiments {self.ens_experiments}: names a member twice")
        return names


@dataclass(frozen=True)
class PseudoLabelConfig:
    """Which slices of --pl_source get labels of --experiment_id, and join --data_dataset."""

    pl_name: str | None = None
    """Name of the new dataset."""
    pl_source: str | None = None
    """Dataset whose slices get labels (default: the test of --data_dataset)."""
    pl_predictions: str | None = None
    """Prediction table (default: predictions/test.parquet of the experiment; with --pl_source its
    evaluations/<source>/predictions.parquet)."""
    pl_labels: Literal["hard", "soft", "given"] = "hard"
    """hard: 0 and 1; soft: probabilities; given: no model, the labels that pl_source has."""
    pl_num_patients: int = 0
    """given: so many patients of pl_source, drawn by --seed (0: all), so that they do not outweigh
    those of data_dataset."""
    pl_positive: list[float] = field(default_factory=lambda: [0.9])
    """Probability from which on a label is sure: one number, or one for each label, such as
    [0.5,0.9,0.9,0.9,0.9,0.9]."""
    pl_negative: list[float] = field(default_factory=lambda: [0.1])
    """Probability up to which its absence is sure, in the same form. Both 0.5: all are sure."""
    pl_partial: Switch = 0
    """1: slices of which some labels are sure come in too, the others unknown to the loss; 0: only
    those of which all are."""
    pl_use_studies: Switch = 0
    """1: where a study of pl_source is known not to have a label, its slices have not either."""

    def __post_init__(self) -> None:
        for name in ("pl_positive", "pl_negative"):
            values = getattr(self, name)
            inside = bool(values) and all(0 <= value <= 1 for value in values)
            require(self, name, inside, "numbers from 0 to 1")
        at_least(self, 0, "pl_num_patients")
        names_folder(self, "pl_name")


@dataclass(frozen=True)
class SecondLevelConfig:
    """What scripts/second_level.py makes of the out-of-fold predictions of slice experiments."""

    sl_method: Literal["smooth", "boosting"] = "smooth"
    """smooth: a moving average along the series, its width chosen per label on the other folds;
    boosting: gradient-boosted trees (LightGBM) over the predictions of neighbouring slices."""
    sl_experiments: str = ""
    """Experiments below it, such as 0003 or 0003,0004: trained with --data_fold all on one
    dataset."""
    sl_smooth_kernel: Literal["gaussian", "uniform", "exponential"] = "gaussian"
    """Weights of the moving average by distance."""
    sl_smooth_unit: Literal["slices", "mm"] = "slices"
    """Unit of its widths: slices, or mm along the slice normal."""
    sl_smooth_space: Literal["probabilities", "logits"] = "probabilities"
    """What is averaged."""
    sl_smooth_widths: list[float] = field(
        default_factory=lambda: [0.4, 0.55, 0.7, 0.85, 1.0, 1.25, 1.5, 2.0, 3.0, 4.5]
    )
    """Widths to choose from: the standard deviation of gaussian, the reach to each side of uniform,
    the distance at which exponential has fallen to 1/e. None at all (0) is always among them."""
    sl_neighbors: int = 9
    """boosting: slices on each side whose predictions the trees see."""
    sl_rounds: int = 400
    """boosting: trees per label and fold, at most."""
    sl_patience: int = 30
    """boosting: rounds without improvement in a cross-validation within the training folds after
    which the number of trees is settled (0: always sl_rounds)."""
    sl_learning_rate: float = 0.03
    """boosting: learning rate of the trees."""
    sl_num_leaves: int = 15
    """boosting: leaves of a tree."""
    sl_min_leaf: int = 40
    """boosting: the fewest slices in a leaf."""

    def __post_init__(self) -> None:
        ids = self.experiment_ids
        valid = all(re.fullmatch(r"[A-Za-z0-9_-]+", name) for name in ids)
        require(self, "sl_experiments", valid, "ids of experiments, such as 0003,0004")
        require(self, "sl_experiments", len(set(ids)) == len(ids), "different experiments")
        widths = self.sl_smooth_widths
        rule = "some widths, each greater than 0"
        require(self, "sl_smooth_widths", widths and min(widths) > 0, rule)
        at_least(self, 0, "sl_neighbors", "sl_patience")
        at_least(self, 1, "sl_rounds", "sl_min_leaf")
        at_least(self, 2, "sl_num_leaves")
        above(self, 0, "sl_learning_rate")

    @property
    def experiment_ids(self) -> list[str]:
        return self.sl_experiments.split(",") if self.sl_experiments else []
