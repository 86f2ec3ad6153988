"""One tree of DICOM in many guises: other names, folders, archives and lossless encodings."""

import os
import zipfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from coded_files import GDCM_SYNTAXES, gdcm_frame
from dicom_factory import ct_dataset, write_dataset, write_enhanced_ct
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
)

NATIVE = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
LOSSLESS = (*NATIVE, *GDCM_SYNTAXES, HTJ2KLossless)
SIZE = 24
NAMES = (
    *(b"IM%04d", b"%d.dcm", b"slice %d.DCM", b"%d", b"Sch\xe4del-%d", "Schädel-%d".encode()),
    *(b".hidden%d", b"%d.csv", b"\\xff%d", b"a!%d"),
)


def tree(folder: Path) -> list[Dataset | bytes]:
    """Files of every kind: several patients, kernels, passes, copies, repeated and missing ids.

    Args:
        folder: an empty one, to work in.
    """
    rng = np.random.default_rng(4667)
    files: list[Dataset | bytes] = []

    def add(number: int, patient: str = "a", series: str = "1.1", **tags: Any) -> None:
        kind = tags.pop("kind", np.uint16)
        low = -1024 if kind == np.int16 else 0
        pixels = tags.pop("pixels", rng.integers(low, low + 3000, (SIZE, SIZE)).astype(kind))
        elements = {
            "SOPInstanceUID": f"{series}.{ord(patient)}.{len(files)}",
            "SeriesInstanceUID": series,
            "StudyInstanceUID": f"1.{ord(patient)}",
            "PatientID": patient,
            "InstanceNumber": 40 - number,
            "ImagePositionPatient": [-10.0, -10.0, 5.0 * number],
            "ConvolutionKernel": "H30s",
        }
        files.append(ct_dataset(pixels, **(elements | tags)))

    twelve = {"BitsStored": 12, "HighBit": 11}
    for number in (0, 1, 2, 4, 5, 6):  # a gap
        add(number, **twelve)
        add(number, **twelve, ConvolutionKernel="H60s")
    for number in range(4):
        add(number, "b", f"2.{number}", kind=np.int16, RescaleIntercept=0)
        add(number, "c", "3", SOPInstanceUID="3.3")
        add(number, "c", "3.1", ImageOrientationPatient=[-1, 0, 0, 0, 1, 0])
        add(number, "c", "3.2", ImageOrientationPatient=[0, -1, 0, 1, 0, 0])
        add(number, "d", "4", StudyInstanceUID="1.97")  # the study of another patient
        for time in (1, 2):
            add(number, "e", "5", AcquisitionTime=f"12000{time}", InstanceNumber=1)
        place = {} if number == 2 else {"ImagePositionPatient": [-10.0, -10.0, 5.0 * number]}
        add(number, "f", "6", **({"ImagePositionPatient": None} | place))
        wrapped = rng.integers(-1000, 3000, (SIZE, SIZE)) % 4096
        add(number, "g", "7", pixels=wrapped.astype(np.uint16), RescaleIntercept=0, **twelve)
        padded = rng.integers(0, 3000, (SIZE, SIZE)).astype(np.uint16)
        padded[:3] = 63536
        add(number, "h", "8", pixels=padded)
    for number in (0, 0, 1):  # nothing tells the first two apart
        add(number, "i", "9", InstanceNumber=None, PatientID=None)
    add(0, "j", "10", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    add(0, "j", "10.1", Modality="MR")
    add(0, "j", "10.2", SOPInstanceUID=None)
    add(0, "j", "10.3", RescaleSlope=None)
    add(0, "i", "9.1", InstanceNumber=None, PatientID=None, SOPInstanceUID="9.1")
    again = deepcopy(files[-1])  # the same image under two ids
    again.SOPInstanceUID = "9.2"
    files.append(again)
    for number in (1, 5, 9):
        files.append(deepcopy(files[number]))
        other = deepcopy(files[number])
        assert isinstance(other, Dataset)
        other.SeriesInstanceUID, other.SeriesDescription = "1.0", "a copy in another series"
        files.append(other)
    positions = [(0.0, 0.0, z) for z in (10.0, 0.0, 5.0)]
    stored = rng.integers(0, 3000, (3, SIZE, SIZE)).astype(np.uint16)
    enhanced = {"StudyInstanceUID": "1.107", "SeriesInstanceUID": "11", "SOPInstanceUID": "11.1"}
    path = write_enhanced_ct(folder / "enhanced.dcm", stored, positions, **enhanced)
    files += [dcmread(path), b"no DICOM", b"", path.read_bytes()[:300]]
    return files


def write_export(
    folder: Path, files: list[Dataset | bytes], rng: np.random.Generator, work: Path
) -> None:
    """Write the files of a tree in any order, under any names, in any lossless encoding.

    Args:
        folder: where to.
        files: what `tree` returned.
        rng: chooses.
        work: a folder to work in.
    """
    folders = [b"", b"a", b"a/b/c", b"Sch\xe4del", b"x.zip!"]
    archives: dict[bytes, list[tuple[str, bytes]]] = {b"one.zip": [], b"a/two.ZIP": []}
    for place, number in enumerate(rng.permutation(len(files))):
        data = _encoded(files[number], rng, work)
        name = NAMES[rng.integers(len(NAMES))] % place
        where = rng.integers(len(folders) + len(archives))
        if where < len(folders):
            path = os.path.join(os.fsencode(folder), folders[where], name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            Path(os.fsdecode(path)).write_bytes(data)
        else:
            member = name.decode("utf-8", "replace")
            list(archives.values())[where - len(folders)].append((member, data))
    for name, members in archives.items():
        path = Path(os.fsdecode(os.path.join(os.fsencode(folder), name)))
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w", int(rng.choice([0, 8]))) as archive:
            for member, data in members:
                archive.writestr(member, data)


def _encoded(file: Dataset | bytes, rng: np.random.Generator, work: Path) -> bytes:
    if isinstance(file, bytes):
        return file
    syntax = LOSSLESS[rng.integers(len(LOSSLESS))]
    dataset, path = deepcopy(file), work / "encoded.dcm"
    if syntax not in NATIVE:
        kind = np.int16 if dataset.PixelRepresentation else np.uint16
        frames = np.frombuffer(dataset.PixelData, kind).reshape(-1, dataset.Rows, dataset.Columns)
        dataset.PixelData = encapsulate([_frame(pixels, syntax, work) for pixels in frames])
        dataset["PixelData"].is_undefined_length = True
        dataset["PixelData"].VR = "OB"
    write_dataset(path, dataset, syntax, compress=False)
    return path.read_bytes()


def _frame(pixels: np.ndarray, syntax: UID, work: Path) -> bytes:
    if syntax == HTJ2KLossless:
        return bytes(imagecodecs.htj2k_encode(pixels))
    return gdcm_frame(work, pixels, syntax)
