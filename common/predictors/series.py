"""Predictors whose network sees the images of whole series: joint and 3D networks.

predictor.json and model.pt lie in the folder as they do for a network of slices.
"""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.datasets.series_images import SeriesImageDataset
from common.predictors.base import PredictOptions
from common.predictors.network import NetworkPredictor
from common.slices.pixel_steps import NO_STEPS, PixelSteps
from common.slices.table import SliceTable
from common.transforms.views import random_number

STUDY_RULE = "study_rule"
"""Key in predictor.json of networks with a pool: how studies come from their slices."""
# A series is taken to have this many slices where a batch is given in slices.
USUAL_NUM_SLICES = 32


@dataclass
class SeriesPredictor(NetworkPredictor):
    """A network that sees whole series: inputs of `SeriesImageDataset` to (series, steps, labels).

    Rows are predicted within their whole series, whichever of its rows are asked for. A slice that
    is read from a damaged store is left out of its series and has the prior. A batch holds a series
    for every 32 slices of `batch_size`, at least one.

    Attributes:
        steps: what is done to the pixels of a slice first.
    """

    sees: ClassVar[str] = "series"
    steps: PixelSteps = NO_STEPS

    def dataset(
        self, table: SliceTable, rows: NDArray[np.int64], view: str, options: PredictOptions
    ) -> SeriesImageDataset:
        return SeriesImageDataset(
            table,
            np.unique(rows),
            self._view_transform(view),
            (),
            slice_offsets=self.slice_offsets,
            steps=self.steps,
            seed=options.seed,
            view=random_number(view),
            skips_damaged=True,
        )

    def _batch_size(self, num_slices: int) -> int:
        return series_per_batch(num_slices)

    @classmethod
    def _own_fields(cls, content: dict[str, Any]) -> dict[str, Any]:
        return {"steps": PixelSteps(**content["series_pixels"])}

    def _own_json(self) -> dict[str, Any]:
        return {"series_pixels": asdict(self.steps)}


class JointPredictor(SeriesPredictor):
    """A slice encoder with a sequence transformer, trained as one."""

    kind: ClassVar[str] = "joint"


class VolumePredictor(SeriesPredictor):
    """A 3D network."""

    kind: ClassVar[str] = "volume"


class BagPredictor(SeriesPredictor):
    """A slice network with a pool that makes logits of a series of those of its slices."""

    kind: ClassVar[str] = "bag"

    @property
    def series_rule(self) -> str:
        return f"{self.model['pooling']} over the slices of the used series, as trained"

    def _own_json(self) -> dict[str, Any]:
        return {**super()._own_json(), STUDY_RULE: self.study_rule}


def series_per_batch(num_slices: int) -> int:
    """Return how many series make a batch of about so many slices."""
    return max(1, num_slices // USUAL_NUM_SLICES)
