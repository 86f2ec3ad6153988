"""Predictors that are one network: predictor.json and model.pt in their folder."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.experiment import JSON_FILE
from common.files import write_json
from common.predictors.base import (
    WEIGHTS_FILE,
    AbstractPredictor,
    LoadPart,
    Networks,
    PredictOptions,
    RowLogits,
)
from common.predictors.engine import outputs_of
from common.scoring.predictions import LogitMean
from common.slices.table import SliceTable
from common.transforms import SampleTransform
from common.transforms.views import PLAIN, ViewTransform, random_number


@dataclass
class NetworkPredictor(AbstractPredictor):
    """One network with all that is needed to use it; see the base for what all have.

    predictor.json and model.pt lie in its folder. A subclass makes the dataset of a view.

    Attributes:
        sees: `slices`, or `series` of images.
        network: a module of torch, to logits, or what runs it in another engine.
        model: what `build_model` needs to make the network again; plain types.
        transform: makes the image of a slice, with its windows, size and normalization; not random.
        tta_transform: draws the extra views of test-time augmentation; None where there are none.
        slice_offsets: the neighbours in a sample, by rank.
    """

    gives_features: ClassVar[bool] = True
    sees: ClassVar[str] = "slices"
    network: Any
    model: dict[str, Any]
    transform: SampleTransform
    tta_transform: SampleTransform | None = None
    slice_offsets: Sequence[int] = (0,)

    def __post_init__(self) -> None:
        assert len(self.prior) == len(self.label_names) == len(self.label_weights)
        assert ((self.prior > 0) & (self.prior < 1)).all(), "a prior is inside (0, 1)"
        self.transform.require_deterministic()

    def save(self, folder: Path) -> None:
        from common.checkpoint import save_weights  # torch takes seconds

        content = {
            **self._shared_json(),
            "model": self.model,
            "slice_offsets": list(self.slice_offsets),
            "transform": self.transform.to_dict(),
            "tta_transform": self.tta_transform and self.tta_transform.to_dict(),
            **self._own_json(),
            "weights_sha256": save_weights(folder / WEIGHTS_FILE, self.network.state_dict()),
        }
        write_json(folder / JSON_FILE, content)

    @classmethod
    def from_folder(
        cls, folder: Path, content: dict[str, Any], networks: Networks, load: LoadPart
    ) -> Self:
        tta, where = content["tta_transform"], str(folder / JSON_FILE)
        return cls(
            network=networks.slice_network(folder, content),
            model=content["model"],
            transform=SampleTransform.from_dict(content["transform"], where),
            tta_transform=tta and SampleTransform.from_dict(tta, where),
            slice_offsets=tuple(content["slice_offsets"]),
            **cls._shared_fields(content),
            **cls._own_fields(content),
        )

    @classmethod
    @abstractmethod
    def _own_fields(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of a subclass that predictor.json holds."""

    @abstractmethod
    def _own_json(self) -> dict[str, Any]:
        """Return what predictor.json holds of them."""

    @abstractmethod
    def dataset(
        self, table: SliceTable, rows: NDArray[np.int64], view: str, options: PredictOptions
    ) -> Any:
        """Return the samples of readable rows in one view; `rows` says which rows they count.

        Of a sample, `index` holds the places in `rows`, -1 where nothing is to be predicted.
        InputError where there is no such view.
        """

    def _batch_size(self, num_slices: int) -> int:
        """Return how many samples make a batch of about so many slices."""
        return num_slices

    def _predict(
        self, table: SliceTable, rows: NDArray[np.int64], options: PredictOptions
    ) -> RowLogits:
        for view in options.views:
            self._view_transform(view)  # refused before the work
        asked, places = np.unique(rows, return_inverse=True)
        left = rows[table.readable[rows]]
        total, of_series = LogitMean(options.mean), LogitMean(options.mean)
        features: NDArray[np.float32] | None = None
        has_series = "series_logits" in getattr(self.network, "output_names", ())
        for view in options.views:
            logits = np.zeros((len(asked), len(self.label_names)))
            series_logits = np.zeros_like(logits)
            if len(left):
                dataset = self.dataset(table, left, view, options)
                batch_size = self._batch_size(options.batch_size)
                outputs = outputs_of(self.network, self.sees, dataset, batch_size, options)
                was_read = outputs["index"] >= 0
                left = dataset.rows[outputs["index"][was_read]]
                found = np.searchsorted(asked, left)
                logits[found] = outputs["logits"][was_read]
                if options.with_features:
                    own = outputs["features"][was_read]
                    if features is None:
                        features = np.zeros((len(asked), own.shape[1]), np.float32)
                    features[found] += own
                if has_series:
                    series_logits[found] = outputs["series_logits"][was_read]
            total.add(logits)
            of_series.add(series_logits)
        is_read = np.isin(asked, left)
        if options.with_features:
            if features is None:
                raise InputError("no slice can be read: there are no features")
            features /= np.float32(len(options.views))
            features[~is_read] = 0
        of_rows = None if features is None else features[places]
        own_series = of_series.result()[places].astype(np.float32) if has_series else None
        return self.filled(total.result()[places], ~is_read[places], of_rows, own_series)

    def _view_transform(self, view: str) -> Any:
        """Return what makes the images of a view; InputError where this predictor has none."""
        if random_number(view):
            if self.tta_transform is None:
                raise InputError(f"--pr_tta: this predictor has no test-time transform for {view}")
            return self.tta_transform
        if view == "swap" and len(self.slice_offsets) == 1:
            raise InputError("--pr_tta_views swap: the images of this network have no neighbours")
        return self.transform if view == PLAIN else ViewTransform(view, self.transform)
