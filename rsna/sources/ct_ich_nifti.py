"""Read CT-ICH as it is published since v1.1: one NIfTI volume per patient, in Hounsfield units.

`ct_scans/<patient>.nii`, whose slice k (from 0) is SliceNumber k + 1 of
`hemorrhage_diagnosis_raw_ct.csv`. Images are turned as radiologists see them, and as the JPEGs of
v1.0.0 are: the patient's right on the left, the front on top.
"""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from common.dicom import RejectedFile, SliceHeader
from common.dicom.checks import MAX_MATRIX, MAX_PIXELS
from common.dicom.hounsfield import MAX_HU, PADDING_BELOW_HU
from common.preparation import DecodedImage
from common.windows import AIR_HU

SCAN_FOLDER = "ct_scans"
# Nibabel's coordinates are to the right, the front and the head; DICOM's to the left and the back.
_TO_DICOM = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class CtIchNiftiReader:
    """Reads the slices of a volume; a file is one scan."""

    folder: Path
    version: str = "ct_ich nifti 2"

    def read_headers(self, source_file: str) -> list[SliceHeader]:
        volume = _Volume.open(self.folder / source_file)
        patient = _patient(source_file)
        # Columns run along x and rows along y of the turned volume, both backwards.
        axes = _TO_DICOM @ volume.affine[:3, :3]
        spacing = np.linalg.norm(axes, axis=0)
        columns, rows, num_slices = volume.shape
        data, data_type = volume.image.dataobj, volume.image.get_data_dtype()
        orientation = (*(-axes[:, 0] / spacing[0]), *(-axes[:, 1] / spacing[1]))
        headers = []
        for index in range(num_slices):
            corner = volume.affine @ (columns - 1, rows - 1, volume.place(index), 1)
            headers.append(
                SliceHeader(
                    **scan_ids(patient),
                    image_id=image_id(patient, index + 1),
                    frame=index,
                    instance_number=index + 1,
                    position=tuple(float(value) for value in _TO_DICOM @ corner[:3]),
                    orientation=tuple(float(value) for value in orientation),
                    rows=rows,
                    columns=columns,
                    spacing_row=float(spacing[1]),
                    spacing_column=float(spacing[0]),
                    bits_allocated=8 * data_type.itemsize,
                    bits_stored=8 * data_type.itemsize,
                    pixel_representation=int(data_type.kind != "u"),
                    rescale_slope=float(data.slope),
                    rescale_intercept=float(data.inter),
                    num_frames=num_slices,
                )
            )
        return headers

    def read_ids(self, source_file: str) -> dict[str, str]:
        return scan_ids(_patient(source_file))

    def read_pixels(self, source_file: str) -> DecodedImage:
        volume = _Volume.open(self.folder / source_file)
        values = volume.read()
        turned = np.nan_to_num(values, nan=AIR_HU)[::-1, ::-1].transpose(2, 1, 0)
        num_padding = int(np.count_nonzero(turned < PADDING_BELOW_HU))
        image_hu = np.rint(np.clip(turned, AIR_HU, MAX_HU)).astype(np.int16)
        note = "" if volume.is_placed else "no qform and no sform: the orientation was assumed"
        return DecodedImage(np.ascontiguousarray(image_hu), num_padding, note)


@dataclass(frozen=True)
class _Volume:
    """A volume with its axes to the right, the front and the head.

    `flips` says which axes of the file run the other way; slices keep the number that they have
    in the file.
    """

    image: Any
    affine: np.ndarray
    axes: tuple[int, ...]
    flips: tuple[bool, ...]

    @classmethod
    def open(cls, path: Path) -> "_Volume":
        """Return the volume in a file, its pixels not yet read; raise RejectedFile."""
        import nibabel
        from nibabel.orientations import inv_ornt_aff, io_orientation

        try:
            with open(path, "rb"):
                pass
            image: Any = nibabel.load(path)
            header, shape = image.header, _without_ones(image.shape)
            data_type = image.get_data_dtype()
            orientation = io_orientation(image.affine)
        except OSError as error:
            raise RejectedFile("unreadable", error.strerror or "can't be read") from error
        except Exception as error:
            reason = f"no NIfTI file that can be read ({type(error).__name__})"
            raise RejectedFile("corrupt", reason) from error
        if len(shape) != 3 or min(shape) < 1:
            raise RejectedFile("corrupt", f"a volume has three dimensions, this one is {shape}")
        if max(shape) > MAX_MATRIX or np.prod(shape, dtype=np.int64) > MAX_PIXELS:
            raise RejectedFile("too_large", f"a volume of {shape}, above the limits")
        if data_type.kind not in "iuf":
            raise RejectedFile("corrupt", f"values of type {data_type}")
        if np.isnan(orientation).any() or not np.isfinite(image.affine).all():
            raise RejectedFile("corrupt", "the affine matrix is not that of a volume")
        if int(orientation[2, 0]) != 2:
            raise RejectedFile("not_axial", "the slices of the volume are not axial")
        needed = int(header["vox_offset"]) + int(np.prod(shape)) * data_type.itemsize
        if path.suffix != ".gz" and path.stat().st_size < needed:
            raise RejectedFile("truncated", f"{path.stat().st_size} of {needed} bytes")
        axes = tuple(int(axis) for axis in orientation[:, 0])
        flips = tuple(bool(sign < 0) for sign in orientation[:, 1])
        return cls(image, image.affine @ inv_ornt_aff(orientation, shape), axes, flips)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The size along x, y and z."""
        shape = _without_ones(self.image.shape)
        return shape[self.axes.index(0)], shape[self.axes.index(1)], shape[2]

    @property
    def is_placed(self) -> bool:
        """Whether the file has the orientation of its axes."""
        return any(int(self.image.header[name]) > 0 for name in ("qform_code", "sform_code"))

    def place(self, index: int) -> int:
        """Return the place along z of the slice with number `index` in the file."""
        return self.shape[2] - 1 - index if self.flips[2] else index

    def read(self) -> np.ndarray:
        """Return the values, scaled, as (x, y, slice of the file); raise RejectedFile."""
        try:
            values = np.asarray(self.image.dataobj)
            values = values.reshape(_without_ones(values.shape))
        except (OSError, EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
            raise RejectedFile("truncated", "the file ends before its pixels do") from error
        if self.axes[0] == 1:
            values = values.swapaxes(0, 1)
        # The signs belong to the axes of the file.
        flips = self.flips[:2] if self.axes[0] == 0 else self.flips[1::-1]
        return values[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape without what follows the third dimension and has one place: (x, y, z, 1)."""
    return shape[:3] if set(shape[3:]) <= {1} else shape


def _patient(source_file: str) -> str:
    """Return the patient in three digits, as the folders of v1.0.0 are called."""
    return PurePosixPath(source_file).name.partition(".")[0].zfill(3)


def image_id(patient: str, number: int) -> str:
    """Return the id of a slice: a hash, as image ids are shown where patient ids must not be."""
    digest = hashlib.blake2b(f"{patient}/{number}".encode(), digest_size=6).hexdigest()
    return f"CT-ICH_{digest}"


def scan_ids(patient: str) -> dict[str, Any]:
    """Return patient_id, study_id and series_id: a patient has one scan."""
    study = f"CT-ICH_{patient}"
    return {"patient_id": patient, "study_id": study, "series_id": study}
