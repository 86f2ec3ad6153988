"""The predictor of an experiment with all folds: the mean of the predictors of its folds.

predictor.json   the labels, which folds there are, and how they are averaged
fold_<k>/        the predictor of fold k, a folder that stands alone
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.experiment import JSON_FILE, read_predictor_json
from common.predictors.base import (
    AbstractPredictor,
    LoadPart,
    Networks,
    PredictOptions,
    RowLogits,
)
from common.predictors.composed import ComposedPredictor, mean_study_prior
from common.scoring.metrics import Floats
from common.scoring.predictions import LogitMean, Mean
from common.slices.table import SliceTable

# What all members agree on and readers of predictor.json look for, beside what all predictors have.
_SHARED = ("model", "slice_offsets", "offsets_mm", "study_rule")


@dataclass
class FoldsPredictor(ComposedPredictor):
    """The mean over the predictors of several folds, of any kind; see the base for what all have.

    All folds predict from the same views, and average these as they are asked to.

    Attributes:
        members: the predictor of each fold.
        mean: whether logits or probabilities are averaged over the folds.
    """

    asks_alike: ClassVar[bool] = True
    kind: ClassVar[str] = "folds"
    members: Mapping[int, AbstractPredictor]
    mean: Mean = "logits"
    label_names: Sequence[str] = field(init=False)
    label_weights: Sequence[float] = field(init=False)
    prior: Floats = field(init=False)
    study_prior: Floats | None = field(init=False)

    def __post_init__(self) -> None:
        assert self.members, "folds need members"
        first = next(iter(self.members.values()))
        self.label_names = tuple(first.label_names)
        self.label_weights = tuple(first.label_weights)
        for member in self.members.values():
            assert tuple(member.label_names) == self.label_names, "folds differ in labels"
        self.prior = np.mean([member.prior for member in self.members.values()], axis=0)
        self.study_prior = mean_study_prior(self.members.values())

    @property
    def series_rule(self) -> str | None:
        """That of its members, whose own logits of series it averages."""
        return next(iter(self.members.values())).series_rule

    @property
    def parts(self) -> Mapping[str, AbstractPredictor]:
        return {f"fold_{fold}": member for fold, member in self.members.items()}

    def _own_json(self, folder: Path) -> dict[str, Any]:
        first = read_predictor_json(folder / next(iter(self.parts)))
        return {
            "fold_priors": {
                str(fold): self._by_label(member.prior) for fold, member in self.members.items()
            },
            "folds": list(self.members),
            "mean": self.mean,
            **{name: first[name] for name in _SHARED if name in first},
        }

    @classmethod
    def from_folder(
        cls, folder: Path, content: dict[str, Any], networks: Networks, load: LoadPart
    ) -> Self:
        members = {int(fold): load(folder / f"fold_{fold}") for fold in content["folds"]}
        for fold, member in members.items():
            if list(member.label_names) != content["label_names"]:
                raise InputError(f"{folder / f'fold_{fold}'} has other labels than {JSON_FILE}")
        shared = cls._shared_fields(content)
        of_members = ("label_names", "label_weights", "prior", "study_prior")
        own = {name: value for name, value in shared.items() if name not in of_members}
        return cls(members, content["mean"], **own)

    def _predict(
        self, table: SliceTable, rows: NDArray[np.int64], options: PredictOptions
    ) -> RowLogits:
        results, unreadable = self._predict_parts(table, rows, options)
        total, of_series = LogitMean(self.mean), LogitMean(self.mean)
        for member, result in zip(self.members.values(), results, strict=True):
            calibration = member.calibration
            total.add(calibration.apply(result.logits) if calibration else result.logits)
            if result.series_logits is not None:
                of_series.add(result.series_logits)
        own = None
        if all(result.series_logits is not None for result in results):
            own = of_series.result().astype(np.float32)
        return self.filled(total.result(), unreadable, series_logits=own)
