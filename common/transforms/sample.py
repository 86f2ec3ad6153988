"""Apply a pipeline to one sample: slices in HU become a normalised image."""

import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from common.albumentations import Memory
from common.errors import InputError
from common.transforms import catalog, coordinates, sizes
from common.transforms.draw import HeaderWindow, random_state
from common.transforms.host import HostStages
from common.transforms.physics import Spacing, known_spacing_mm
from common.transforms.pipeline import Pipeline, checked_normalization, parse_pipeline

if TYPE_CHECKING:
    from common.transforms.device import DeviceTransform, HostTransform


def load_transform(path: Path) -> "SampleTransform":
    """Return the transform that a JSON file describes.

    Raises:
        InputError: the file is absent, is no JSON, or describes a pipeline that can't be run as it
            is meant; the message names the transform and the argument.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such transform file") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: this is not a JSON file ({error})") from error
    return SampleTransform.from_dict(document, str(path))


class SampleTransform:
    """Makes a network's input of the slices of one sample: geometry, scanner, windows, intensity.

    All slices of a sample are moved alike and seen through the same windows. What is drawn depends
    on the seed of the call alone.
    """

    def __init__(self, pipeline: Pipeline, where: str = "the transform") -> None:
        self.pipeline = pipeline
        self._where = where
        self._stages = HostStages(pipeline, where)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], where: str = "the transform") -> Self:
        """Return the transform that `to_dict` or albumentations' `save` wrote."""
        return cls(parse_pipeline(document, where), where)

    def to_dict(self) -> dict[str, Any]:
        """Return the transform as JSON types, normalization included, every argument explicit."""
        return copy.deepcopy(self.pipeline.to_dict())

    def __call__(
        self,
        image_hu: np.ndarray,
        seed: int,
        header_window: HeaderWindow = None,
        spacing_mm: Spacing = None,
        memory: Memory = None,
    ) -> np.ndarray:
        """Return float32 (channels, height, width), channels = slices * windows, slice-major.

        Args:
            image_hu: (height, width) or (height, width, slices), int16 or float32, HU.
            seed: not negative; the same seed gives the same image, bit by bit.
            header_window: (center, width) that the header of the slice names, HU, for pipelines
                with `HeaderWindow`.
            spacing_mm: how far rows, columns and slices lie apart, NaN where unknown, for pipelines
                with transforms in mm.
            memory: gives an array to make the image in; another may be returned all the same.

        Raises:
            ValueError: mean and std are not for this number of channels.
        """
        image = np.asarray(image_hu, dtype=np.float32)
        if image.ndim == 3 and image.shape[2] == 1:
            image = image[:, :, 0]
        # Not set_random_seed: it gives every transform a generator of its own in the same state,
        # so that their draws are all equal.
        generator, py = random_state(seed)
        py.random()  # A.Compose draws whether it runs; DeviceTransform's draws are the same ones.
        known = known_spacing_mm(spacing_mm, image.shape) if self.pipeline.is_in_mm else None
        channels, _ = self._stages(image, generator, py, header_window, known, memory)
        return self._normalized(channels)

    def _normalized(self, channels: np.ndarray) -> np.ndarray:
        normalization = self.pipeline.normalization
        if normalization is None:
            return channels
        repeats, rest = divmod(len(channels), len(normalization.mean))
        if rest:
            raise ValueError(
                f"{self._where}: {len(normalization.mean)} means for {len(channels)} channels"
            )
        for channel, mean, std in zip(
            channels, normalization.mean * repeats, normalization.std * repeats
        ):
            channel -= np.float32(mean)
            channel *= np.float32(1 / std)
        return channels

    def with_size(self, img_size: int) -> "SampleTransform":
        """Return a copy whose images are `img_size` pixels high and wide.

        The last Resize, RandomResizedCrop or RandomSizedCrop gets this size; where there is none,
        or a crop follows it, a Resize is appended to the geometric transforms.
        """
        return self._with(geometry=sizes.resized(self.pipeline.geometry, img_size))

    def with_normalization(
        self, mean: float | Sequence[float], std: float | Sequence[float]
    ) -> "SampleTransform":
        """Return a copy that ends with (image - mean) / std, unless the JSON holds a Normalize.

        Args:
            mean: of images in [0, 1]: one value, one per window, or one per channel. Of three for
                other than three windows, those of red, green and blue, each gets the average.
            std: as many values, above 0.
        """
        if self.has_normalize:
            return self
        if np.size(mean) == 3 and np.size(std) == 3 and self.num_windows != 3:
            mean, std = float(np.mean(mean)), float(np.mean(std))
        return self._with(normalization=checked_normalization(mean, std, self._where))

    def matrix_to_slice(self, shape: tuple[int, int], spacing_mm: Spacing = None) -> np.ndarray:
        """Return the matrix from places in the images of slices of `shape` to these slices.

        See `common.transforms.coordinates.matrix_to_slice`.
        """
        return coordinates.matrix_to_slice(self.pipeline, self._where, shape, spacing_mm)

    def host_part(self) -> "HostTransform":
        """Return the part for the loader where `device_part` does the rest."""
        from common.transforms.device import HostTransform  # torch takes seconds

        return HostTransform(self.pipeline, self._where)

    def device_part(self, channels_last: bool = False) -> "DeviceTransform":
        """Return the part that makes images from the output of `host_part` on the device."""
        from common.transforms.device import DeviceTransform

        return DeviceTransform(self.pipeline, channels_last)

    def _with(self, **changes: Any) -> "SampleTransform":
        return SampleTransform(dataclasses.replace(self.pipeline, **changes), self._where)

    @property
    def has_normalize(self) -> bool:
        return self.pipeline.normalization is not None

    @property
    def num_windows(self) -> int:
        return catalog.num_windows(self.pipeline.window)

    @property
    def header_fallback(self) -> tuple[float, float] | None:
        """(center, width) in place of a window that a header does not name; None where no header
        is asked.
        """
        window = self.pipeline.window
        if catalog.name_of(window) == catalog.WINDOW:
            return None
        return window["fallback_center"], window["fallback_width"]

    @property
    def transforms_in_mm(self) -> list[str]:
        """The names of the transforms that need to know how far pixels or slices lie apart."""
        inside = [leaf for node in self.pipeline.nodes for leaf in catalog.leaves(node)]
        return [name for name in map(catalog.name_of, inside) if name in catalog.IN_MM]

    @property
    def output_size(self) -> tuple[int, int] | None:
        """(height, width) of every image, or None where it depends on the input."""
        return sizes.output_size(self.pipeline.geometry)

    @property
    def random_transforms(self) -> list[str]:
        """The names of the transforms that draw."""
        return [catalog.name_of(node) for node in self.pipeline.nodes if catalog.is_random(node)]

    @property
    def is_deterministic(self) -> bool:
        """Whether the seed makes no difference."""
        return not self.random_transforms

    def require_deterministic(self) -> None:
        """Raise InputError naming the random transforms, if there are any."""
        if not self.is_deterministic:
            raise InputError(
                f"{self._where}: validation and prediction must not depend on chance, but "
                f"{', '.join(self.random_transforms)} draw; give a pipeline without them"
            )

    def require_channels(self, num_windows: int, num_slices: int = 1) -> None:
        """Raise InputError unless a slice becomes `num_windows` channels, normalised.

        Args:
            num_windows: channels of a slice that the network takes.
        """
        normalization = self.pipeline.normalization
        allowed = (1, self.num_windows, self.num_windows * num_slices)
        if normalization is not None and len(normalization.mean) not in allowed:
            raise InputError(
                f"{self._where}: Normalize has {len(normalization.mean)} means for {allowed[-1]} "
                f"channels (slices: {num_slices}, windows: {self.num_windows}): give one for all, "
                f"one for each window, or one for each channel"
            )
        if self.num_windows != num_windows:
            raise InputError(
                f"{self._where}: {catalog.name_of(self.pipeline.window)} makes {self.num_windows} "
                f"channels of a slice instead of {num_windows}: give as many windows"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return SampleTransform, (self.pipeline, self._where)

    def __repr__(self) -> str:
        names = ", ".join(catalog.name_of(node) for node in self.pipeline.nodes)
        return f"SampleTransform({names})"
