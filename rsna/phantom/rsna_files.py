"""Phantom studies as DICOM files with the headers of the RSNA 2019 challenge, quirks included.

The challenge kept few elements, replaced UIDs by names that are no valid UIDs, and took files from
scanners that store pixels in different ways; see `FAMILIES`.
"""

import hashlib
import io
from dataclasses import dataclass

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from rsna.phantom.study import Study

PADDING = -2000


@dataclass(frozen=True)
class Family:
    """How a scanner stores pixels: bits, signedness, intercept; `wraps` marks the broken kind.

    Broken files declare unsigned 12-bit values, an intercept of about 0, and hold HU modulo 4096.
    """

    bits: int
    signed: bool
    intercept: int
    wraps: bool = False


# With the shares of the challenge's training files, rare kinds made less rare.
FAMILIES: tuple[tuple[Family, float], ...] = (
    (Family(16, True, -1024), 0.50),
    (Family(12, False, -1024), 0.36),
    (Family(12, False, -1000), 0.05),
    (Family(16, True, 0), 0.04),
    (Family(12, True, 0), 0.03),
    (Family(12, False, 0, wraps=True), 0.01),
    (Family(12, False, 1, wraps=True), 0.01),
)


@dataclass(frozen=True)
class StudyNames:
    """The identifiers of one study."""

    patient_id: str
    study_id: str
    series_id: str
    image_ids: tuple[str, ...]


def names_of(patient: int, study: int, num_slices: int, seed: int) -> StudyNames:
    """Return the identifiers of a study; like the challenge's, they reveal nothing."""

    def name(length: int, *parts: int | str) -> str:
        text = "/".join(map(str, (seed, *parts)))
        return "ID_" + hashlib.sha256(text.encode()).hexdigest()[:length]

    return StudyNames(
        patient_id=name(8, "patient", patient),
        study_id=name(10, "study", patient, study),
        series_id=name(10, "series", patient, study),
        image_ids=tuple(name(9, "image", patient, study, s) for s in range(num_slices)),
    )


def draw_family(rng: np.random.Generator) -> Family:
    """Return a random way of storing pixels."""
    shares = np.array([share for _, share in FAMILIES])
    return FAMILIES[int(rng.choice(len(FAMILIES), p=shares / shares.sum()))][0]


def encode_study(
    study: Study, names: StudyNames, family: Family, num_cut: int, rng: np.random.Generator
) -> dict[str, bytes]:
    """Return the DICOM files of a study by image id, in order.

    Args:
        num_cut: columns cut from both sides together, for images that are not square.
        rng: draws the display window.
    """
    window = _draw_window(family, rng)
    protocol = study.protocol
    left = num_cut // 2
    files = {}
    stored = np.stack([store_pixels(image_hu, family) for image_hu in study.image_hu])
    stored = stored[:, :, left : stored.shape[2] - (num_cut - left)]
    corners = protocol.positions + [left * protocol.spacing, 0.0, 0.0]
    # The identifiers are no valid UIDs, and pydicom would warn of each.
    with pydicom.config.disable_value_validation():
        for image_id, pixels, corner in zip(names.image_ids, stored, corners):
            dataset = Dataset()
            dataset.SOPInstanceUID = image_id
            dataset.Modality = "CT"
            dataset.PatientID = names.patient_id
            dataset.StudyInstanceUID = names.study_id
            dataset.SeriesInstanceUID = names.series_id
            dataset.StudyID = ""
            dataset.ImagePositionPatient = [f"{v:.6f}" for v in corner]
            direction = (1.0, 0.0, 0.0, *protocol.column_direction)
            dataset.ImageOrientationPatient = [f"{v:.6f}" for v in direction]
            dataset.SamplesPerPixel = 1
            dataset.PhotometricInterpretation = "MONOCHROME2"
            dataset.Rows, dataset.Columns = pixels.shape
            dataset.PixelSpacing = [f"{protocol.spacing:.6f}"] * 2
            dataset.BitsAllocated = 16
            dataset.BitsStored = family.bits
            dataset.HighBit = family.bits - 1
            dataset.PixelRepresentation = int(family.signed)
            dataset.WindowCenter, dataset.WindowWidth = window
            dataset.RescaleIntercept = str(family.intercept)
            dataset.RescaleSlope = "1"
            dataset.PixelData = pixels.tobytes()
            dataset["PixelData"].VR = "OW"
            files[image_id] = _to_bytes(dataset, image_id)
    return files


def store_pixels(image_hu: NDArray[np.int16], family: Family) -> NDArray[np.int16 | np.uint16]:
    """Return stored values (rows, columns) of an image in HU.

    Signed 16-bit files carry a raw -2000 outside the circle that the scanner reconstructs.
    """
    if family.wraps:
        return (np.clip(image_hu, -1000, 3095).astype(np.int32) % 4096).astype(np.uint16)
    stored = image_hu.astype(np.int32) - family.intercept
    low = -(2 ** (family.bits - 1)) if family.signed else 0
    high = 2 ** (family.bits - int(family.signed)) - 1
    stored = np.clip(stored, low, high)
    if family.signed and family.bits == 16:
        rows, columns = np.ogrid[: image_hu.shape[0], : image_hu.shape[1]]
        middle = (np.array(image_hu.shape) - 1) / 2
        outside = np.hypot(rows - middle[0], columns - middle[1]) > max(image_hu.shape) / 2
        stored[outside] = PADDING
    return stored.astype(np.int16 if family.signed else np.uint16)


def _draw_window(family: Family, rng: np.random.Generator) -> tuple[object, object]:
    if family.bits == 12 and not family.signed:
        center = str(rng.choice(("00035", "00036", "00040")))
        second = "00600" if rng.random() < 0.1 else center
        return [center, second], ["00080", "02800" if second == "00600" else "00080"]
    return str(rng.choice((30, 36, 40, 47))), str(rng.choice((80, 80, 80, 100, 150)))


def _to_bytes(dataset: Dataset, image_id: str) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(image_id)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()
