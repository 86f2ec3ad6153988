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
from common.predictors.base import (
    AbstractPredictor,
    LoadPart,
    Networks,
    PredictOptions,
    RowLogits,
)
from common.predictors.composed import ComposedPredictor
from common.scoring.metrics import Floats
from common.slices.table import SliceTable

MEMBERS_FOLDER = "members"
FOLDS_FOLDER = "folds"

Level = Smoothing | BoostedTrees


@dataclass
class SecondLevelPredictor(ComposedPredictor):
    """Slice predictors, and what each fold's second level makes of their mean.

    Every fold's second level sees the same first-level predictions, those of all folds' networks
    averaged, as in the test table; their logits are averaged. A series is predicted whole, whatever
    rows of it are asked for.

    Attributes:
        levels: the second levels by fold; all of one kind.
        fold_priors: the prior (k,) of the rows that each fold's level was fitted on.
    """

    kind: ClassVar[str] = "second_level"
    members: Sequence[AbstractPredictor]
    levels: Mapping[int, Level]
    fold_priors: Mapping[int, Floats] = field(default_factory=dict)

    @property
    def parts(self) -> Mapping[str, AbstractPredictor]:
        return {f"{MEMBERS_FOLDER}/{n}": member for n, member in enumerate(self.members)}

    def _own_json(self, folder: Path) -> dict[str, Any]:
        levels = {}
        for fold, level in self.levels.items():
            if isinstance(level, BoostedTrees):
                levels[str(fold)] = level.save(folder / FOLDS_FOLDER / str(fold))
            else:
                levels[str(fold)] = level.to_dict()
        is_boosting = all(isinstance(level, BoostedTrees) for level in self.levels.values())
        name = "boosting" if is_boosting else "smooth"
        return {
            "model": {"name": name, "num_members": len(self.members)},
            "levels": levels,
            "fold_priors": {str(f): self._by_label(prior) for f, prior in self.fold_priors.items()},
            "slice_offsets": [0],
        }

    @classmethod
    def from_folder(
        cls, folder: Path, content: dict[str, Any], networks: Networks, load: LoadPart
    ) -> Self:
        model = content["model"]
        levels: dict[int, Level] = {}
        for fold, level in content["levels"].items():
            if model["name"] == "boosting":
                levels[int(fold)] = BoostedTrees.load(folder / FOLDS_FOLDER / fold, level)
            else:
                levels[int(fold)] = Smoothing.from_dict(level)
        return cls(
            [load(folder / MEMBERS_FOLDER / str(n)) for n in range(model["num_members"])],
            levels,
            {
                int(fold): np.array([prior[name] for name in content["label_names"]])
                for fold, prior in content.get("fold_priors", {}).items()
            },
            **cls._shared_fields(content),
        )

    def _predict(
        self, table: SliceTable, rows: NDArray[np.int64], options: PredictOptions
    ) -> RowLogits:
        whole = whole_series(table, rows)
        results, unreadable = self._predict_parts(table, whole, options)
        seen = whole[~unreadable]
        by_row = np.zeros((len(table), len(self.label_names)), dtype=np.float32)
        if len(seen):
            logits = np.stack([result.logits for result in results], axis=1)[~unreadable]
            by_row[seen] = mean_of_levels(self.levels, level_inputs(table, seen, logits))
        return self.filled(by_row[rows], ~np.isin(rows, seen))


def mean_of_levels(levels: Mapping[int, Level], inputs: LevelInputs) -> NDArray[np.float32]:
    """Return the mean over folds of the logits (n, labels) that their second levels give."""
    logits = np.stack([level.predict(inputs) for level in levels.values()]).astype(np.float64)
    return np.asarray(logits.mean(axis=0), dtype=np.float32)


def whole_series(table: SliceTable, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the readable rows of all series that have one of `rows`, ascending."""
    readable = rows[table.readable[rows]]
    files = table.frame["store_file"]
    wanted = files.iloc[readable].unique()
    return np.flatnonzero(table.readable & files.isin(wanted).to_numpy(dtype=bool))
