"""Field of view and head of a slice: geometric transforms in mm, as albumentations serialises them.

The path `common.transforms.view_field` and the names of the classes are part of the JSON format.
"""

from typing import Any

import albumentations as A
import cv2
import numpy as np
from albumentations.core.transforms_interface import BaseTransformInitSchema

from common.slices.regions import skull_mask
from common.transforms.physics import Limits, known_spacing_mm, limits_type
from common.windows import AIR_HU


class FieldOfView(A.ImageOnlyTransform):
    """Shows the slices in another field of view: smaller or larger, around the middle.

    A geometric transform: where several of these resample, it is done at once. With one value for
    both ends and p = 1 it draws nothing, and brings the slices of all scanners to one scale.

    Args:
        field_mm_range: each side of the image, mm, so that a square image gets square pixels
            whatever came; of head CT it is 200 to 250 as a rule.
        border_mode, fill: as of albumentations' Affine.
        p: probability that it is applied.
    """

    class InitSchema(BaseTransformInitSchema):
        """The checks that albumentations runs on the arguments."""

        field_mm_range: limits_type(50, 1000)  # type: ignore[valid-type]
        border_mode: int
        fill: float

    def __init__(
        self,
        field_mm_range: Limits = (200.0, 250.0),
        border_mode: int = cv2.BORDER_CONSTANT,
        fill: float = AIR_HU,
        p: float = 0.5,
    ) -> None:
        super().__init__(p=p)
        self.field_mm_range = field_mm_range
        self.border_mode = border_mode
        self.fill = fill

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        height, width = params["shape"][:2]
        row_mm, column_mm, _ = known_spacing_mm(data.get("spacing_mm"), params["shape"])
        field_mm = self.py_random.uniform(*self.field_mm_range)
        across, down = field_mm / (column_mm * width), field_mm / (row_mm * height)
        left, top = (width - 1) / 2 * (1 - across), (height - 1) / 2 * (1 - down)
        return {"source": np.array([(across, 0, left), (0, down, top), (0, 0, 1.0)])}

    def apply(self, img: np.ndarray, source: np.ndarray, **params: Any) -> np.ndarray:
        """Return the image, float32 of the same shape."""
        flags, size = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, img.shape[1::-1]
        made = [
            cv2.warpAffine(np.ascontiguousarray(one, np.float32), source[:2], size, None, flags,
                           self.border_mode, self.fill)
            for one in np.moveaxis(np.atleast_3d(img), 2, 0)
        ]  # fmt: skip
        return np.stack(made, axis=-1).reshape(img.shape)


class ScalpRemoval(A.ImageOnlyTransform):
    """Sets all outside the skull to air: scalp, head rest, tubes (`skull_mask`).

    Some datasets come so, and a network trained on them alone has never seen a scalp. It runs on
    the CPU, slice by slice; give it first. A slice without bone is left as it is.

    Args:
        p: probability that it is applied.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p=p)

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        return {"spacing_mm": known_spacing_mm(data.get("spacing_mm"), params["shape"])}

    def apply(
        self, img: np.ndarray, spacing_mm: tuple[float, float, float], **params: Any
    ) -> np.ndarray:
        """Return the image with air outside the skull."""
        made = np.array(np.atleast_3d(img))
        for one in np.moveaxis(made, 2, 0):
            mask = skull_mask(one, spacing_mm[:2])
            if mask is not None:
                one[~mask] = AIR_HU
        return made.reshape(img.shape)
