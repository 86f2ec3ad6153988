"""Damages CT files on purpose, and knows what may be read from each.

A case is a function of its number: the same number damages the same file in the same way.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import gdcm
import numpy as np
import pydicom
from dicom_damages import DAMAGES, SYNTAXES
from dicom_elements import Sound, parse
from dicom_factory import ct_dataset, write_ct, write_dataset, write_enhanced_ct
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

UID = "1.2.826.0.1.3680043.8.498.1"


@dataclass(frozen=True)
class Case:
    """A damaged file: `damage` says how, `kind` is HEADER, PIXELS or CUT."""

    number: int
    sound: Sound
    data: bytes
    damage: str
    kind: str


def sound_files() -> list[Sound]:
    """Return a slice in every syntax, one of 12 bits, and two multi-frame files."""
    rng = np.random.default_rng(4667)
    rows, columns = np.mgrid[-1:1:34j, -1:1:40j]
    head = np.where(rows**2 + columns**2 < 0.8, 1064, 80) + rng.normal(0, 9, rows.shape)
    image = head.round().astype(np.int16)
    found = []
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a.dcm"
        for syntax in SYNTAXES:
            _write_compressed(path, image, syntax)
            found.append(_parsed(path, syntax, image[np.newaxis]))
        twelve = np.clip(image, 0, 4095).astype(np.uint16)
        write_ct(path, twelve, BitsStored=12, SOPInstanceUID=UID)
        found.append(_parsed(path, ExplicitVRLittleEndian, twelve[np.newaxis]))
        stack = np.stack([image, image + 7, image + 14])
        for syntax in (ExplicitVRLittleEndian, RLELossless):
            places = [(0.0, 0.0, 5.0 * index) for index in range(3)]
            write_enhanced_ct(path, stack, places, transfer_syntax=syntax, SOPInstanceUID=UID)
            found.append(_parsed(path, syntax, stack))
    return found


def make_case(number: int, files: list[Sound]) -> Case:
    """Return case `number`."""
    rng = np.random.default_rng([20191, number])
    sound = files[number % len(files)]
    damages = list(DAMAGES)
    weights = np.array([DAMAGES[damage] for damage in damages], float)
    damage = damages[rng.choice(len(damages), p=weights / weights.sum())]
    data, text, kind = damage(sound, rng)
    return Case(number, sound, data, f"{sound.name}: {damage.__name__.strip('_')} {text}", kind)


def _parsed(path: Path, syntax: str, stored: np.ndarray) -> Sound:
    name = f"{pydicom.uid.UID(syntax).name}, {stored.dtype}, {len(stored)} frames"
    return parse(path, name, syntax, stored)


def _write_compressed(path: Path, image: np.ndarray, syntax: str) -> None:
    """Write a slice; JPEG and JPEG-LS frames come from GDCM."""
    by_gdcm: dict[str, int] = {
        JPEGLossless: gdcm.TransferSyntax.JPEGLosslessProcess14,
        JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
        JPEGLSLossless: gdcm.TransferSyntax.JPEGLSLossless,
    }
    if syntax not in by_gdcm:
        write_ct(path, image, transfer_syntax=syntax, SOPInstanceUID=UID)
        return
    write_ct(path, image)
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(by_gdcm[syntax]))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    dataset = ct_dataset(image, SOPInstanceUID=UID)
    dataset.PixelData = pydicom.dcmread(path).PixelData
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    write_dataset(path, dataset, syntax, compress=False)
