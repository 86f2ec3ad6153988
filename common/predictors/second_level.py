"""A second level that stands alone: the slice predictors below it lie in folders inside its own.

predictor.json
members/<number>/     a predictor of each first-level experiment
folds/<fold>/         boosted trees, as text files
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from common.ensembling.boosting import BoostedTrees
from common.ensembling.sequences import LevelInputs, level_inputs
from common.ensembling.smoothing import Smoothing
from common.experiment import JSON_FILE
from common.files import write_json
from common.predictors.base import (
    AbstractPredictor,
    BuildModel,
    PredictOptions,
    RowLogits,
    load_predictor,
)
from common.scoring.metrics import DEFAULT_THRESHOLD, Floats
from common.scoring.predictions import Calibration, prior_logits
from common.slices.table import SliceTable

MEMBERS_FOLDER = "members"
FOLDS_FOLDER = "folds"

Level = Smoothing | BoostedTrees


@dataclass
class SecondLevelPredictor(AbstractPredictor):
    """Slice predictors, and what each fold's second level makes of their mean.

    Every fold's second level sees the same first-level predictions, those of all folds' networks
    averaged, as in the test table; their logits are averaged. A series is predicted whole, whatever
    rows of it are asked for.

    Attributes:
        members: the predictors of the first level.
        levels: the second levels by fold; all of one kind.
        fold_priors: the prior (k,) of the rows that each fold's level was fitted on.
    """

    kind: ClassVar[str] = "second_level"
    members: Sequence[AbstractPredictor]
    levels: Mapping[int, Level]
    label_names: Sequence[str]
    label_weights: Sequence[float]
    prior: Floats
    calibration: Calibration | None = None
    threshold: float = DEFAULT_THRESHOLD
    training: dict[str, Any] = field(default_factory=dict)
    fold_priors: Mapping[int, Floats] = field(default_factory=dict)

    @property
    def num_networks(self) -> int:
        """Networks that see each slice, for progress."""
        return sum(member.num_networks for member in self.members)

    def save(self, folder: Path) -> None:
        """Writes the members, the levels and, last, predictor.json."""
        for number, member in enumerate(self.members):
            member.save(folder / MEMBERS_FOLDER / str(number))
        levels = {}
        for fold, level in self.levels.items():
            if isinstance(level, BoostedTrees):
                content = level.save(folder / FOLDS_FOLDER / str(fold))
            else:
                content = level.to_dict()
            levels[str(fold)] = content
        write_json(folder / JSON_FILE, self._to_json(levels))

    @classmethod
    def from_folder(cls, folder: Path, content: dict[str, Any], build_model: BuildModel) -> Self:
        """Returns the predictor in `folder`, its networks in evaluation mode on the CPU."""
        model = content["model"]
        levels: dict[int, Level] = {}
        for fold, level in content["levels"].items():
            if model["name"] == "boosting":
                levels[int(fold)] = BoostedTrees.load(folder / FOLDS_FOLDER / fold, level)
            else:
                levels[int(fold)] = Smoothing.from_dict(level)
        members = [
            load_predictor(folder / MEMBERS_FOLDER / str(number), build_model)
            for number in range(model["num_members"])
        ]
        return cls(
            members,
            levels,
            fold_priors={
                int(fold): np.array([prior[name] for name in content["label_names"]])
                for fold, prior in content.get("fold_priors", {}).items()
            },
            **cls._shared_fields(content),
        )

    def _predict(
        self, table: SliceTable, rows: NDArray[np.int64], options: PredictOptions
    ) -> RowLogits:
        whole = whole_series(table, rows)
        arguments = options.as_arguments()
        results = [member.predict_rows(table, whole, **arguments) for member in self.members]
        was_read = ~np.any([result.unreadable for result in results], axis=0)
        logits = np.stack([result.logits for result in results], axis=1)
        by_row = np.empty((len(table), len(self.label_names)), dtype=np.float32)
        by_row[:] = prior_logits(self.prior)
        is_read = np.zeros(len(table), dtype=bool)
        if was_read.any():
            is_read[whole[was_read]] = True
            by_row[whole[was_read]] = self.predict_level(
                level_inputs(table, whole[was_read], logits[was_read])
            )
        return RowLogits(by_row[rows], ~is_read[rows])

    def predict_level(self, inputs: LevelInputs) -> NDArray[np.float32]:
        """Returns the mean logits of the folds' second levels, float32 (n, labels)."""
        return mean_of_levels(self.levels, inputs)

    def _to_json(self, levels: dict[str, Any]) -> dict[str, Any]:
        is_boosting = all(isinstance(level, BoostedTrees) for level in self.levels.values())
        name = "boosting" if is_boosting else "smooth"
        return {
            **self._shared_json(),
            "model": {"name": name, "num_members": len(self.members)},
            "levels": levels,
            "fold_priors": {
                str(fold): dict(zip(self.label_names, np.asarray(prior).tolist(), strict=True))
                for fold, prior in self.fold_priors.items()
            },
            "slice_offsets": [0],
            "calibration": None,
        }


def mean_of_levels(levels: Mapping[int, Level], inputs: LevelInputs) -> NDArray[np.float32]:
    """Returns the mean over folds of the logits (n, labels) that their second levels give."""
    logits = np.stack([level.predict(inputs) for level in levels.values()]).astype(np.float64)
    return np.asarray(logits.mean(axis=0), dtype=np.float32)


def whole_series(table: SliceTable, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the readable rows of all series that have one of `rows`, ascending."""
    readable = rows[table.readable[rows]]
    files = table.frame["store_file"]
    wanted = files.iloc[readable].unique()
    return np.flatnonzero(table.readable & files.isin(wanted).to_numpy(dtype=bool))
