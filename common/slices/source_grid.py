"""The pixel grid of the source: where the pixels of stored slices lie in the images of their files.

Preparation turns images upright and may cut, resample, pad and resize them (`PixelSteps`).
"""

from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.dicom.upright import AS_STORED, TURNS, Turn, turn_back
from common.errors import InputError
from common.slices.pixel_steps import recorded_steps
from common.slices.table import SliceTable


@dataclass(frozen=True)
class SourceGrid:
    """The image of a file that a stored slice was made of.

    Attributes:
        matrix: float64 (3, 3), (x, y) of a pixel of the stored slice to the upright source; places
            are those of pixel centres.
        shape: rows and columns of the source, upright.
        turn: what turned it upright.
    """

    matrix: NDArray[np.float64]
    shape: tuple[int, int]
    turn: Turn

    def map_back(
        self, image: NDArray[np.float32], to_stored: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Return an image on the grid of the source, as its file has it; 0 where it shows nothing.

        Args:
            image: float32 (rows, columns), such as a map over the input of a network.
            to_stored: (3, 3), (x, y) of its pixels to the stored slice.
        """
        matrix = (self.matrix @ to_stored)[:2]
        upright = cv2.warpAffine(image, matrix, self.shape[::-1], flags=cv2.INTER_LINEAR)
        return np.ascontiguousarray(turn_back(upright, self.turn), np.float32)


def source_grids(table: SliceTable, rows: NDArray[np.int64]) -> list[SourceGrid]:
    """Return the grid of the source of each readable row.

    Raises:
        InputError: steps changed the slices, and the dataset does not say where they lay.
    """
    frame = table.frame.iloc[rows]
    turns = {text: turn for turn, text in TURNS.items()}
    has_steps = bool(recorded_steps(table.folder))
    grids = []
    for box, turned, *shape in frame[["source_box", "turned", "rows", "columns"]].itertuples(
        index=False
    ):
        turn = AS_STORED if pd.isna(turned) else turns[str(turned)]
        if pd.isna(box) and has_steps:
            raise InputError(
                f"{table.folder}: an earlier version cut or resized these slices and did not "
                f"record from where (source_box): prepare them again, in a new folder"
            )
        stored = int(shape[0]), int(shape[1])
        grids.append(_grid(None if pd.isna(box) else str(box), stored, turn))
    return grids


def _grid(box: str | None, stored: tuple[int, int], turn: Turn) -> SourceGrid:
    if box is None:
        return SourceGrid(np.eye(3), stored, turn)
    top, bottom, left, right, rows, columns = map(float, box.split())
    matrix = np.eye(3)
    for axis, (first, last, length) in enumerate(
        ((left, right, stored[1]), (top, bottom, stored[0]))
    ):
        scale = (last - first) / length
        matrix[axis, axis], matrix[axis, 2] = scale, first + (scale - 1) / 2
    return SourceGrid(matrix, (int(rows), int(columns)), turn)
