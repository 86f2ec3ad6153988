"""The base of predictors made of other predictors, each in a folder that stands alone."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.experiment import JSON_FILE
from common.files import write_json
from common.predictors.base import AbstractPredictor, PredictOptions, RowLogits
from common.predictors.reading import predict_slices
from common.predictors.slices import SlicePredictor
from common.scoring.metrics import Floats
from common.slices.table import SliceTable


@dataclass(kw_only=True)
class ComposedPredictor(AbstractPredictor):
    """Predictors in folders inside its own, and what is made of their logits.

    Attributes:
        asks_alike: whether its parts are asked for the rows and views that it is asked for.
    """

    asks_alike: ClassVar[bool] = False

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, AbstractPredictor]:
        """The predictors inside, by the path of their folder."""

    @property
    def num_networks(self) -> int:
        return sum(part.num_networks for part in self.parts.values())

    @property
    def sees_whole_series(self) -> bool:
        parts = self.parts.values()
        return not self.asks_alike or any(part.sees_whole_series for part in parts)

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
        found = predict_all([(part, options) for part in self.parts.values()], table, rows)
        return found, np.any([result.unreadable for result in found], axis=0)


def predict_all(
    asked: Sequence[tuple[AbstractPredictor, PredictOptions]],
    table: SliceTable,
    rows: NDArray[np.int64],
) -> list[RowLogits]:
    """Return the predictions of several predictors of the same rows, each as it is asked.

    Networks of slices among them, or in folds and blends among them, share reading and transforms.
    """
    networks = [
        (network, options)
        for predictor, options in asked
        for network in _slice_networks(predictor)
        if id(network) not in options.known
    ]
    known: dict[int, RowLogits] = {}
    if len(networks) > 1 and table.readable[rows].any():
        found = predict_slices(networks, table, rows)
        known = {id(network): result for (network, _), result in zip(networks, found)}
    return [
        predictor.predict_rows(table, rows, replace(options, known={**options.known, **known}))
        for predictor, options in asked
    ]


def _slice_networks(predictor: AbstractPredictor) -> list[SlicePredictor]:
    """Return the networks of slices that are asked for what a predictor is asked for."""
    if isinstance(predictor, ComposedPredictor) and predictor.asks_alike:
        return [network for part in predictor.parts.values() for network in _slice_networks(part)]
    return [predictor] if isinstance(predictor, SlicePredictor) else []


def mean_study_prior(members: Iterable[AbstractPredictor]) -> Floats | None:
    """Return the mean prior (k,) of studies of predictors; None where one does not know it."""
    priors = [member.study_prior for member in members]
    known = [prior for prior in priors if prior is not None]
    return np.mean(known, axis=0) if known and len(known) == len(priors) else None
