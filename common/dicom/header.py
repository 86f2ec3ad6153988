"""The header of a slice, read without its pixels."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydicom.dataset import Dataset

from common.dicom import elements, geometry, selection
from common.dicom.checks import StoredImage, check_image
from common.dicom.description import describe
from common.dicom.kernels import is_sharp
from common.dicom.part10 import OpenFile, open_dicom
from common.dicom.rejection import RejectedFile

HU_UNITS = {"HU", "HU_MOD"}
"""Values of RescaleType that are Hounsfield units, PS3.3 C.11.1.1.2; absent means HU for CT."""
SPACING_MM = (0.001, 100.0)
POSITION_MM = (-1e5, 1e5)
"""Beyond these no scanner measures: 0, negative and absurd numbers are damage, not geometry."""
INTERCEPT_HU = (-41000.0, 41000.0)
"""32,768 for signed values stored as unsigned ones, and 8,192 as some scanners have it."""

LOSSY_SYNTAXES = {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 81)}
"""Those that are never lossless; of the others, LossyImageCompression tells."""

_ACQUISITION_TIMES = ("FrameAcquisitionDateTime", "AcquisitionTime", "AcquisitionDateTime")


@dataclass(frozen=True, kw_only=True)
class PixelHeader(StoredImage):
    """Kind and size of the stored pixels of one slice, and how they become Hounsfield units."""

    frame: int | None = None
    padding_value: int | None = None
    padding_limit: int | None = None
    rescale_slope: float
    rescale_intercept: float
    transfer_syntax: str = ""


@dataclass(frozen=True, kw_only=True)
class SliceHeader(PixelHeader):
    """One slice of one file, in DICOM's own terms; None where an element is absent.

    image_id is the SOPInstanceUID, with `_<frame>` in multi-frame files; patient_id may be empty.
    What `description` reads is there for subgroups: age_decade is 90 above 89, contrast None where
    nothing speaks of it. Times are seconds of the day. is_sharp is true of reconstructions for bone
    or lung, None where nothing says so (`kernels`). left_out is the status of a slice that is sound
    but not asked for, empty elsewhere (`selection`). Names that lead to a patient or a hospital are
    hashes (`hash_of`): patient_hash is of name and birth date where there is no PatientID,
    accession_hash is read only where it is asked for.
    Lengths are mm, in the patient's coordinates: x to the left, y to the back, z to the head.
    """

    image_id: str
    patient_id: str
    study_id: str
    series_id: str
    modality: str = "CT"
    image_type: tuple[str, ...] = ()
    instance_number: int | None = None
    position: tuple[float, ...] | None = None
    orientation: tuple[float, ...] | None = None
    spacing_row: float | None = None
    spacing_column: float | None = None
    window_center: float | None = None
    window_width: float | None = None
    frame_of_reference: str = ""
    slice_location: float | None = None
    slice_thickness: float | None = None
    kernel: str = ""
    is_sharp: bool | None = None
    kvp: float | None = None
    acquisition_number: int | None = None
    temporal_position: int | None = None
    acquisition_time: float | None = None
    content_time: float | None = None
    lossy: bool = False
    patient_hash: str | None = None
    institution_hash: str | None = None
    accession_hash: str | None = None
    spacing_between_slices: float | None = None
    manufacturer: str | None = None
    model: str | None = None
    age_decade: int | None = None
    sex: str | None = None
    contrast: bool | None = None
    left_out: str = ""
    left_out_reason: str = ""

    @property
    def normal(self) -> np.ndarray | None:
        """The slice normal, a unit vector (3,) that points to the head in axial slices."""
        return None if self.orientation is None else geometry.slice_normal(self.orientation)

    @property
    def position_mm(self) -> float | None:
        """The position along the slice normal; along z where the orientation is unknown."""
        if self.position is None:
            return None
        normal = self.normal
        return float(np.dot(self.position, (0.0, 0.0, 1.0) if normal is None else normal))

    @property
    def orientation_text(self) -> str:
        """The orientation as DICOM writes it, empty where it is unknown."""
        return "\\".join(map(repr, self.orientation or ()))

    @property
    def tilt_deg(self) -> float | None:
        """The gantry tilt in degrees, signed as GantryDetectorTilt; None unless near axial."""
        return None if self.orientation is None else geometry.gantry_tilt(self.orientation)


def read_headers(
    file: Path | BinaryIO, *, sort_out: bool = False, with_accession: bool = False
) -> list[SliceHeader]:
    """Return the header of every slice in a file, one per frame, without reading pixels.

    Args:
        file: a path or a seekable stream.
        sort_out: fill in `left_out` and its reason.
        with_accession: fill in `accession_hash`.

    Raises:
        RejectedFile: no image can come of this file, for a reason that its header shows.
    """
    with open_dicom(file) as opened:
        return slice_headers(opened, sort_out=sort_out, with_accession=with_accession)


def slice_headers(
    opened: OpenFile, *, sort_out: bool = False, with_accession: bool = False
) -> list[SliceHeader]:
    """Return the header of every slice of an open file; raise RejectedFile."""
    stored = check_image(opened)
    return [
        _frame_header(opened, stored, frame, sort_out, with_accession)
        for frame in range(stored.num_frames)
    ]


def pixel_headers(opened: OpenFile) -> list[PixelHeader]:
    """Return what decoding needs to know of every slice of an open file; raise RejectedFile."""
    stored = check_image(opened)
    return [
        PixelHeader(**_pixel_fields(opened, stored, frame)) for frame in range(stored.num_frames)
    ]


def _pixel_fields(opened: OpenFile, stored: StoredImage, frame: int) -> dict[str, Any]:
    slope, intercept = _rescale(opened.dataset, frame, stored.bits_stored)
    return {
        "frame": None if stored.num_frames == 1 else frame,
        **vars(stored),
        "padding_value": elements.integer(opened.dataset, "PixelPaddingValue"),
        "padding_limit": elements.integer(opened.dataset, "PixelPaddingRangeLimit"),
        "rescale_slope": slope,
        "rescale_intercept": intercept,
        "transfer_syntax": opened.transfer_syntax,
    }


def _frame_header(
    opened: OpenFile, stored: StoredImage, frame: int, sort_out: bool, with_accession: bool
) -> SliceHeader:
    dataset = opened.dataset
    of_pixels = _pixel_fields(opened, stored, frame)
    orientation = elements.numbers(dataset, "ImageOrientationPatient", 6, frame)
    if orientation is not None:
        is_unit = max(map(abs, orientation)) < 2 and geometry.is_orientation(orientation)
        orientation = orientation if is_unit else None
    spacing = _in_range(dataset, "PixelSpacing", 2, frame, SPACING_MM) or (None, None)
    uid = elements.text(dataset, "SOPInstanceUID")
    kernel = "\\".join(elements.texts(dataset, "ConvolutionKernel", frame))
    left_out = (sort_out and selection.why_left_out(dataset, frame, orientation)) or ("", "")
    institution = elements.text(dataset, "InstitutionName")
    accession = elements.text(dataset, "AccessionNumber") if with_accession else ""
    patient_id = elements.text(dataset, "PatientID")
    return SliceHeader(
        image_id=uid if stored.num_frames == 1 else f"{uid}_{frame}",
        patient_id=patient_id,
        patient_hash=None if patient_id else _person(dataset),
        lossy=opened.transfer_syntax in LOSSY_SYNTAXES
        or elements.text(dataset, "LossyImageCompression") == "01",
        study_id=elements.text(dataset, "StudyInstanceUID"),
        series_id=elements.text(dataset, "SeriesInstanceUID"),
        modality=elements.text(dataset, "Modality"),
        image_type=elements.texts(dataset, "ImageType"),
        instance_number=_whole(dataset, "InstanceNumber"),
        position=_position(dataset, stored.num_frames, frame),
        orientation=orientation,
        spacing_row=spacing[0],
        spacing_column=spacing[1],
        window_center=elements.first_number(dataset, "WindowCenter", frame),
        window_width=elements.first_number(dataset, "WindowWidth", frame),
        frame_of_reference=elements.text(dataset, "FrameOfReferenceUID"),
        slice_location=elements.first_number(dataset, "SliceLocation"),
        slice_thickness=elements.first_number(dataset, "SliceThickness", frame),
        kernel=kernel,
        is_sharp=is_sharp(kernel, elements.text(dataset, "SeriesDescription")),
        kvp=elements.first_number(dataset, "KVP", frame),
        acquisition_number=_whole(dataset, "AcquisitionNumber"),
        temporal_position=_whole(dataset, "TemporalPositionIdentifier")
        or _whole(dataset, "TemporalPositionIndex", frame),
        acquisition_time=elements.seconds(dataset, _ACQUISITION_TIMES, frame),
        content_time=elements.seconds(dataset, ("ContentTime",)),
        institution_hash=hash_of(" ".join(institution.casefold().split())),
        accession_hash=hash_of(accession),
        left_out=left_out[0],
        left_out_reason=left_out[1],
        **of_pixels,
        **describe(dataset, frame),
    )


def hash_of(text: str) -> str | None:
    """Return a hash of a text; None for an empty one."""
    return hashlib.sha256(text.encode()).hexdigest()[:16] if text else None


def _person(dataset: Dataset) -> str | None:
    """Return a hash of PatientName and PatientBirthDate; None without a name."""
    name = " ".join(elements.text(dataset, "PatientName").replace("^", " ").casefold().split())
    return hash_of(f"{name}/{elements.text(dataset, 'PatientBirthDate')}") if name else None


def _position(dataset: Dataset, num_frames: int, frame: int) -> tuple[float, ...] | None:
    """Return the position of a slice; unknown in frames that all share the one of their file."""
    if num_frames > 1 and "PerFrameFunctionalGroupsSequence" not in dataset:
        return None
    return _in_range(dataset, "ImagePositionPatient", 3, frame, POSITION_MM)


def _whole(dataset: Dataset, keyword: str, frame: int = 0) -> int | None:
    """Return the first value of an element as an integer; None where it is no number."""
    value = elements.first_number(dataset, keyword, frame)
    return None if value is None else int(value)


def _in_range(
    dataset: Dataset, keyword: str, count: int, frame: int, limits: tuple[float, float]
) -> tuple[float, ...] | None:
    """Return the numbers of an element, all within limits; None where it is absent."""
    values = elements.numbers(dataset, keyword, count, frame)
    low, high = limits
    if values is not None and not all(low <= value <= high for value in values):
        worst = next(value for value in values if not low <= value <= high)
        raise RejectedFile("corrupt", f"{keyword} is {worst:g}, not within {low:g} and {high:g}")
    return values


def _rescale(dataset: Dataset, frame: int, bits_stored: int) -> tuple[float, float]:
    """Return slope and intercept to HU; raise RejectedFile where there are none."""
    units = {value.upper() for value in elements.texts(dataset, "RescaleType", frame)}
    if units - HU_UNITS:
        raise RejectedFile("not_hu", "RescaleType is not HU")
    slope = elements.numbers(dataset, "RescaleSlope", 1, frame)
    intercept = _in_range(dataset, "RescaleIntercept", 1, frame, INTERCEPT_HU)
    if slope is None or intercept is None:
        raise RejectedFile("no_rescale", "no RescaleSlope or RescaleIntercept: HU are unknown")
    if slope[0] * ((1 << bits_stored) - 1) < 1:  # all stored values would be one HU
        raise RejectedFile("corrupt", f"RescaleSlope is {slope[0]:g}")
    return slope[0], intercept[0]
