"""CT-ICH: 82 labelled patients, as pairs of JPEGs or as NIfTI volumes.

Hssayeni et al., PhysioNet. v1.0.0 (2019): `Patients_CT/<patient>/{brain,bone}/<slice>.jpg` beside
`hemorrhage_diagnosis.csv`, in a brain and in a bone window. Slices are 5 mm apart, 1 is the lowest:
from foot to head, like the positions of DICOM. Pixel spacing and gantry tilt are unknown.
Up to v1.3.1: `ct_scans/<patient>.nii` beside `hemorrhage_diagnosis_raw_ct.csv`, of 75 patients.
A slice has the same id and labels in both.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pandas as pd

from common.dicom import RejectedFile, SliceHeader
from common.errors import InputError
from common.preparation import DecodedImage, SliceReader, list_files
from common.preparation.label_file import union_of
from common.preparation.label_tables import label_values, read_label_table, whole_numbers
from common.windows import SCANNED_AIR_HU
from common.words import count
from rsna.sources.base import AbstractSource, ends_in
from rsna.sources.ct_ich_nifti import SCAN_FOLDER, CtIchNiftiReader, image_id, scan_ids
from rsna_task import LABELS, SUBTYPES

logger = logging.getLogger(__name__)

IMAGE_FOLDER = "Patients_CT"
LABEL_FILE = "hemorrhage_diagnosis.csv"
NIFTI_LABEL_FILE = "hemorrhage_diagnosis_raw_ct.csv"
SLICE_SPACING_MM = 5.0

# Windows that the data were published in, as (lowest HU, width).
BRAIN_WINDOW = (-20.0, 120.0)
BONE_WINDOW = (-900.0, 3200.0)

# JPEG rings by a few grey levels next to bone: a saturated pixel can read 252, and an unsaturated
# one, deep in bone or air, less. The bone image decides where it is far outside the brain window.
_SATURATED_GREY = (3, 252)
_OUTSIDE_BRAIN_HU = (-120.0, 200.0)
# Saturated bright pixels become this where there is no bone image.
_BONE_HU = 1000.0


class CtIchSource(AbstractSource):
    """The CT-ICH folder in either layout; the volumes where both are there, as they hold HU."""

    name: ClassVar[str] = "ct_ich"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        layouts = {
            "nifti": (SCAN_FOLDER, NIFTI_LABEL_FILE),
            "jpeg": (IMAGE_FOLDER, LABEL_FILE),
        }
        found = [
            layout
            for layout, names in layouts.items()
            if all((self.folder / name).exists() for name in names)
        ]
        if not found:
            raise InputError(
                f"--pre_folder {folder}: neither {IMAGE_FOLDER} and {LABEL_FILE} there (CT-ICH "
                f"v1.0.0), nor {SCAN_FOLDER} and {NIFTI_LABEL_FILE} (v1.3.1)"
            )
        self.layout = found[0]
        self._label_path = self.folder / layouts[self.layout][1]
        if len(found) > 1:
            logger.warning("both layouts of CT-ICH are there: the volumes are read")

    @property
    def reader(self) -> SliceReader:
        return CtIchNiftiReader(self.folder) if self.layout == "nifti" else CtIchReader(self.folder)

    def files(self) -> pd.DataFrame:
        """Return one row per volume, or per slice: its brain image, or else its bone image.

        Size and time are those of both images, so that a change of either is seen.
        """
        if self.layout == "nifti":
            return list_files(self.folder, "train", SCAN_FOLDER, ends_in(".nii", ".nii.gz"))
        images = list_files(self.folder, "train", IMAGE_FOLDER, ends_in(".jpg"))
        parts = images["source_file"].str.extract(
            rf"^{IMAGE_FOLDER}/([^/]+)/(brain|bone)/(\d+)\.(?i:jpg)$"
        )
        refused = images[images["reason"].notna()]
        images = images[parts[0].notna() & images["reason"].isna()].assign(
            patient=parts[0], kind=parts[1], number=parts[2]
        )
        slices = images.sort_values("kind", ascending=False).groupby(["patient", "number"])
        files = slices.agg(
            source_file=("source_file", "first"),
            split=("split", "first"),
            size=("size", "sum"),
            mtime_ns=("mtime_ns", "max"),
        )
        return pd.concat([files, refused]).sort_values("source_file", ignore_index=True)

    def labels(self) -> pd.DataFrame:
        """Return the labels of all slices; `any` is one of the five, or what No_Hemorrhage says."""
        path = self._label_path
        table = read_label_table(path)
        table.columns = table.columns.str.lower()
        wanted = ["patientnumber", "slicenumber", "no_hemorrhage", *SUBTYPES]
        missing = [name for name in wanted if name not in table]
        if missing:
            raise InputError(f"{path} lacks the columns {', '.join(sorted(missing))}")
        patients = whole_numbers(table, "patientnumber", path).str.zfill(3)
        numbers = whole_numbers(table, "slicenumber", path).astype("int64")
        labels = label_values(table, [*SUBTYPES, "no_hemorrhage"], path)
        is_bleeding = 1 - labels["no_hemorrhage"]
        labels["any"] = union_of(labels[list(SUBTYPES)]).fillna(is_bleeding)
        contradictory = labels.index[labels["any"] == labels["no_hemorrhage"]]
        if len(contradictory):
            raise InputError(
                f"{path}: No_Hemorrhage contradicts the subtypes in "
                f"{count(len(contradictory), 'row')}, first in line {contradictory[0]}"
            )
        labels["image_id"] = list(map(image_id, patients, numbers))
        if labels["image_id"].duplicated().any():
            first = labels["image_id"].duplicated().idxmax()
            raise InputError(f"{path} repeats slices, first in line {first}: remove one of them")
        labels = labels.reset_index(drop=True)
        return labels[["image_id", *LABELS]]

    def parameters(self) -> dict[str, Any]:
        if self.layout == "nifti":
            return {"layout": self.layout}
        return {"layout": self.layout, "brain_window": BRAIN_WINDOW, "bone_window": BONE_WINDOW}


@dataclass(frozen=True)
class CtIchReader:
    """Reads HU from the JPEG pair of a slice."""

    folder: Path
    version: str = "ct_ich 1"

    def read_headers(self, source_file: str) -> list[SliceHeader]:
        """Return the header that a slice of CT-ICH would have; raise RejectedFile."""
        rows, columns = self._read_grey(source_file).shape
        _, number = _patient_and_number(source_file)
        return [
            SliceHeader(
                **self.read_ids(source_file),
                instance_number=number,
                position=(0.0, 0.0, SLICE_SPACING_MM * (number - 1)),
                rows=rows,
                columns=columns,
                bits_allocated=8,
                bits_stored=8,
                pixel_representation=0,
                rescale_slope=BRAIN_WINDOW[1] / 255,
                rescale_intercept=BRAIN_WINDOW[0],
                window_center=BRAIN_WINDOW[0] + BRAIN_WINDOW[1] / 2,
                window_width=BRAIN_WINDOW[1],
            )
        ]

    def read_ids(self, source_file: str) -> dict[str, Any]:
        patient, number = _patient_and_number(source_file)
        return {"image_id": image_id(patient, number), **scan_ids(patient)}

    def read_pixels(self, source_file: str) -> DecodedImage:
        """Return HU put together from both windows; raise RejectedFile."""
        path = Path(source_file)
        greys: dict[str, np.ndarray | None] = {}
        for kind in ("brain", "bone"):
            image_file = path.parent.parent / kind / path.name
            exists = (self.folder / image_file).exists()
            greys[kind] = self._read_grey(str(image_file)) if exists else None
        image_hu, note = combine_windows(greys["brain"], greys["bone"])
        return DecodedImage(image_hu[None], note=note)

    def _read_grey(self, source_file: str) -> np.ndarray:
        """Return a JPEG as uint8 (rows, columns)."""
        try:
            data = (self.folder / source_file).read_bytes()
        except OSError as error:
            raise RejectedFile("unreadable", error.strerror or "can't be read") from error
        if not data.endswith(b"\xff\xd9"):
            raise RejectedFile("truncated", "the JPEG has no end-of-image marker")
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        if image is None:
            raise RejectedFile("corrupt", "the JPEG can't be decoded")
        return image


def combine_windows(brain: np.ndarray | None, bone: np.ndarray | None) -> tuple[np.ndarray, str]:
    """Return int16 HU (rows, columns) of a slice, and a note where one image is missing.

    HU = v / 255 * 120 - 20 where the brain value v is not saturated, v / 255 * 3200 - 900 of the
    bone value elsewhere (steps of 12.5 HU).

    Args:
        brain, bone: uint8 (rows, columns) in their windows, or None; one must be there.

    Raises:
        RejectedFile: images of different sizes.
    """
    brain_hu, bone_hu = _to_hu(brain, BRAIN_WINDOW), _to_hu(bone, BONE_WINDOW)
    if brain is None or brain_hu is None:
        assert bone_hu is not None
        return _rounded(bone_hu), "the brain image is missing: HU in steps of 12.5"
    low, high = brain <= _SATURATED_GREY[0], brain >= _SATURATED_GREY[1]
    if bone_hu is None:
        note = "the bone image is missing: what the brain image saturates is air or bone"
        bone_hu = np.where(low, SCANNED_AIR_HU, _BONE_HU)
    elif bone_hu.shape != brain_hu.shape:
        raise RejectedFile("corrupt", f"brain {brain_hu.shape} and bone {bone_hu.shape} differ")
    else:
        note = ""
        low |= bone_hu < _OUTSIDE_BRAIN_HU[0]
        high |= bone_hu > _OUTSIDE_BRAIN_HU[1]
    bottom, top = BRAIN_WINDOW[0], BRAIN_WINDOW[0] + BRAIN_WINDOW[1]
    combined = np.where(high, np.maximum(bone_hu, top), brain_hu)
    return _rounded(np.where(low, np.minimum(bone_hu, bottom), combined)), note


def _patient_and_number(source_file: str) -> tuple[str, int]:
    path = Path(source_file)
    return path.parent.parent.name, int(path.stem)


def _to_hu(grey: np.ndarray | None, window: tuple[float, float]) -> np.ndarray | None:
    return None if grey is None else grey / np.float32(255) * window[1] + window[0]


def _rounded(image_hu: np.ndarray) -> np.ndarray:
    return np.rint(image_hu).astype(np.int16)
