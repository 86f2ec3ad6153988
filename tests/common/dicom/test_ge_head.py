"""One real tilted head with irregular spacing: order and HU as an independent reader's."""

import random
from pathlib import Path

import gdcm
import numpy as np
import pydicom
import pytest
import SimpleITK
from volumes import ordered

from common.dicom import read_headers, read_hu


def itk_files(folder: Path) -> list[str]:
    return list(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))


def test_order_equals_an_independent_reader(test_data: Path) -> None:
    files = itk_files(test_data / "ge_head")
    assert len(files) == 28
    shuffled = random.Random(0).sample(files, len(files))
    headers = [read_headers(Path(file))[0] for file in shuffled]
    assert [shuffled[index] for index in ordered(headers)] == files


def test_order_equals_gdcm_s_sorter_by_position(test_data: Path, tmp_path: Path) -> None:
    """The sorter refuses any series that tells its tilt, so it gets copies that do not."""
    copies = []
    for path in (test_data / "ge_head").glob("*.dcm"):
        dataset = pydicom.dcmread(path)
        del dataset.GantryDetectorTilt
        dataset.save_as(tmp_path / path.name)
        copies.append(str(tmp_path / path.name))
    shuffled = random.Random(1).sample(sorted(copies), len(copies))
    sorter = gdcm.IPPSorter()
    sorter.SetComputeZSpacing(False)  # the steps are uneven
    assert sorter.Sort(shuffled)
    headers = [read_headers(test_data / "ge_head" / Path(file).name)[0] for file in shuffled]
    assert [shuffled[index] for index in ordered(headers)] == list(sorter.GetFilenames())


def test_hu_equal_an_independent_reader(test_data: Path) -> None:
    for file in itk_files(test_data / "ge_head"):
        stored = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(file))
        image = read_hu(Path(file))
        np.testing.assert_array_equal(image.image_hu, np.maximum(stored, -1024))
        assert image.num_padding == np.count_nonzero(stored == -1500) > 0


def test_tilt_and_spacing_are_the_scanner_s(test_data: Path) -> None:
    headers = [read_headers(Path(file))[0] for file in itk_files(test_data / "ge_head")]
    assert all(header.tilt_deg == pytest.approx(18.5, abs=0.01) for header in headers)
    positions = [header.position_mm for header in headers]
    steps = np.round(np.diff(np.array(positions, float)), 1)
    assert sorted(set(steps)) == [1.1, 4.0, 7.0]
    assert np.count_nonzero(steps == 1.1) == 1
