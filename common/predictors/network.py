"""Predictors that are one network: predictor.json and model.pt in their folder."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.checkpoint import save_weights
from common.errors import InputError
from common.experiment import JSON_FILE
from common.files import write_json
from common.predictors.base import WEIGHTS_FILE, AbstractPredictor, BuildModel, checked_weights
from common.scoring.metrics import DEFAULT_THRESHOLD, Floats
from common.scoring.predictions import Calibration
from common.transforms import SampleTransform
from common.transforms.views import PLAIN, ViewTransform, random_number


@dataclass
class NetworkPredictor(AbstractPredictor):
    """One network with all that is needed to use it; see the base for what all have.

    predictor.json and model.pt lie in its folder.

    Attributes:
        network: what `build_model` made, to logits.
        model: what `build_model` needs to make the network again; plain types.
        transform: makes the image of a slice, with its windows, size and normalization; not random.
        tta_transform: draws the extra views of test-time augmentation; None where there are none.
        slice_offsets: the neighbours in a sample, by rank.
    """

    gives_features: ClassVar[bool] = True
    network: nn.Module
    model: dict[str, Any]
    label_names: Sequence[str]
    label_weights: Sequence[float]
    transform: SampleTransform
    prior: Floats
    tta_transform: SampleTransform | None = None
    slice_offsets: Sequence[int] = (0,)
    calibration: Calibration | None = None
    threshold: float = DEFAULT_THRESHOLD
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert len(self.prior) == len(self.label_names) == len(self.label_weights)
        assert ((self.prior > 0) & (self.prior < 1)).all(), "a prior is inside (0, 1)"
        self.transform.require_deterministic()

    def save(self, folder: Path) -> None:
        """Writes predictor.json and model.pt, each in one step."""
        digest = save_weights(folder / WEIGHTS_FILE, self.network.state_dict())
        write_json(folder / JSON_FILE, {**self._to_json(), "weights_sha256": digest})

    @classmethod
    def from_folder(cls, folder: Path, content: dict[str, Any], build_model: BuildModel) -> Self:
        """Returns the predictor in `folder`, its network in evaluation mode on the CPU."""
        network = build_model(content["model"])
        _load_weights(network, checked_weights(folder, content))
        tta, where = content["tta_transform"], str(folder / JSON_FILE)
        return cls(
            network=network.eval(),
            model=content["model"],
            transform=SampleTransform.from_dict(content["transform"], where),
            tta_transform=tta and SampleTransform.from_dict(tta, where),
            slice_offsets=tuple(content["slice_offsets"]),
            calibration=Calibration.from_json(content["calibration"]),
            **cls._shared_fields(content),
            **cls._own_fields(content),
        )

    @classmethod
    def _own_fields(cls, content: dict[str, Any]) -> dict[str, Any]:
        """The fields of a subclass that predictor.json holds."""
        return {}

    def _own_json(self) -> dict[str, Any]:
        """What predictor.json holds of them."""
        return {}

    def _view_transform(self, view: str) -> Any:
        """What makes the images of a view; InputError where this predictor can't have it."""
        if random_number(view):
            if self.tta_transform is None:
                raise InputError(f"--pr_tta: this predictor has no test-time transform for {view}")
            return self.tta_transform
        if view == "swap" and len(self.slice_offsets) == 1:
            raise InputError("--pr_tta_views swap: the images of this network have no neighbours")
        return self.transform if view == PLAIN else ViewTransform(view, self.transform)

    def _to_json(self) -> dict[str, Any]:
        return {
            **self._shared_json(),
            "model": self.model,
            "slice_offsets": list(self.slice_offsets),
            "transform": self.transform.to_dict(),
            "tta_transform": self.tta_transform and self.tta_transform.to_dict(),
            "calibration": self.calibration and self.calibration.to_json(),
            **self._own_json(),
        }


class FeatureMean:
    """The mean of features (n, dim) over views, 0 for rows without any."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self._total: NDArray[np.float32] | None = None
        self._num = 0

    def add(self, indices: NDArray[np.int64], features: NDArray[np.float32]) -> None:
        """Takes the features of one view, of some of the rows."""
        if self._total is None:
            self._total = np.zeros((self.num_rows, features.shape[1]), np.float32)
        self._total[indices] += features
        self._num += 1

    def result(self, readable: NDArray[np.bool_]) -> NDArray[np.float16]:
        """Returns the mean of all views; InputError where there is none."""
        if self._total is None:
            raise InputError("no slice can be read: there are no features")
        mean = self._total / np.float32(self._num)
        mean[~readable] = 0
        return mean.astype(np.float16)


def _load_weights(network: nn.Module, path: Path) -> None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except (RuntimeError, pickle.UnpicklingError, AttributeError, TypeError) as error:
        raise InputError(f"{path} does not hold the weights of this network: {error}") from error
