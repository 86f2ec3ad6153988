"""The predictor of an experiment with all folds: the mean of what its folds' predictors say.

predictor.json   the labels, which folds there are, and how they are averaged
fold_<k>/        the predictor of fold k, a folder that stands alone
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.experiment import JSON_FILE, read_predictor_json
from common.files import write_json
from common.predictors.base import (
    AbstractPredictor,
    BuildModel,
    PredictOptions,
    RowLogits,
    load_predictor,
)
from common.scoring.metrics import DEFAULT_THRESHOLD, Floats
from common.scoring.predictions import Calibration, LogitMean, Mean, prior_logits
from common.slices.table import SliceTable

logger = logging.getLogger(__name__)

# What all members agree on and readers of predictor.json look for, beside what all predictors have.
_SHARED = ("model", "slice_offsets", "offsets_mm")


@dataclass
class FoldsPredictor(AbstractPredictor):
    """The mean over the predictors of several folds, of any kind; see the base for what all have.

    All folds predict from the same views, and average these as they are asked to.

    Attributes:
        members: the predictor of each fold.
        mean: whether logits or probabilities are averaged over the folds.
    """

    kind: ClassVar[str] = "folds"
    members: Mapping[int, AbstractPredictor]
    mean: Mean = "logits"
    calibration: Calibration | None = None
    threshold: float = DEFAULT_THRESHOLD
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.members, "folds need members"
        first = next(iter(self.members.values()))
        self.label_names: Sequence[str] = tuple(first.label_names)
        self.label_weights: Sequence[float] = tuple(first.label_weights)
        for member in self.members.values():
            assert tuple(member.label_names) == tuple(self.label_names), "folds differ in labels"
        self.prior: Floats = np.mean([member.prior for member in self.members.values()], axis=0)

    @property
    def num_networks(self) -> int:
        """Networks that see each slice."""
        return sum(member.num_networks for member in self.members.values())

    def save(self, folder: Path) -> None:
        """Writes the members into folders of their own, then predictor.json."""
        for fold, member in self.members.items():
            member.save(folder / f"fold_{fold}")
        first = read_predictor_json(folder / f"fold_{next(iter(self.members))}")
        calibration = self.calibration
        content = {
            **self._shared_json(),
            "fold_priors": {
                str(fold): dict(zip(self.label_names, member.prior.tolist(), strict=True))
                for fold, member in self.members.items()
            },
            "folds": list(self.members),
            "mean": self.mean,
            **{name: first[name] for name in _SHARED if name in first},
            "calibration": calibration and calibration.to_json(),
        }
        write_json(folder / JSON_FILE, content)

    @classmethod
    def from_folder(cls, folder: Path, content: dict[str, Any], build_model: BuildModel) -> Self:
        """Returns the predictor in `folder`, with all its members."""
        members = {
            int(fold): load_predictor(folder / f"fold_{fold}", build_model)
            for fold in content["folds"]
        }
        for fold, member in members.items():
            if list(member.label_names) != content["label_names"]:
                raise InputError(f"{folder / f'fold_{fold}'} has other labels than {JSON_FILE}")
        return cls(
            members,
            mean=content["mean"],
            calibration=Calibration.from_json(content["calibration"]),
            threshold=content["threshold"],
            training=content["training"],
        )

    def _predict(
        self, table: SliceTable, rows: NDArray[np.int64], options: PredictOptions
    ) -> RowLogits:
        total = LogitMean(self.mean)
        unreadable: NDArray[np.bool_] = np.zeros(len(rows), dtype=bool)
        for member in self.members.values():
            result = member.predict_rows(table, rows, **options.as_arguments())
            logits = result.logits
            total.add(member.calibration.apply(logits) if member.calibration else logits)
            unreadable |= result.unreadable
        values = total.result()
        values[unreadable] = prior_logits(self.prior, self.calibration)
        return RowLogits(values.astype(np.float32), unreadable)
