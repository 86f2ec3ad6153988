import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dicom_factory import write_ct
from evaluate_script import make_experiment, run_evaluate

import preprocessing
from common.cli import status_of
from common.dicom import RejectedFile
from common.errors import InputError
from common.preparation import prepare_dataset
from common.slices.table import SliceTable
from rsna.sources import make_source
from rsna.sources.cq500 import Cq500Source, check_series_name, patient_in_path, read_majority
from rsna_task import LABELS

FINDINGS = ("ICH", "IPH", "IVH", "SDH", "EDH", "SAH", "Fracture")
CORONAL = [1, 0, 0, 0, 0, -1]


def read_row(name: str, **votes: int) -> dict[str, object]:
    """A row of reads.csv in which the first `votes` readers see each finding."""
    row: dict[str, object] = {"name": name, "Category": "B1"}
    for reader in range(3):
        row |= {f"R{reader + 1}:{f}": int(reader < votes.get(f, 0)) for f in FINDINGS}
    return row


def write_reads(folder: Path, *rows: dict[str, object]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / "reads.csv", index=False)
    return folder / "reads.csv"


def write_cq500_series(
    folder: Path, uid: str, num_slices: int = 3, gap_mm: float = 5.0, **tags: object
) -> None:
    """A series in CQ500's layout; its header names another patient and study than its folder."""
    rng = np.random.default_rng([ord(letter) for letter in uid])
    for index in range(num_slices):
        elements = {
            "SOPInstanceUID": f"{uid}.{index}",
            "SeriesInstanceUID": uid,
            "StudyInstanceUID": f"{uid}.0.9",
            "PatientID": "somebody",
            "ImagePositionPatient": [0.0, 0.0, gap_mm * index],
        }
        pixels = rng.integers(1030, 1090, (32, 32)).astype(np.uint16)
        write_ct(folder / f"CT{index:06d}.dcm", pixels, **(elements | tags))


def write_cq500(folder: Path) -> None:
    """Three patients, the last without reads, in three spellings; reads of a fourth."""
    write_reads(
        folder,
        read_row("CQ500-CT-0", ICH=2, IPH=3, SAH=1),
        read_row("CQ500-CT-1"),
        read_row("CQ500-CT-9", ICH=3, SDH=3),
    )
    first = folder / "qct01" / "CQ500CT0 CQ500CT0" / "Unknown Study"
    write_cq500_series(first / "CT PLAIN THIN", "1.1", num_slices=24, gap_mm=0.625)
    write_cq500_series(first / "CT 5mm", "1.2", num_slices=3)
    write_cq500_series(first / "CT POST CONTRAST-2", "1.3")
    write_cq500_series(first / "CT BONE", "1.4")
    write_cq500_series(first / "CT I To S", "1.5", ImageOrientationPatient=CORONAL)
    second = folder / "CQ500-CT-1" / "CQ500CT1_CQ500CT1" / "Unknown_Study"
    write_cq500_series(second / "CT_Plain_3mm", "2.1", gap_mm=3.0)
    write_cq500_series(folder / "CQ500CT2 CQ500CT2" / "Unknown Study" / "CT Plain", "3.1")


def test_labels_are_what_two_of_three_readers_say(tmp_path: Path) -> None:
    rows = [
        read_row("CQ500-CT-0", ICH=2, IPH=3, SAH=1, EDH=2),
        read_row("CQ500-CT-12", Fracture=3),
        read_row("CQ500-CT-3", ICH=1),
        read_row("CQ500-CT-4", ICH=2, SDH=2),
    ]
    rows[2]["R2:ICH"] = np.nan  # yes, unknown, no: undecided
    rows[3]["R3:ICH"] = np.nan  # yes, yes, unknown: decided
    labels = read_majority(write_reads(tmp_path, *rows)).set_index("study_id")
    assert list(labels.columns) == list(LABELS)
    assert labels.loc["CQ500-CT-0"].tolist() == [1, 1, 0, 0, 0, 1]
    assert labels.loc["CQ500-CT-12"].tolist() == [0] * 6
    assert np.isnan(labels.loc["CQ500-CT-3", "any"])
    assert labels.loc["CQ500-CT-4", ["subdural", "any"]].tolist() == [1, 1]


def test_tables_that_can_not_be_right_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, other = read_row("CQ500-CT-0", ICH=2), read_row("CQ500-CT-0", ICH=3)
    assert len(read_majority(write_reads(tmp_path, good, good))) == 1
    assert "repeats 1 scan" in caplog.text
    for rows, message in (
        ([good, other], "1 scan twice"),
        ([good | {"name": "scan 5"}], "line 2"),
        ([good | {"R2:SAH": 2}], "line 2: R2:SAH is .* 0, 1 or empty"),
        ([good | {"R2:SAH": "yes"}], "line 2: R2:SAH is .* 0, 1 or empty"),
    ):
        with pytest.raises(InputError, match=message):
            read_majority(write_reads(tmp_path, *rows))
    pd.DataFrame([good]).drop(columns="R3:EDH").to_csv(tmp_path / "reads.csv", index=False)
    with pytest.raises(InputError, match="lacks the columns R3:EDH"):
        read_majority(tmp_path / "reads.csv")
    pd.DataFrame([good | {"R1:ICH": 0, "R2:ICH": 0, "R1:SDH": 1, "R2:SDH": 1}]).to_csv(
        tmp_path / "reads.csv", index=False
    )
    read_majority(tmp_path / "reads.csv")
    assert "1 scan with a subtype, but no ICH" in caplog.text
    with pytest.raises(InputError, match=r"no reads\.csv"):
        make_source("cq500", make_folder(tmp_path / "empty"), 0)


def make_folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("path", "patient"),
    [
        ("qct01/CQ500CT0 CQ500CT0/Unknown Study/CT 5mm/CT000000.dcm", "CQ500-CT-0"),
        ("CQ500-CT-309/CQ500CT309_CQ500CT309/Unknown_Study/CT_PLAIN/CT000001.dcm", "CQ500-CT-309"),
        ("CQ500-CT-7.zip!/CQ500CT7 CQ500CT7/Unknown Study/CT/CT000000.dcm", "CQ500-CT-7"),
        ("CQ500CT06/a.dcm", "CQ500-CT-6"),
        ("CQ500CT1 CQ500CT2/a.dcm", None),
        ("other/CQ500CT1.dcm", None),
    ],
)
def test_the_folder_names_the_patient(path: str, patient: str | None) -> None:
    assert patient_in_path(path) == patient


@pytest.mark.parametrize(
    ("name", "status"),
    [
        # As published, and with underscores.
        *((name, None) for name in (
            "CT PLAIN THIN", "CT Plain 3mm", "CT 55mm Plain-2", "CT I To S", "CT Thin Stnd",
            "CT PRE CONTRAST 5MM STD", "CT_PRE_CONTRAST_THIN", "CT 0.625mm", "CT 5 MM",
            "CT 5 MM PRE CONTRAST-2", "CT HELICAL", "CT SOFT THIN", "CT DE THIN",
            "CT BRAIN PLAIN", "CT 3.753.75mm Plain", "CT POST FOSSA",
        )),
        *((name, "contrast") for name in (
            "CT POST CONTRAST", "CT_POST_CONTRAST-2", "CT 5mm POST CONTRAST", "CT Thin Contrast",
            "CT C", "CT C THIN", "CT C-2", "CT CECT THIN", "CT ORAL IV-3", "CT CONTRAST",
            "CT 4cc sec 150cc D3D on", "CT 1.25 MMC",
        )),
        ("CT HRCT", "not_head"),
        ("CT 3D CT HEADORBIT", "derived"),
        ("CT 0.625mm DMPR on HiRes VS40", "derived"),
        ("CT CORONAL", "not_axial"),
        ("CT Axial 0.625 HiResVS40", "sharp_kernel"),
        ("CT BONE", "sharp_kernel"),
        ("CT Thin Details", "sharp_kernel"),
    ],
)  # fmt: skip
def test_names_of_series_tell_which_are_used(name: str, status: str | None) -> None:
    if status is None:
        check_series_name(name)
        return
    with pytest.raises(RejectedFile) as caught:
        check_series_name(name)
    assert caught.value.status == status


def test_scans_have_labels_and_rejected_series_a_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_cq500(tmp_path / "in")
    write_cq500_series(tmp_path / "in" / "CQ500CT1 CQ500CT8", "9.1", num_slices=1)
    again = tmp_path / "in" / "copy" / "CQ500CT2" / "CT Plain"
    write_cq500_series(again, "3.1", num_slices=2)  # the same images as in the other folder
    prepared = prepare_dataset(
        Cq500Source(tmp_path / "in"), tmp_path / "out", n_jobs=0, num_folds=5
    )
    assert prepared.folds is None
    assert prepared.rejected == {
        "contrast": 3, "not_axial": 3, "sharp_kernel": 3, "duplicate": 2, "no_id": 1,
    }  # fmt: skip
    for told in (
        "1 scan in reads.csv without a file",
        "1 patient with 5 files not in reads.csv",
        "1 file in no folder of one CQ500 patient",
        "1 patient with more than one folder",
    ):
        assert told in caplog.text
    assert "somebody" not in caplog.text
    assert "CQ500-CT-" not in caplog.text
    frame = SliceTable.load(tmp_path / "out").frame
    assert frame[list(LABELS)].isna().all(axis=None)
    assert frame["label_source"].isna().all()
    assert set(frame["split"]) == {"test"}
    stored = frame[frame["status"] == "ok"]
    assert stored.groupby(["study_id", "series_id"]).size().to_dict() == {
        ("CQ500-CT-0", "1.1"): 24,
        ("CQ500-CT-0", "1.2"): 3,
        ("CQ500-CT-1", "2.1"): 3,
        ("CQ500-CT-2", "3.1"): 3,
    }
    rejected = frame[frame["status"] == "contrast"]
    assert set(rejected["patient_id"]) == {"CQ500-CT-0"}
    assert set(rejected["reason"]) == {'the name of the series has "post"'}
    studies = pd.read_parquet(tmp_path / "out" / "studies.parquet").set_index("study_id")
    assert list(studies.index) == ["CQ500-CT-0", "CQ500-CT-1", "CQ500-CT-2"]
    assert studies.loc["CQ500-CT-0", list(LABELS)].tolist() == [0, 1, 0, 0, 0, 1]
    assert studies.loc["CQ500-CT-1", list(LABELS)].tolist() == [0] * 6
    assert studies.loc["CQ500-CT-2", list(LABELS)].isna().all()
    assert studies["label_source"].fillna("").tolist() == ["study", "study", ""]


def test_scans_are_evaluated_by_one_series_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make_experiment(tmp_path)
    write_cq500(tmp_path / "in")
    flags = {"pre_source": "cq500", "pre_folder": tmp_path / "in", "data_dataset": "cq500"}
    flags |= {"data_input_folder": tmp_path / "input", "n_jobs": 0}
    given = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr("sys.argv", ["preprocessing.py", *given])
    assert status_of(preprocessing.main) == 0
    assert run_evaluate(monkeypatch, experiment, "--data_dataset", "cq500") == 0
    folder = experiment / "evaluations" / "cq500"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["weighted_log_loss"] is None
    assert metrics["auc"]["any"] is None
    assert metrics["num_slices"] == 0
    assert metrics["num_studies"] == 2
    assert metrics["study"]["weighted_log_loss"] > 0
    # The 5 mm series covers as much brain as the thin one, and is nearer to the usual spacing.
    predictions = pd.read_parquet(folder / "predictions.parquet")
    used = predictions.groupby("study_id")["series_id"].unique().map(list).to_dict()
    assert used == {"CQ500-CT-0": ["1.2"], "CQ500-CT-1": ["2.1"]}
    largest = predictions.groupby("study_id")["any"].max()
    expected = -(np.log(largest["CQ500-CT-0"]) + np.log(1 - largest["CQ500-CT-1"])) / 2
    assert metrics["study"]["log_loss"]["any"] == pytest.approx(expected, abs=1e-12)
    series = pd.read_csv(folder / "series.csv", dtype="str").set_index("series_id")
    assert series["used"].to_dict() == {"1.1": "0", "1.2": "1", "2.1": "1", "1.3": "0",
                                       "1.4": "0", "1.5": "0"}  # fmt: skip
    assert "farther from the usual" in series.loc["1.1", "reason"]
    assert "contrast" in series.loc["1.3", "reason"]
    html = (folder / "report.html").read_text()
    assert "slices of series that are not used for their study" in html
    assert "slices of studies without a label" in html
    assert "CQ500-CT-" not in html


def test_patients_as_zip_archives_are_read_as_folders_are(tmp_path: Path) -> None:
    write_cq500(tmp_path / "plain")
    zipped = tmp_path / "zipped"
    zipped.mkdir()
    shutil.copy(tmp_path / "plain" / "reads.csv", zipped)
    for patient in (path for path in (tmp_path / "plain").iterdir() if path.is_dir()):
        shutil.make_archive(str(zipped / patient.name), "zip", patient.parent, patient.name)
    rows = {}
    for name in ("plain", "zipped"):
        source = Cq500Source(tmp_path / name)
        prepare_dataset(source, tmp_path / f"{name}_out", n_jobs=0)
        frame = pd.read_parquet(tmp_path / f"{name}_out" / "slices.parquet")
        # Files that yield nothing have no id to be sorted by.
        columns = ["image_id", "study_id", "status", "rank", "hu_mean"]
        rows[name] = frame[columns].sort_values(columns, ignore_index=True)
    assert rows["plain"]["status"].eq("ok").any()
    pd.testing.assert_frame_equal(rows["plain"], rows["zipped"])
