"""Inputs of public bug reports that fool readers: each comes out as its case.md says."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydicom import dcmread

from common.errors import InputError
from common.preparation import prepare_dataset
from common.preparation.checks.check import check_dataset
from common.slices.pixel_steps import PixelSteps
from common.slices.series import list_series, list_studies
from common.slices.table import SliceTable
from rsna.sources.dicom import DicomSource
from rsna_task import SUBTYPES


class Case:
    """A case, prepared: its slices, series and studies, each slice predicted as 0.5."""

    def __init__(self, folder: Path, out: Path, **options: object) -> None:
        prepare_dataset(DicomSource(folder), out, n_jobs=0, **options)
        self.table = SliceTable.load(out)
        self.slices = self.table.frame
        frame = self.slices.assign(readable=self.table.readable)
        self.series = list_series(frame)
        values = np.full((len(frame), 1), 0.5)
        self.studies = list_studies(frame, values, self.series, np.full(1, 0.1), ["any"])

    def volumes(self) -> list[pd.DataFrame]:
        """The slices of each volume, by rank; the volumes by their first file."""
        stored = self.slices[self.slices["store_index"].notna()].sort_values("rank")
        volumes = [volume for _, volume in stored.groupby("volume_id")]
        return sorted(volumes, key=lambda volume: volume["source_file"].min())

    def sizes(self) -> list[int]:
        return [len(volume) for volume in self.volumes()]


@pytest.fixture
def case(test_data: Path, tmp_path: Path):
    def prepared(number: str, sub: str = "", **options: object) -> Case:
        out = tmp_path / number / sub / "-".join(options)
        return Case(test_data / "cases" / number / "in" / sub, out, **options)

    return prepared


def ascends(volume: pd.DataFrame) -> bool:
    return bool((np.diff(volume["position_mm"]) > 0.1).all())


def test_03_two_kernels_in_one_series(case) -> None:
    found = case("03")
    assert found.sizes() == [8, 8] and all(map(ascends, found.volumes()))
    by_kernel = found.series.set_index("kernel")
    assert by_kernel["used"].to_dict() == {"H30s": 1, "H60s": 0}
    assert "reconstructed for bone (kernel H60s)" in by_kernel.loc["H60s", "reason"]
    assert found.studies["status"].tolist() == ["ok"]


def test_03_without_kernels_the_noise_tells(case) -> None:
    found = case("03")
    silent = found.slices.assign(readable=True, kernel=None)
    series = list_series(silent).set_index("volume_id")
    (sharp,) = series.index[series["used"] == 0]
    kernels = found.slices.groupby("volume_id")["kernel"].first()
    assert kernels[sharp] == "H60s" and "noise" in series.loc[sharp, "reason"]


def test_05_rounding_of_the_orientation(case) -> None:
    found = case("05")
    assert found.sizes() == [8] and found.studies["status"].tolist() == ["ok"]
    assert found.series["spacing_mm"].iloc[0] == pytest.approx(4, abs=0.1)


def test_06_one_uid_for_eight_images(case, caplog) -> None:
    found = case("06")
    assert found.sizes() == [8]
    uids, hashes = zip(*(name.rsplit("_", 1) for name in found.slices["image_id"]))
    assert len(set(uids)) == 1 and len(set(hashes)) == 8
    assert not found.slices["status"].eq("duplicate").any()
    assert found.slices["reason"].str.contains("that of 8 images").all()
    assert "1 SOPInstanceUID of 8 different images" in caplog.text


def test_07_two_patients_under_one_study(case) -> None:
    found = case("07")
    assert found.sizes() == [8, 8]
    assert all(volume["patient_id"].nunique() == 1 for volume in found.volumes())
    assert found.studies["study_id"].is_unique and len(found.studies) == 2
    assert found.studies["patient_id"].nunique() == 2
    assert found.series["reason"].str.contains("of another patient").all()


def test_14_a_slice_without_a_position(case) -> None:
    found = case("14")
    (volume,) = found.volumes()
    assert ascends(volume) and volume["source_file"].is_monotonic_increasing
    assert volume["order_from"].value_counts().to_dict() == {"position": 7, "instance_number": 1}
    placed = volume[volume["order_from"] == "instance_number"]
    assert placed["reason"].str.contains("InstanceNumber").all()


def test_17_a_series_for_each_slice(case) -> None:
    found = case("17")
    assert found.sizes() == [8] and found.studies["status"].tolist() == ["ok"]
    assert "joined from 8 series" in found.series["reason"].iloc[0]


def test_18_two_spacings(case, tmp_path: Path) -> None:
    found = case("18")
    assert found.sizes() == [4, 4]
    assert found.studies["status"].tolist() == ["partial"]
    assert "of the head" in found.studies["reason"].iloc[0]
    resampled = case("18", steps=PixelSteps(spacing_mm=1.0))
    assert np.allclose(resampled.slices[["spacing_row", "spacing_column"]], 1.0, atol=0.01)


@pytest.mark.parametrize(
    "number, words", [("33", "no air"), ("34", "less dense than air"), ("56", "no air")]
)
def test_values_that_are_not_hu(case, tmp_path: Path, number: str, words: str) -> None:
    with pytest.raises(InputError, match="implausible_hu"):
        case(number)
    slices = pd.read_parquet(tmp_path / number / "slices.parquet")
    assert set(slices["status"]) == {"implausible_hu"} and slices["store_index"].isna().all()
    assert slices["reason"].str.contains(words).all()
    assert not slices["reason"].str.contains("unwrapped").any()


def test_36_signed_values_without_their_sign(case) -> None:
    found = case("36")
    packed, plain = found.volumes()
    assert len(packed) == len(plain) == 6
    for one, other in zip(packed.index, plain.index):
        np.testing.assert_array_equal(found.table.image_hu(one), found.table.image_hu(other))


def test_53_one_slice_without_a_spacing(case) -> None:
    found = case("53", steps=PixelSteps(spacing_mm=1.0))
    statuses = found.slices["status"].value_counts().to_dict()
    assert statuses == {"ok": 7, "no_spacing": 1}
    stored = found.slices[found.slices["status"] == "ok"]
    assert np.allclose(stored["spacing_row"], 1.0, atol=0.01)
    assert found.studies["status"].tolist() == ["partial"]


def test_58_four_ways_to_lie(case, test_data: Path) -> None:
    names = ("normal", "mirrored", "turned", "upside")
    folders = {path.name for path in (test_data / "cases" / "58" / "in").iterdir()}
    images, turned = {}, {}
    for name in folders:
        found = case("58", name)
        (volume,) = found.volumes()
        images[name] = np.stack([found.table.image_hu(row) for row in volume.index])
        turned[name] = volume["turned"].iloc[0]
    first = next(name for name in folders if names[0] in name)
    assert all(np.array_equal(images[name], images[first]) for name in folders)
    assert pd.isna(turned[first])
    assert {turned[name] for name in folders - {first}} == {
        "mirrored", "turned by 180 degrees", "upside down",
    }  # fmt: skip


def test_60_three_times_at_the_same_positions(case) -> None:
    found = case("60")
    assert found.sizes() == [8, 8, 8] and all(map(ascends, found.volumes()))
    for number, volume in enumerate(found.volumes()):
        assert volume["source_file"].str.startswith(f"{number}_").all()


def test_62_a_missing_slice_beside_a_rejected_file(case) -> None:
    found = case("62")
    notes = found.slices.loc[found.slices["status"] == "ok", "reason"].dropna()
    assert notes.tolist() == ["slices seem to be missing after it"]
    assert found.studies["status"].tolist() == ["partial"]
    assert found.studies["num_gaps"].tolist() == [1]


def test_a_series_is_used_because_it_is_named(case, test_data: Path, tmp_path: Path) -> None:
    found = case("18")
    series = found.slices["series_id"].iloc[0]
    with pytest.raises(InputError, match=r"--pre_select: 1\.2\.3"):
        Case(test_data / "cases" / "18" / "in", tmp_path / "x", select={"1.2.3"})
    chosen = Case(test_data / "cases" / "18" / "in", tmp_path / "y", select={series})
    used = chosen.series[chosen.series["used"] == 1]
    assert used["reason"].str.startswith("named by --pre_select").all()


def changed(folder: Path, source: Path, changes: dict[int, dict[str, object]]) -> Path:
    """A copy of a folder with elements changed in some of its files, by their number."""
    folder.mkdir(parents=True)
    for number, path in enumerate(sorted(source.iterdir())):
        dataset = dcmread(path)
        for keyword, value in changes.get(number, {}).items():
            setattr(dataset, keyword, value)
        dataset.save_as(folder / path.name)
    return folder


@pytest.mark.parametrize("shift", [1024, -1024])
def test_slices_whose_intercept_differs_are_refused_alone(
    test_data: Path, tmp_path: Path, shift: int
) -> None:
    source = test_data / "cases" / "05" / "in"
    intercept = float(dcmread(sorted(source.iterdir())[0]).RescaleIntercept)
    wrong = {"RescaleIntercept": intercept + shift}
    found = Case(changed(tmp_path / "in", source, {2: wrong, 5: wrong}), tmp_path / "out")
    assert found.slices["status"].value_counts().to_dict() == {"ok": 6, "implausible_hu": 2}
    refused = found.slices[found.slices["status"] == "implausible_hu"]
    assert refused["store_index"].isna().all()
    assert refused["reason"].str.contains("not in this slice").all()
    assert found.studies["status"].tolist() == ["partial"]
    assert check_dataset(tmp_path / "out", subtypes=SUBTYPES, union="any", n_jobs=0).findings == []


def test_positions_that_are_all_zero_leave_the_order_to_the_numbers(
    test_data: Path, tmp_path: Path
) -> None:
    source = test_data / "cases" / "05" / "in"
    nowhere = {number: {"ImagePositionPatient": [0, 0, 0]} for number in range(8)}
    found = Case(changed(tmp_path / "in", source, nowhere), tmp_path / "out")
    assert found.sizes() == [8] and set(found.slices["order_from"]) == {"instance_number"}
    assert "ImagePositionPatient" in found.series["reason"].iloc[0]
