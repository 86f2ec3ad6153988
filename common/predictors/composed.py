"""The base of predictors made of other predictors, each in a folder that stands alone."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.experiment import JSON_FILE
from common.files import write_json
from common.predictors.base import AbstractPredictor, PredictOptions, RowLogits
from common.scoring.metrics import Floats
from common.slices.table import SliceTable


@dataclass(kw_only=True)
class ComposedPredictor(AbstractPredictor):
    """Predictors in folders inside its own, and what is made of their logits."""

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, AbstractPredictor]:
        """The predictors inside, by the path of their folder."""

    @property
    def num_networks(self) -> int:
        """Networks that see each slice, for progress."""
        return sum(part.num_networks for part in self.parts.values())

    def save(self, folder: Path) -> None:
        """Write the parts, what lies beside them and, last, predictor.json."""
        for name, part in self.parts.items():
            part.save(folder / name)
        write_json(folder / JSON_FILE, {**self._shared_json(), **self._own_json(folder)})

    @abstractmethod
    def _own_json(self, folder: Path) -> dict[str, Any]:
        """Return what predictor.json holds of this kind, after writing what lies beside it."""

    def _predict_parts(
        self, table: SliceTable, rows: NDArray[np.int64], options: PredictOptions
    ) -> tuple[list[RowLogits], NDArray[np.bool_]]:
        """Return the prediction of each part, and the rows (n,) that one could not read."""
        found = [part.predict_rows(table, rows, options) for part in self.parts.values()]
        return found, np.any([result.unreadable for result in found], axis=0)


def mean_study_prior(members: Iterable[AbstractPredictor]) -> Floats | None:
    """Return the mean prior (k,) of studies of predictors; None where one does not know it."""
    priors = [member.study_prior for member in members]
    known = [prior for prior in priors if prior is not None]
    return np.mean(known, axis=0) if known and len(known) == len(priors) else None
