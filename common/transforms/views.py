"""Views of a sample for test-time augmentation: changes of its HU slices before its transform.

A view has a name. `plain` is the sample as validation sees it; `random_1`, `random_2`, ... are
draws of the test-time transform, seeded by the image; the others are deterministic and the same
for every network that predicts.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError

if TYPE_CHECKING:
    from common.transforms import SampleTransform

PLAIN = "plain"
RANDOM = "random_"

# Share of each side that a crop keeps, as a fraction.
CROP_SHARE = (7, 8)


def _crop(vertical: float, horizontal: float) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return the crop whose middle lies at these shares (0 to 1) of the room that it has."""

    def crop(image_hu: NDArray[Any]) -> NDArray[Any]:
        kept = [size * CROP_SHARE[0] // CROP_SHARE[1] for size in image_hu.shape[:2]]
        room = [size - length for size, length in zip(image_hu.shape, kept)]
        top, left = int(room[0] * vertical), int(room[1] * horizontal)
        return image_hu[top : top + kept[0], left : left + kept[1]]

    return crop


# View -> what it does to (rows, columns, slices); rotations are counter-clockwise, as in numpy.
_VIEWS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    PLAIN: lambda image_hu: image_hu,
    "flip_lr": lambda image_hu: image_hu[:, ::-1],
    "flip_ud": lambda image_hu: image_hu[::-1],
    "rot90": lambda image_hu: np.rot90(image_hu, 1),
    "rot180": lambda image_hu: np.rot90(image_hu, 2),
    "rot270": lambda image_hu: np.rot90(image_hu, 3),
    "transpose": lambda image_hu: np.swapaxes(image_hu, 0, 1),
    "transverse": lambda image_hu: np.swapaxes(np.rot90(image_hu, 2), 0, 1),
    "swap": lambda image_hu: image_hu[:, :, ::-1],
    "crop_tl": _crop(0, 0),
    "crop_tr": _crop(0, 1),
    "crop_bl": _crop(1, 0),
    "crop_br": _crop(1, 1),
    "crop_center": _crop(0.5, 0.5),
}
VIEWS = tuple(_VIEWS)
# Their rows were columns.
_TURNED = ("rot90", "rot270", "transpose", "transverse")
SETS = {
    "flip": ("flip_lr",),
    "d4": ("flip_lr", "flip_ud", "rot90", "rot180", "rot270", "transpose", "transverse"),
    "crops": ("crop_tl", "crop_tr", "crop_bl", "crop_br", "crop_center"),
}


def view_names(named: str | None, num_random: int = 0) -> tuple[str, ...]:
    """Return the views that flags ask for, `plain` first and each once.

    Args:
        named: views and sets of views with commas between them, such as `flip_lr,rot90` or `d4`.
        num_random: how many random ones come after these.

    Raises:
        InputError: an unknown name.
    """
    names = [PLAIN]
    for name in (part.strip() for part in (named or "").split(",") if part.strip()):
        if name not in SETS and name not in VIEWS:
            raise InputError(
                f"--pr_tta_views {named}: {name} is no view; there are {', '.join(VIEWS)}, and the "
                f"sets {', '.join(SETS)}"
            )
        names += SETS.get(name, (name,))
    names += [f"{RANDOM}{number}" for number in range(1, num_random + 1)]
    return tuple(dict.fromkeys(names))


def random_number(view: str) -> int:
    """Return the number of a random view, 0 for any other."""
    return int(view.removeprefix(RANDOM)) if view.startswith(RANDOM) else 0


def apply_view(view: str, image_hu: NDArray[Any]) -> NDArray[Any]:
    """Return a deterministic view of HU slices (rows, columns, slices)."""
    return np.ascontiguousarray(_VIEWS[view](image_hu))


class ViewTransform:
    """A sample transform after a view; all else is the transform's own."""

    def __init__(self, view: str, transform: "SampleTransform") -> None:
        self.view = view
        self.transform = transform

    def __call__(
        self,
        image_hu: NDArray[Any],
        seed: int,
        header_window: Sequence[float] | NDArray[Any] | None = None,
        spacing_mm: Sequence[float] | NDArray[Any] | None = None,
        *memory: Any,
    ) -> NDArray[Any]:
        if spacing_mm is not None and self.view in _TURNED:
            row, column, gap = spacing_mm
            spacing_mm = (column, row, gap)
        viewed = apply_view(self.view, image_hu)
        return self.transform(viewed, seed, header_window, spacing_mm, *memory)

    @property
    def header_fallback(self) -> tuple[float, float] | None:
        return self.transform.header_fallback

    @property
    def transforms_in_mm(self) -> list[str]:
        return self.transform.transforms_in_mm
