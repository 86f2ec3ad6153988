"""CT images as compressed frames, by the encoders of other libraries."""

from pathlib import Path

import gdcm
import numpy as np
from dicom_factory import ct_dataset, write_ct, write_dataset
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    UID,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

# As CT is: air, bone and noisy brain; odd numbers of rows and columns.
_ROWS, _COLUMNS = np.mgrid[0:37, 0:51]
CT_HU = (
    40 + np.random.default_rng(0).normal(0, 12, (37, 51)).round()
    - 980 * (np.hypot(_ROWS - 18, _COLUMNS - 25) > 17)
    + 900 * (np.abs(np.hypot(_ROWS - 18, _COLUMNS - 25) - 15) < 1.5)
).astype(np.int16)  # fmt: skip
GDCM_SYNTAXES = {
    JPEGLossless: gdcm.TransferSyntax.JPEGLosslessProcess14,
    JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    JPEGLSLossless: gdcm.TransferSyntax.JPEGLSLossless,
    JPEG2000Lossless: gdcm.TransferSyntax.JPEG2000Lossless,
    RLELossless: gdcm.TransferSyntax.RLELossless,
}


def gdcm_frame(folder: Path, stored: np.ndarray, syntax: UID, **tags: object) -> bytes:
    """The frame that GDCM's encoder makes of an image."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(write_ct(folder / "raw.dcm", stored, **tags)))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(GDCM_SYNTAXES[syntax]))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(folder / "gdcm.dcm"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    written = dcmread(folder / "gdcm.dcm")
    assert written.file_meta.TransferSyntaxUID == syntax
    (frame,) = generate_frames(written.PixelData, number_of_frames=1)
    return frame


def file_of_frames(
    path: Path, stored: np.ndarray, frames: list[bytes], syntax: str, **tags: object
) -> Path:
    """A file whose pixels are the given compressed frames."""
    dataset = ct_dataset(stored, **tags)
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].is_undefined_length = True
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = syntax
    write_dataset(path, dataset, syntax, compress=False)
    return path
