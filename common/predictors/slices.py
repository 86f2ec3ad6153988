"""The predictor of a network for slices."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.datasets.classification import ImageClassificationDataset
from common.predictors.base import PredictOptions, RowLogits
from common.predictors.engine import EngineNetwork
from common.predictors.network import NetworkPredictor
from common.predictors.reading import ReadOnce, predict_slices
from common.slices.store import UnreadableSlice
from common.slices.table import PastEnd, SliceTable
from common.transforms.views import PLAIN, random_number
from common.windows import AIR_HU

logger = logging.getLogger(__name__)

_MAPS_AT_ONCE = 16
"""Most slices whose maps are made at once: what gradients need is held for them."""


@dataclass
class SlicePredictor(NetworkPredictor):
    """A network for slices: images (batch, channels, rows, columns) to logits (batch, labels).

    Attributes:
        offsets_mm: as many distances in mm as `slice_offsets`, which count in their place; empty:
            none.
        past_end: what stands for neighbours beyond either end of a series.
    """

    kind: ClassVar[str] = "slices"
    offsets_mm: Sequence[float] = ()
    past_end: PastEnd = "last"

    @property
    def sees_whole_series(self) -> bool:
        """Not so: a slice is read with its neighbours alone."""
        return False

    def dataset(
        self, table: SliceTable, rows: NDArray[np.int64], view: str, options: PredictOptions
    ) -> "_PredictionDataset":
        dataset = _PredictionDataset(
            table if isinstance(table, ReadOnce) else ReadOnce(table),
            rows,
            self._view_transform(view),
            (),
            self.slice_offsets,
            options.seed,
            random_number(view),
            self.offsets_mm,
            self.past_end,
        )
        if view == options.views[0]:
            dataset.warn_of_fallbacks("prediction")
        return dataset

    def _predict(
        self, table: SliceTable, rows: NDArray[np.int64], options: PredictOptions
    ) -> RowLogits:
        if len(options.views) == 1 or not table.readable[rows].any():
            return super()._predict(table, rows, options)
        return predict_slices([(self, options)], table, rows)[0]

    def recipe(self, view: str, options: PredictOptions) -> str:
        """Return in words how an image is made of a slice: where it is equal, so are the images."""
        is_random = random_number(view) > 0
        transform = self.tta_transform if is_random else self.transform
        neighbours = (self.slice_offsets, self.offsets_mm, self.past_end)
        seed = options.seed if is_random else 0
        return f"{view} {seed} {neighbours} {transform and transform.to_dict()}"

    def require_maps(self) -> None:
        """Make the map of a slice of air, to know before a study is read that maps can be made.

        Raises:
            InputError: see `layer_cam`, and `matrix_to_slice` of transforms.
        """
        import torch  # which takes seconds, and no engine needs

        from common.models.layer_cam import layer_cam

        network, spacing_mm = self._torch_network(), (0.5, 0.5, 5.0)
        air_hu = np.full((512, 512, len(self.slice_offsets)), AIR_HU, dtype=np.int16)
        image = torch.from_numpy(self.transform(air_hu, 0, None, spacing_mm))
        self.transform.matrix_to_slice((512, 512), spacing_mm)
        layer_cam(network, image[None].to(next(network.parameters()).device), 0)

    def activation_maps(
        self, table: SliceTable, rows: NDArray[np.int64], label: str, options: PredictOptions
    ) -> tuple[NDArray[np.float32], tuple[int, int]]:
        """Return `layer_cam` of readable rows in the view of validation, and the input's size.

        Returns:
            float32 (n, height, width), 0 where a slice can't be read, and (rows, columns) of the
            images, which all have one size.
        """
        from common.datasets.loading import make_loader
        from common.models.layer_cam import layer_cam

        network = self._torch_network().to(options.device)
        dataset = self.dataset(table, rows, PLAIN, options)
        maps, k = [], list(self.label_names).index(label)
        for batch in make_loader(dataset, min(options.batch_size, _MAPS_AT_ONCE), 0):
            found = layer_cam(network, batch["image"].to(options.device), k).cpu().numpy()
            found[batch["index"].numpy() < 0] = 0
            maps.append(found)
        height, width = batch["image"].shape[2:]
        return np.concatenate(maps), (height, width)

    def _torch_network(self) -> Any:
        """Return the network in torch, in evaluation mode: engines give no gradients."""
        is_engine = isinstance(self.network, EngineNetwork)
        return (self.network.in_torch() if is_engine else self.network).eval()

    @classmethod
    def _own_fields(cls, content: dict[str, Any]) -> dict[str, Any]:
        # Folders of earlier versions lack them.
        return {
            "offsets_mm": tuple(content.get("offsets_mm", ())),
            "past_end": content.get("past_end", "last"),
        }

    def _own_json(self) -> dict[str, Any]:
        return {"offsets_mm": list(self.offsets_mm), "past_end": self.past_end}


class _PredictionDataset(ImageClassificationDataset):
    """Samples whose index is -1, and whose image is air, where the store is damaged."""

    def make_sample(self, index: int, seed: int) -> dict[str, Any]:
        try:
            return super().make_sample(index, seed)
        except UnreadableSlice as error:
            row = int(self.rows[index])
            logger.warning("image %s can't be read: %s", self.sample_id(index), error)
            size = self.table.frame.loc[row, ["rows", "columns"]].astype(int)
            air_hu = np.full((*size, len(self.slice_offsets)), AIR_HU, dtype=np.int16)
            image = self.transform(air_hu, seed)
            return {"image": image, "labels": self.labels[index], "index": -1}
