"""The demo folder: the challenge's layout and header quirks, whole after any interruption."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pydicom
import pytest

from common.dicom import RejectedFile, quiet_pydicom, read_headers, read_hu
from common.errors import InputError
from rsna.phantom.rsna_files import FAMILIES, store_pixels
from rsna.phantom.study import generate_study
from rsna.sources.demo import DemoParameters, DemoSource, write_demo
from rsna_task import LABELS

TINY = DemoParameters(num_patients=4, num_test_patients=1, matrix=64, seed=11)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "rsna"
    write_demo(folder, TINY)
    return folder


def record(folder: Path, patient: int) -> dict:
    return json.loads((folder / "studies" / f"{patient:04d}_0.json").read_text())


def files_of(folder: Path, patient: int) -> list[Path]:
    return [folder / "stage_2_train" / f"{i}.dcm" for i in record(folder, patient)["image_ids"]]


def test_tables_name_every_file_six_times(demo: Path) -> None:
    train = pd.read_csv(demo / "stage_2_train.csv")
    assert list(train.columns) == ["ID", "Label"]
    assert train["ID"].duplicated().sum() == 6
    unique = train.drop_duplicates()
    assert not unique["ID"].duplicated().any(), "duplicates agree"
    ids = {path.stem for path in (demo / "stage_2_train").glob("*.dcm")}
    assert set(unique["ID"]) == {f"{i}_{label}" for i in ids for label in LABELS}
    wide = unique["ID"].str.rsplit("_", n=1, expand=True)
    wide = unique.assign(image=wide[0], label=wide[1]).pivot(
        index="image", columns="label", values="Label"
    )
    assert (wide["any"] == wide[list(LABELS[:-1])].max(axis=1)).all()
    assert wide["any"].sum() > 0
    sample = pd.read_csv(demo / "stage_2_sample_submission.csv")
    tests = {path.stem for path in (demo / "stage_2_test").glob("*.dcm")}
    assert set(sample["ID"]) == {f"{i}_{label}" for i in tests for label in LABELS}
    assert (sample["Label"] == 0.5).all()
    assert not ids & tests


def test_files_hold_the_study_and_nothing_else(demo: Path) -> None:
    study = generate_study(3, 0, TINY.seed, TINY.matrix)
    for path, expected in zip(files_of(demo, 3), study.image_hu):
        np.testing.assert_array_equal(read_hu(path).image_hu[0], expected)
    quiet_pydicom()
    keywords = {element.keyword for element in pydicom.dcmread(files_of(demo, 3)[0])}
    assert keywords == {
        *("SOPInstanceUID", "Modality", "PatientID", "StudyInstanceUID", "SeriesInstanceUID"),
        *("StudyID", "ImagePositionPatient", "ImageOrientationPatient", "SamplesPerPixel"),
        *("PhotometricInterpretation", "Rows", "Columns", "PixelSpacing", "BitsAllocated"),
        *("BitsStored", "HighBit", "PixelRepresentation", "WindowCenter", "WindowWidth"),
        *("RescaleIntercept", "RescaleSlope", "PixelData"),
    }


def test_the_first_patients_have_the_rare_kinds_of_files(demo: Path) -> None:
    corrupt = files_of(demo, 0)[0]
    with pytest.raises(RejectedFile):
        read_hu(corrupt)
    read_hu(files_of(demo, 0)[1])

    header = read_headers(files_of(demo, 1)[0])[0]
    assert header.rows != header.columns
    assert header.pixel_representation == 1
    raw = pydicom.dcmread(files_of(demo, 1)[0]).pixel_array
    assert (raw == -2000).any()

    decoded = read_hu(files_of(demo, 2)[5])
    assert decoded.num_repaired
    expected = generate_study(2, 0, TINY.seed, TINY.matrix).image_hu[5]
    np.testing.assert_array_equal(decoded.image_hu[0], np.maximum(expected, -1000))

    positions = [read_headers(path)[0].position for path in files_of(demo, 3)]
    assert positions[1] == positions[2]
    assert len(set(positions)) == len(positions) - 1
    assert len(pydicom.dcmread(files_of(demo, 3)[0]).WindowCenter) == 2


@pytest.mark.parametrize("family", [family for family, _ in FAMILIES], ids=str)
def test_every_way_of_storing_pixels_keeps_hounsfield_units(family) -> None:
    image_hu = np.array([[-1000, -90, 0, 40], [60, 700, 2000, 7]], np.int16).repeat(4, axis=0)
    stored = store_pixels(image_hu, family).astype(int)
    stored = (stored + 1000) % 4096 - 1000 if family.wraps else stored + family.intercept
    inside = stored > -1500
    assert inside.any()
    np.testing.assert_array_equal(stored[inside], image_hu[inside])


def test_an_interrupted_demo_is_completed_to_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(demo, cut)
    manifest = json.loads((cut / "demo.json").read_text())
    (cut / "demo.json").write_text(json.dumps(manifest | {"finished": False}))
    lost = json.loads((cut / "studies" / "0001_0.json").read_text())["image_ids"]
    (cut / "studies" / "0001_0.json").unlink()
    (cut / "stage_2_train" / f"{lost[0]}.dcm").write_bytes(b"half")
    (cut / "stage_2_train" / f"{lost[1]}.dcm").unlink()
    (cut / "stage_2_train.csv").unlink()
    write_demo(cut)
    names = sorted(p.relative_to(cut) for p in cut.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(demo) for p in demo.rglob("*") if p.is_file())
    for name in names:
        assert (cut / name).read_bytes() == (demo / name).read_bytes(), name


def test_a_finished_demo_is_left_alone(demo: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*")}
    write_demo(demo)
    write_demo(demo, TINY)
    assert before == {path: path.stat().st_mtime_ns for path in demo.rglob("*")}


def test_a_folder_of_something_else_is_refused(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="other parameters"):
        write_demo(demo, DemoParameters(num_patients=5, matrix=64, seed=11))
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(InputError, match="not demo data"):
        write_demo(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.long
def test_a_killed_demo_leaves_no_process_and_is_completed(
    demo: Path, tmp_path: Path, project_root: Path
) -> None:
    folder = tmp_path / "killed"
    code = (
        "from pathlib import Path\n"
        "from rsna.sources.demo import DemoParameters, write_demo\n"
        "if __name__ == '__main__':\n"
        f"    write_demo(Path({str(folder)!r}), DemoParameters(**{asdict(TINY)!r}), n_jobs=2)\n"
    )
    script = tmp_path / "make_demo.py"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(project_root)}
    process = subprocess.Popen([sys.executable, script], env=environment)
    workers: list[psutil.Process] = []
    while not list(folder.glob("studies/*.json")):
        assert process.poll() is None, "it ended before it could be killed"
        workers = psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert workers
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    assert not json.loads((folder / "demo.json").read_text())["finished"]
    write_demo(folder, n_jobs=2)
    for path in sorted(demo.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (folder / path.relative_to(demo)).read_bytes()


def test_the_source_reads_what_was_written(demo: Path) -> None:
    source = DemoSource(demo)
    files = source.files().set_index("split")["source_file"]
    labels = source.labels()
    assert {Path(name).stem for name in files["train"]} == set(labels["image_id"])
    assert set(labels.columns) == {"image_id", *LABELS}
    for patient in range(TINY.num_patients):
        written = record(demo, patient)
        rows = labels.set_index("image_id").loc[written["image_ids"], list(LABELS)]
        np.testing.assert_array_equal(rows.to_numpy(), written["labels"])
    assert source.parameters()["parameters"]["seed"] == TINY.seed
