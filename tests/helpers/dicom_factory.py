"""Makes CT files for tests: plain, compressed, multi-frame, and as the RSNA challenge has them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import config as pydicom_config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def write_ct(
    path: Path,
    pixels: np.ndarray,
    *,
    transfer_syntax: str = ExplicitVRLittleEndian,
    **tags: Any,
) -> Path:
    """Write one CT file and return its path.

    Args:
        path: where to; its folder is made.
        pixels: stored values, not HU, (rows, columns) or (frames, rows, columns). The dtype
            (uint8, uint16, int16) sets BitsAllocated, BitsStored and PixelRepresentation.
        transfer_syntax: native, deflated, RLE or JPEG 2000.
        tags: elements by DICOM keyword, in place of the defaults; None leaves an element out.
    """
    write_dataset(path, ct_dataset(pixels, **tags), transfer_syntax)
    return path


def write_rsna(path: Path, pixels: np.ndarray, image_id: str, **tags: Any) -> Path:
    """Write a file with only the elements that the RSNA challenge kept, and return its path.

    Its UIDs (`ID_...`) are not valid in DICOM; signed pixels get 16 stored bits and one window,
    unsigned ones 12 stored bits and two windows.
    """
    signed = pixels.dtype == np.int16
    elements: dict[str, Any] = {
        "SOPClassUID": None,
        "SOPInstanceUID": image_id,
        "PatientID": "ID_0a1b2c3d",
        "StudyInstanceUID": "ID_0123456789",
        "SeriesInstanceUID": "ID_abcdef0123",
        "StudyID": "",
        "ImageType": None,
        "InstanceNumber": None,
        "WindowCenter": "30" if signed else ["00036", "00036"],
        "WindowWidth": "80" if signed else ["00080", "00080"],
        "BitsStored": 16 if signed else 12,
        "HighBit": 15 if signed else 11,
    }
    return write_ct(path, pixels, **(elements | tags))


def write_enhanced_ct(
    path: Path,
    pixels: np.ndarray,
    positions: Sequence[Sequence[float]],
    *,
    intercepts: Sequence[float] | None = None,
    transfer_syntax: str = ExplicitVRLittleEndian,
    **tags: Any,
) -> Path:
    """Write an enhanced multi-frame CT file and return its path.

    Args:
        path: where to.
        pixels: stored values (frames, rows, columns).
        positions: ImagePositionPatient of every frame, mm.
        intercepts: RescaleIntercept of every frame; -1024 for all if None.
        transfer_syntax: as for `write_ct`.
        tags: as for `write_ct`.
    """
    moved = {"ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "WindowCenter"}
    moved |= {"WindowWidth", "RescaleSlope", "RescaleIntercept"}
    elements: dict[str, Any] = {keyword: None for keyword in moved}
    elements |= {"SOPClassUID": EnhancedCTImageStorage, "NumberOfFrames": len(pixels)}
    dataset = ct_dataset(pixels, **(elements | tags))
    shared = Dataset()
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=list(AXIAL))]
    shared.PixelMeasuresSequence = [_item(PixelSpacing=[0.5, 0.5])]
    shared.FrameVOILUTSequence = [_item(WindowCenter=40, WindowWidth=80)]
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for number, position in enumerate(positions):
        frame = Dataset()
        frame.PlanePositionSequence = [_item(ImagePositionPatient=list(position))]
        intercept = -1024 if intercepts is None else intercepts[number]
        rescale = _item(RescaleSlope=1, RescaleIntercept=intercept, RescaleType="HU")
        frame.PixelValueTransformationSequence = [rescale]
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    write_dataset(path, dataset, transfer_syntax)
    return path


def ct_dataset(pixels: np.ndarray, **tags: Any) -> Dataset:
    """Return the dataset that `write_ct` writes."""
    bits = 8 * pixels.dtype.itemsize
    elements: dict[str, Any] = {
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": generate_uid(),
        "Modality": "CT",
        "PatientID": "patient",
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.4",
        "InstanceNumber": 1,
        "ImagePositionPatient": [-125.0, -125.0, 0.0],
        "ImageOrientationPatient": list(AXIAL),
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "PixelSpacing": [0.5, 0.5],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": tags.get("BitsStored", bits) - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "WindowCenter": 40,
        "WindowWidth": 80,
        "RescaleIntercept": -1024,
        "RescaleSlope": 1,
        "NumberOfFrames": pixels.shape[0] if pixels.ndim == 3 else None,
    }
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    with _unchecked():
        for keyword, value in (elements | tags).items():
            if value is not None:
                setattr(dataset, keyword, value)
    if "PixelData" not in dataset:
        dataset.PixelData = np.ascontiguousarray(pixels).tobytes()
        dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    return dataset


def write_dataset(
    path: Path,
    dataset: Dataset,
    transfer_syntax: str = ExplicitVRLittleEndian,
    *,
    compress: bool = True,
) -> None:
    """Write `dataset` as a DICOM file, as it is: nothing is checked.

    Its pixels are compressed as the transfer syntax says, unless `compress` is False.
    """
    syntax = pydicom.uid.UID(transfer_syntax)
    if syntax == ExplicitVRBigEndian and dataset.BitsAllocated == 16:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if syntax.is_encapsulated and compress:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.preamble = bytes(128)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _unchecked():
        pydicom.dcmwrite(
            path,
            dataset,
            implicit_vr=syntax == ImplicitVRLittleEndian,
            little_endian=syntax != ExplicitVRBigEndian,
            enforce_file_format=False,
            overwrite=True,
            force_encoding=True,
        )


def _item(**tags: Any) -> Dataset:
    item = Dataset()
    for keyword, value in tags.items():
        setattr(item, keyword, value)
    return item


def _unchecked() -> Any:
    return pydicom_config.disable_value_validation()
