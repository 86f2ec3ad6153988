"""A predictor called from Python: folders, volumes, unusable input, threads and processes."""

import gc
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dicom_factory import write_ct
from predictor_factory import make_dataset, make_predictor

from common.errors import InputError
from common.slices.pixel_steps import PARAMETER, PixelSteps
from rsna.predictor import Prediction, Predictor
from rsna_model import RSNAModel
from rsna_task import LABELS

SPACING = (5.0, 1.6, 1.6)
NAMES = list(LABELS)


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    """Where work folders go that nobody named."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def head_hu(num_slices: int = 6, size: int = 128, seed: int = 0) -> np.ndarray:
    """Air, a skull and a brain that differs from slice to slice, int16 HU."""
    return made_hu(num_slices, size, seed).copy()


@cache
def made_hu(num_slices: int, size: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] - size / 2
    hu = np.full((num_slices, size, size), -1000, dtype=np.float64)
    for index in range(num_slices):
        radius = np.hypot(rows / 1.1, columns) / (0.38 + 0.01 * index) / size
        hu[index][radius < 1] = 900
        hu[index][radius < 0.9] = 32
        hu[index, size // 2 :, size // 3 : size // 2][
            radius[size // 2 :, size // 3 : size // 2] < 0.5
        ] += 5 * index
    return np.rint(hu + rng.normal(0, 4, hu.shape)).clip(-1024).astype(np.int16)


def write_study(folder: Path, hu: np.ndarray, study: str = "1.2.3", **tags: Any) -> None:
    """Write slices from the highest to the lowest, one file each."""
    for index, image in enumerate(hu):
        elements = {
            "SOPInstanceUID": f"{study}.{index}",
            "StudyInstanceUID": study,
            "SeriesInstanceUID": f"{study}.9",
            "PatientID": f"patient of {study}",
            "InstanceNumber": len(hu) - index,
            "ImagePositionPatient": [-100.0, -100.0, SPACING[0] * index],
            "PixelSpacing": list(SPACING[1:]),
            "RescaleIntercept": 0,
        }
        write_ct(folder / f"{study}-{len(hu) - index}.dcm", image, **(elements | tags))


def small_predictor(**changes: Any) -> Predictor:
    torch.manual_seed(0)
    offsets = changes.get("slice_offsets", (0,))
    network = RSNAModel("test_resnet", in_chans=3 * len(offsets)).eval()
    return Predictor(make_predictor(network=network, model=network.specification, **changes))


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return small_predictor()


@pytest.fixture(scope="module")
def of_int16(predictor) -> Prediction:
    return predictor.predict_volume(head_hu(), SPACING)


def by_height(prediction: Prediction) -> np.ndarray:
    """Return the probabilities (slices, labels) from the lowest slice to the highest."""
    ranks = prediction.table.frame["rank"].iloc[prediction.rows].to_numpy(dtype=int)
    return prediction.predictions[NAMES].to_numpy()[np.argsort(ranks)]


def test_it_opens_what_pr_predictor_takes(tmp_path):
    experiment = tmp_path / "0001"
    predictor = small_predictor()
    predictor.loaded.save(experiment / "predictor")
    for folder in (experiment, str(experiment / "predictor")):
        assert Predictor.open(folder).label_names == LABELS
    with pytest.raises(InputError, match=r"^predictor .*none: no such folder: give one"):
        Predictor.open(tmp_path / "none")
    with pytest.raises(InputError, match=r"^predictor .*: no predictor.json: give a predictor"):
        Predictor.open(tmp_path)
    weights = experiment / "predictor" / "model.pt"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match=r"model.pt is damaged"):
        Predictor.open(experiment)


def test_two_studies_in_one_folder_and_junk(tmp_path, temporary):
    heads = {"1.2.3": head_hu(), "1.2.4": head_hu(5, seed=1)}
    for study, hu in heads.items():
        write_study(tmp_path / "in", hu, study)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    prediction = small_predictor().predict_folder(tmp_path / "in")
    assert prediction.studies["study_id"].tolist() == list(heads)
    assert prediction.studies["status"].tolist() == ["ok", "ok"]
    frame = prediction.table.frame.iloc[prediction.rows]
    assert frame["image_id"].tolist() == prediction.predictions["image_id"].tolist()
    assert len(frame) == 11
    for row in prediction.rows:  # each slice is found again: its file, its place and its pixels
        found = prediction.table.frame.loc[row]
        index = int(found["image_id"].rpartition(".")[2])
        hu = heads[found["study_id"]]
        assert found["source_file"] == f"{found['study_id']}-{len(hu) - index}.dcm"
        assert found["series_id"] == f"{found['study_id']}.9"
        assert found["position_mm"] == SPACING[0] * index
        np.testing.assert_array_equal(prediction.table.image_hu(row), hu[index])
    junk = prediction.table.frame[prediction.table.frame["status"] == "not_dicom"]
    assert junk["source_file"].tolist() == ["notes.txt"]
    assert "patient" not in repr(prediction)
    assert len(list(temporary.iterdir())) == 1
    assert next(temporary.iterdir()).stat().st_mode & 0o77 == 0
    del prediction
    gc.collect()
    assert not list(temporary.iterdir())


def test_a_work_folder_stays_and_is_not_read_again(tmp_path, temporary):
    write_study(tmp_path / "in", head_hu())
    predictor, work = small_predictor(), tmp_path / "work"
    first = predictor.predict_folder(tmp_path / "in", work)
    stored = next((work / "store").iterdir())
    times = stored.stat().st_mtime_ns
    again = predictor.predict_folder(str(tmp_path / "in"), str(work))
    of_dataset = predictor.predict_folder(work)
    for other in (again, of_dataset):
        np.testing.assert_array_equal(by_height(other), by_height(first))
    assert stored.stat().st_mtime_ns == times
    assert not list(temporary.iterdir())


STEPS = {
    "none": PixelSteps(),
    "crop": PixelSteps(head_crop=True, size=96),
    "spacing": PixelSteps(spacing_mm=1.0, size=160),
    "brain": PixelSteps(brain_crop=True),
}


@pytest.mark.parametrize("steps", STEPS)
def test_a_volume_is_predicted_as_its_files_are(tmp_path, steps):
    hu = head_hu()
    training = {PARAMETER: STEPS[steps].parameters()}
    predictor = small_predictor(training=training, slice_offsets=(-1, 0, 1))
    of_volume = predictor.predict_volume(hu, SPACING)
    assert of_volume.predictions["image_id"].tolist() == [str(z) for z in range(len(hu))]
    assert of_volume.studies["status"].tolist() == ["ok"]
    assert np.ptp(of_volume.predictions["any"]) > 1e-5  # the slices are told apart
    write_study(tmp_path / "up", hu)
    on_the_face = [-1, 0, 0, 0, -1, 0]
    write_study(tmp_path / "turned", hu[:, ::-1, ::-1], ImageOrientationPatient=on_the_face)
    for name in ("up", "turned"):
        of_files = predictor.predict_folder(tmp_path / name)
        assert of_files.table.frame["turned"].notna().all() == (name == "turned")
        found = by_height(of_files)
        np.testing.assert_allclose(of_volume.predictions[NAMES], found, rtol=0, atol=1e-6)
        np.testing.assert_allclose(of_volume.studies[NAMES], of_files.studies[NAMES], atol=1e-6)
    upside_down = predictor.predict_volume(hu[::-1], SPACING).predictions["any"].to_numpy()
    assert abs(upside_down - of_volume.predictions["any"]).max() > 1e-5


def test_a_volume_of_a_real_head(predictor, tmp_path, test_data):
    (tmp_path / "in").mkdir()
    for path in sorted((test_data / "ge_head").glob("*.dcm"))[8:18]:
        shutil.copy2(path, tmp_path / "in")
    of_files = predictor.predict_folder(tmp_path / "in")
    frame, table = of_files.table.frame.iloc[of_files.rows], of_files.table
    order = of_files.rows[np.argsort(frame["rank"].to_numpy(dtype=int))]
    hu = np.stack([table.image_hu(row) for row in order])
    of_volume = predictor.predict_volume(
        hu, (4.0, *frame.iloc[0][["spacing_row", "spacing_column"]])
    )
    np.testing.assert_allclose(of_volume.predictions[NAMES], by_height(of_files), atol=1e-6)
    np.testing.assert_allclose(of_volume.studies[NAMES], of_files.studies[NAMES], atol=1e-6)
    as_floats = predictor.predict_volume(hu.astype(np.float32) + 0.4, of_spacing(frame))
    np.testing.assert_array_equal(as_floats.predictions[NAMES], of_volume.predictions[NAMES])


def of_spacing(frame: Any) -> tuple[float, float, float]:
    return (4.0, float(frame["spacing_row"].iloc[0]), float(frame["spacing_column"].iloc[0]))


@pytest.mark.parametrize("kind", [">i2", "int32", "int64", "float16", "float32", ">f8"])
def test_the_type_of_a_volume_does_not_matter(predictor, of_int16, kind):
    hu = head_hu()
    kept = hu.astype(kind)
    found = predictor.predict_volume(kept, SPACING).predictions[NAMES]
    np.testing.assert_array_equal(found, of_int16.predictions[NAMES])
    np.testing.assert_array_equal(kept, hu)


def test_padding_of_a_volume_is_air():
    hu = head_hu()
    padded = hu.astype(np.int32)
    padded[:, :2] = -3024
    hu[:, :2] = -1024
    predictor = small_predictor()
    one, other = (predictor.predict_volume(each, SPACING) for each in (hu, padded))
    np.testing.assert_array_equal(one.predictions[NAMES], other.predictions[NAMES])


def test_calls_and_triage_come_with_a_volume(of_int16):
    points = {"thresholds": {"any": 0.0, "epidural": 1.0}}
    bound = {"error_rate": 0.1, "error_at_most": 0.2, "num_patients": 9, "reason": None}
    triage = {
        "label": "any",
        "error_rate": 0.1,
        "rule_out": bound | {"value": 0.0},
        "rule_in": bound | {"value": 1.0},
    }
    assert not {"call", "decision"} & set(of_int16.studies)
    predictor = small_predictor(operating_points=points, conformal=triage)
    study = predictor.predict_volume(head_hu(), SPACING).studies.iloc[0]
    assert study["call"] == 1 and study["call_epidural"] == 0
    assert study["decision"] == "read"


def test_a_slice_that_is_not_hu_has_the_prior():
    hu = head_hu(8)
    hu[3] += 1024
    prediction = small_predictor().predict_volume(hu, SPACING)
    assert prediction.filled.to_dict("records") == [{"image_id": "3", "reason": "implausible_hu"}]
    prior = small_predictor().loaded.prior
    np.testing.assert_allclose(
        prediction.predictions[NAMES].iloc[3].astype(float), prior, rtol=1e-5
    )
    assert prediction.predictions["image_id"].tolist() == [str(z) for z in range(8)]
    assert prediction.studies["status"].tolist() == ["partial"]


def with_value(value: float) -> np.ndarray:
    hu = head_hu().astype(np.float32)
    hu[2, 5, 7] = value
    return hu


BAD_VOLUMES = {
    "nan": (with_value(np.nan), SPACING, "has 1 values that are NaN or infinite"),
    "infinite": (with_value(np.inf), SPACING, "has 1 values that are NaN or infinite"),
    "image": (head_hu()[0], SPACING, r"a volume of int16 \(128, 128\): give"),
    "channels": (head_hu()[..., None], SPACING, r"\(6, 128, 128, 1\): give integers or floats"),
    "empty": (head_hu()[:0], SPACING, r"a volume of int16 \(0, 128, 128\)"),
    "bool": (head_hu() > 0, SPACING, "a volume of bool"),
    "text": (np.full((2, 3, 4), "a"), SPACING, "a volume of <U1"),
    "ragged": (None, SPACING, "a volume of object"),
    "large": (np.broadcast_to(np.int16(0), (2, 5000, 128)), SPACING, "above the limits"),
    "x y z": (head_hu(), SPACING[::-1], "pixels of 1.6 x 5 mm, which are not square"),
    "axes": (head_hu(20).T, SPACING, "makes the columns span 32 mm, which is no head"),
    "metres": (head_hu(), (5.0, 0.0016, 0.0016), "makes the rows span 0.2048 mm"),
    "far apart": (head_hu(), (50.0, 1.6, 1.6), "has slices 50 mm apart"),
    "negative": (head_hu(), (5.0, -1.6, 1.6), "is not three positive lengths"),
    "zero": (head_hu(), (0, 1.6, 1.6), "is not three positive lengths"),
    "nan mm": (head_hu(), (np.nan, 1.6, 1.6), "is not three positive lengths"),
    "two": (head_hu(), (1.6, 1.6), "is not three positive lengths"),
    "one number": (head_hu(), 1.6, "is not three positive lengths"),
    "no spacing": (head_hu(), None, "is not three positive lengths"),
    "stored": (head_hu().astype(np.int32) + 1024, SPACING, "not in HU: no air near -1000 HU"),
    "grey": (np.clip(head_hu() + 40, 0, 255), SPACING, "is not in HU: "),
    "scaled": ((head_hu() + 1024) / 4096.0, SPACING, "nothing in the volume is denser than fat"),
    "air": (np.full((6, 128, 128), -1000), SPACING, "nothing in the volume is denser than fat"),
    "noise": (
        np.random.default_rng(0).integers(-32768, 32767, (6, 128, 128)),
        SPACING,
        "is not in HU: ",
    ),
}


@pytest.mark.parametrize("case", BAD_VOLUMES)
def test_unusable_volumes_end_in_one_line(predictor, temporary, case):
    hu, spacing, message = BAD_VOLUMES[case]
    with pytest.raises(InputError, match=message) as found:
        predictor.predict_volume(hu, spacing)
    assert "\n" not in str(found.value)
    assert not list(temporary.iterdir())


def test_unusable_folders_end_in_one_line(predictor, tmp_path, temporary):
    for name in ("empty", "junk"):
        (tmp_path / name).mkdir()
    (tmp_path / "junk" / "notes.txt").write_text("no image")
    write_study(tmp_path / "in", head_hu(1))
    one_file = next((tmp_path / "in").iterdir())
    for path, message in (
        (tmp_path / "none", "none: no such folder: give one with DICOM files"),
        (one_file, "no such folder: give one with DICOM files"),
        (tmp_path / "empty", "no files in"),
        (tmp_path / "junk", "nothing usable in .*1 not_dicom"),
    ):
        with pytest.raises(InputError, match=message) as found:
            predictor.predict_folder(path)
        assert "\n" not in str(found.value)
    with pytest.raises(InputError, match="has the original files in it"):
        predictor.predict_folder(tmp_path / "in", tmp_path)
    make_dataset(tmp_path / "dataset")
    other = small_predictor(training={PARAMETER: PixelSteps(size=96).parameters()})
    with pytest.raises(InputError, match=r"was prepared with .* prepare the data with the latter"):
        other.predict_folder(tmp_path / "dataset")
    assert not list(temporary.iterdir())


def test_odd_files_are_rows_with_a_reason(predictor, test_data):
    prediction = predictor.predict_folder(test_data / "odd_dicom")
    frame = prediction.table.frame
    assert len(prediction.predictions) and len(prediction.left_out)
    refused = frame[~prediction.table.readable]
    assert len(refused) > 50 and refused["reason"].notna().all()
    p = prediction.predictions[NAMES].to_numpy(dtype=float)
    assert np.isfinite(p).all()


def test_threads_share_it_and_processes_do_not(predictor, tmp_path):
    heads = [head_hu(seed=seed) for seed in range(3)]
    alone = [predictor.predict_volume(hu, SPACING).predictions[NAMES] for hu in heads]
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda hu: predictor.predict_volume(hu, SPACING), heads))
    for one, other in zip(alone, found, strict=True):
        np.testing.assert_array_equal(one, other.predictions[NAMES])
    sent = pickle.loads(pickle.dumps(predictor))
    np.testing.assert_array_equal(
        sent.predict_volume(heads[0], SPACING).predictions[NAMES], alone[0]
    )
    process = os.fork()
    if not process:
        try:
            predictor.predict_volume(heads[0], SPACING)
        except InputError as error:
            os._exit(7 if "opened before a fork" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 7


def test_the_example_of_the_page_runs(tmp_path, monkeypatch, project_root, capsys):
    import nibabel

    page = (project_root / "docs" / "how_to" / "predictor.md").read_text()
    example = "\n".join(line[4:] for line in page.splitlines() if line.startswith("    "))
    monkeypatch.chdir(tmp_path)
    small_predictor().loaded.save(Path("output/results/0001/predictor"))
    hu = head_hu()
    write_study(Path("incoming/study"), hu)
    affine = np.diag([*SPACING[::-1], 1.0])
    nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0)[::-1, ::-1], affine), "head.nii.gz")
    names: dict[str, Any] = {}
    exec(example, names)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3 and printed[0].startswith("ok {'epidural': 0.")
    source_file, _, position_mm = printed[1].split()
    assert (Path("incoming/study") / source_file).is_file()
    image_hu = hu[round(float(position_mm) / SPACING[0])]
    np.testing.assert_array_equal(names["image_hu"], image_hu)
    of_files = names["predictor"].predict_folder("incoming/study")
    p = [float(value.strip("[],")) for value in printed[2].split()]
    np.testing.assert_allclose(p[1:], by_height(of_files)[:, -1], atol=1e-6)
    assert p[0] == pytest.approx(of_files.studies["any"].iloc[0], abs=1e-6)


HEAVY = ("dask", "distributed", "mlflow", "matplotlib", "sklearn", "neptune", "tensorboard")
HEAVY += ("nilearn", "torchvision", "torch._dynamo", "torch._inductor", "scipy.stats", "triton")
HEAVY += ("scipy.optimize", "highdicom")
ALONE = f"""
import sys, threading, psutil
from rsna.predictor import Predictor
predictor = Predictor.open(sys.argv[1])
assert not psutil.Process().children() and threading.active_count() == 1
predictor.predict_folder(sys.argv[2])
names = [thread.name for thread in threading.enumerate()]
assert not psutil.Process().children() and set(names) <= {{"MainThread", "tqdm_monitor"}}, names
found = set({HEAVY!r}) & set(sys.modules)
assert not found, found
import timm.data, torchvision.models
assert timm.data.create_transform and torchvision.models.resnet18
"""


def test_it_starts_nothing_and_imports_little(predictor, tmp_path, project_root):
    predictor.loaded.save(tmp_path / "net")
    write_study(tmp_path / "in", head_hu())
    command = [sys.executable, "-c", ALONE, str(tmp_path / "net"), str(tmp_path / "in")]
    done = subprocess.run(command, cwd=project_root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and done.stdout == ""
