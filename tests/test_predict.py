import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from archive_files import zip_folder
from dicom_factory import write_ct
from predictor_factory import make_dataset, make_predictor
from prepared import write_series_files

import predict
from common.cli import status_of
from common.files import held
from common.predictors.loading import load_predictor
from rsna_model import RSNAModel, build_model
from rsna_task import LABELS

NUM_SLICES = 8
PRIOR = np.linspace(0.1, 0.35, len(LABELS))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A trained predictor and a prepared dataset."""
    root = tmp_path_factory.mktemp("root")
    network = RSNAModel("test_resnet")
    predictor = make_predictor(network=network, model=network.specification, prior=PRIOR)
    predictor.save(root / "output" / "results" / "0001" / "predictor")
    make_dataset(root / "dataset")
    return root


def run_predict(monkeypatch, root: Path, *arguments: str) -> int:
    common = ["--experiment_id", "0001", "--output_dir", str(root / "output"), "--n_jobs", "0"]
    monkeypatch.setattr(sys, "argv", ["predict.py", *common, *arguments])
    return status_of(predict.main)


@pytest.fixture(scope="module")
def head(tmp_path_factory, test_data) -> Path:
    """The lower slices of a real head."""
    folder = tmp_path_factory.mktemp("head")
    for path in sorted((test_data / "ge_head").glob("*.dcm"))[:NUM_SLICES]:
        shutil.copy2(path, folder)
    return folder


def predict_dataset(monkeypatch, root: Path, output: Path, *more: str) -> int:
    folders = ["--pr_input", str(root / "dataset"), "--pr_output", str(output)]
    return run_predict(monkeypatch, root, *folders, *more)


def test_a_prepared_dataset_gets_a_prediction_of_every_slice(monkeypatch, capsys, root, tmp_path):
    assert predict_dataset(monkeypatch, root, tmp_path) == 0
    table = make_dataset(tmp_path / "again")
    slices = pd.read_parquet(tmp_path / "predictions.parquet").set_index("image_id")
    assert sorted(slices.index) == sorted(table.frame["image_id"])
    predictor = load_predictor(root / "output" / "results" / "0001" / "predictor", build_model)
    rows = np.flatnonzero(table.readable)
    logits = predictor.predict_rows(table, rows).logits.astype(np.float64)
    np.testing.assert_allclose(
        slices.loc[table.frame["image_id"].iloc[rows], list(LABELS)],
        1 / (1 + np.exp(-logits)),
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        slices.loc["ID_p0r0_5", list(LABELS)].astype(float), PRIOR, rtol=1e-5
    )

    studies = pd.read_csv(tmp_path / "studies.csv").set_index("study_id")
    assert list(studies["status"]) == ["partial", "ok", "ok", "ok", "ok"]
    assert studies.loc["study1", "series_id"] == "p1r0"
    own = slices[slices["series_id"] == "p1r0"]
    np.testing.assert_allclose(
        studies.loc["study1", list(LABELS)].astype(float), own[list(LABELS)].max(), rtol=1e-12
    )
    series = pd.read_csv(tmp_path / "series.csv").set_index("series_id")
    assert len(series) == 6
    assert series.loc["p1r1", "used"] == 0
    filled = pd.read_csv(tmp_path / "filled_with_prior.csv")
    assert filled.to_dict("records") == [{"image_id": "ID_p0r0_5", "reason": "truncated"}]
    assert capsys.readouterr().out.splitlines()[-1] == (
        "read 33 files, stored 32 slices in 6 series, rejected 1 (1 truncated)"
    )


def test_studies_get_pages_that_only_numbers_name(monkeypatch, capsys, root, tmp_path):
    (tmp_path / "study_99.html").write_text("of an earlier prediction")
    (tmp_path / ".study_1.html.0a.tmp").write_text("half a page")
    assert predict_dataset(monkeypatch, root, tmp_path, "--pr_pages", "3") == 0
    studies = pd.read_csv(tmp_path / "studies.csv")
    assert studies["number"].tolist() == [1, 2, 3, 4, 5]
    ranked = studies.sort_values("any", ascending=False, kind="stable")
    printed = capsys.readouterr().out.splitlines()
    lines = [line for line in printed if re.match(r"study \d+: ", line)]
    assert [int(line.split()[1][:-1]) for line in lines] == ranked["number"].tolist()
    assert f"any {ranked['any'].iloc[0]:.3f}" in lines[0]
    pages = sorted(path.name for path in tmp_path.glob("*.html"))
    assert pages == sorted(["index.html", *(f"study_{n}.html" for n in ranked["number"][:3])])
    assert not list(tmp_path.glob(".*.tmp"))
    index = (tmp_path / "index.html").read_text()
    assert re.findall(r'href="study_(\d+).html"', index) == [str(n) for n in ranked["number"][:3]]
    ids = {*studies["study_id"], *studies["patient_id"], *studies["series_id"]}
    ids |= set(studies["top_image_id"])
    for text in (*printed, *(path.read_text() for path in tmp_path.glob("*.html"))):
        assert not [name for name in ids if name in text.replace(str(tmp_path), "")]
    again = ("--pr_pages", "0", "--pr_overwrite", "1")
    assert predict_dataset(monkeypatch, root, tmp_path, *again) == 0
    assert not list(tmp_path.glob("*.html"))


def test_a_run_that_ends_among_its_pages_goes_on(monkeypatch, root, tmp_path):
    from rsna.evaluation import study_pages

    whole, calls = study_pages.stored_study_html, []

    def failing(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    monkeypatch.setattr(study_pages, "stored_study_html", failing)
    assert predict_dataset(monkeypatch, root, tmp_path) == 130
    names = {path.name for path in tmp_path.iterdir()}
    assert "studies.csv" not in names and "index.html" not in names
    assert sum(name.endswith(".html") for name in names) == 1
    monkeypatch.setattr(study_pages, "stored_study_html", whole)
    assert predict_dataset(monkeypatch, root, tmp_path) == 0
    assert len(list(tmp_path.glob("study_*.html"))) == 5


def test_two_processes_do_not_predict_into_one_folder(monkeypatch, capsys, root, tmp_path):
    """Tables of one and pages of the other would lie there together."""
    (tmp_path / "out").mkdir()
    with held(tmp_path / "out", "not reached"):
        assert predict_dataset(monkeypatch, root, tmp_path / "out") == 2
    assert "another process predicts into it" in capsys.readouterr().err.splitlines()[-1]
    assert not list((tmp_path / "out").iterdir())


def test_the_submission_has_every_id_asked_for(monkeypatch, root, tmp_path):
    asked = ["ID_p3r0_1", "ID_absent", "ID_p0r0_5", "ID_p0r0_0"]
    sample = pd.DataFrame({"ID": [f"{i}_{name}" for i in asked for name in LABELS], "Label": 0.5})
    sample.to_csv(tmp_path / "sample.csv", index=False)
    flags = ("--pr_dataframe", str(tmp_path / "sample.csv"), "--pr_tta", "2")
    output = tmp_path / "out"
    assert predict_dataset(monkeypatch, root, output, *flags) == 0
    submission = pd.read_csv(output / "submission.csv")
    assert list(submission["ID"]) == list(sample["ID"])
    values = submission["Label"].to_numpy().reshape(4, 6)
    np.testing.assert_array_equal(values[1], PRIOR)
    np.testing.assert_allclose(values[2], PRIOR, rtol=1e-5)
    slices = pd.read_parquet(output / "predictions.parquet").set_index("image_id")
    np.testing.assert_allclose(values[0], slices.loc["ID_p3r0_1", list(LABELS)].astype(float))
    filled = pd.read_csv(output / "filled_with_prior.csv").set_index("image_id")["reason"]
    assert dict(filled) == {"ID_p0r0_5": "truncated", "ID_absent": "not in the input"}

    plain = tmp_path / "plain"
    assert predict_dataset(monkeypatch, root, plain) == 0
    without_views = pd.read_parquet(plain / "predictions.parquet").set_index("image_id")
    assert not np.allclose(without_views["any"], slices["any"].loc[without_views.index], rtol=1e-9)
    again = tmp_path / "again"
    assert predict_dataset(monkeypatch, root, again, *flags) == 0
    assert (again / "submission.csv").read_bytes() == (output / "submission.csv").read_bytes()


def test_unusable_flags_are_one_line_each(monkeypatch, capsys, root, tmp_path):
    def refused(*arguments: str) -> str:
        assert run_predict(monkeypatch, root, *arguments) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ")
        return error

    dataset, output = str(root / "dataset"), str(tmp_path / "out")
    assert "--pr_input is missing" in refused("--pr_output", output)
    assert "--pr_output is missing" in refused("--pr_input", dataset)
    inside = str(root / "dataset" / "predictions")
    assert "lies in --pr_input" in refused("--pr_input", dataset, "--pr_output", inside)
    folders = ("--pr_input", dataset, "--pr_output", output)
    assert "no predictor at" in refused(*folders, "--experiment_id", "0007")
    assert "no such file" in refused(*folders, "--pr_dataframe", str(tmp_path / "none.csv"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("x")
    below_a_file = str(tmp_path / "file" / "out")
    assert "can't be written to" in refused("--pr_input", dataset, "--pr_output", below_a_file)


def test_a_dataset_without_a_readable_slice_exits_2(monkeypatch, capsys, root, tmp_path):
    table = make_dataset(tmp_path / "dataset", num_patients=1)
    table.frame.assign(status="corrupt").to_parquet(tmp_path / "dataset" / "slices.parquet")
    flags = ["--pr_input", str(tmp_path / "dataset"), "--pr_output", str(tmp_path / "out")]
    assert run_predict(monkeypatch, root, *flags) == 2
    assert "6 corrupt" in capsys.readouterr().err
    make_dataset(tmp_path / "dataset", num_patients=1)
    shutil.rmtree(tmp_path / "dataset" / "store")
    assert run_predict(monkeypatch, root, *flags) == 2
    assert "prepare them again" in capsys.readouterr().err


def test_a_folder_of_dicom_is_prepared_and_predicted(monkeypatch, capsys, root, tmp_path, head):
    folder, output = tmp_path / "dicom", tmp_path / "out"
    shutil.copytree(head, folder / "deep" / "head")
    (folder / "notes.txt").write_text("not an image")
    flags = ("--pr_input", str(folder), "--pr_output", str(output))
    assert run_predict(monkeypatch, root, *flags) == 0
    counts = capsys.readouterr().out.splitlines()[-1]
    assert f"stored {NUM_SLICES} slices in 1 series" in counts
    assert "1 not_dicom" in counts
    slices = pd.read_parquet(output / "predictions.parquet")
    assert len(slices) == NUM_SLICES
    studies = pd.read_csv(output / "studies.csv")
    assert studies["num_slices"].tolist() == [NUM_SLICES]
    assert studies["status"].tolist() == ["ok"]
    assert studies["any"][0] == slices["any"].max()
    top = slices.loc[slices["any"].idxmax(), "image_id"]
    assert studies["top_image_id"].tolist() == [top]

    before = (output / "studies.csv").read_bytes()
    assert run_predict(monkeypatch, root, *flags) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: --pr_output {output}: holds predictions already")
    assert "--pr_overwrite 1" in error
    assert run_predict(monkeypatch, root, *flags, "--pr_overwrite", "1") == 0
    assert (output / "studies.csv").read_bytes() == before
    # A run that was stopped before its last table goes on with the same command.
    (output / "studies.csv").unlink()
    assert run_predict(monkeypatch, root, *flags) == 0
    assert (output / "studies.csv").read_bytes() == before


def test_a_zip_archive_is_predicted_as_its_folder_is(monkeypatch, capsys, root, tmp_path, head):
    write_ct(tmp_path / "in" / "scout.dcm", np.zeros((16, 16), np.uint16), SOPInstanceUID="5.1",
             SeriesDescription="Scout")  # fmt: skip
    shutil.copytree(head, tmp_path / "in" / "head")
    archive = zip_folder(tmp_path / "in", tmp_path / "zips" / "head.zip")
    counts = []
    for source, output in (
        (tmp_path / "in", tmp_path / "plain"),
        (archive, tmp_path / "zipped"),
    ):
        assert (
            run_predict(monkeypatch, root, "--pr_input", str(source), "--pr_output", str(output))
            == 0
        )
        counts.append(capsys.readouterr().out.splitlines()[-1])
    assert counts[1] == counts[0]
    assert f"stored {NUM_SLICES} slices in 1 series" in counts[0]
    plain = pd.read_parquet(tmp_path / "plain" / "predictions.parquet")
    assert len(plain) == NUM_SLICES  # the scout is left out, not filled with the prior
    again = pd.read_parquet(tmp_path / "zipped" / "predictions.parquet")
    pd.testing.assert_frame_equal(again, plain, check_exact=True)
    for table in ("studies.csv", "series.csv", "filled_with_prior.csv", "left_out.csv"):
        expected = (tmp_path / "plain" / table).read_bytes()
        assert (tmp_path / "zipped" / table).read_bytes() == expected
    series = pd.read_csv(tmp_path / "zipped" / "series.csv")
    assert sorted(series["reason"].str.slice(0, 20)) == ["left out: localizer:", "the only series"]


def test_files_without_study_or_series_stop_nothing(monkeypatch, root, tmp_path):
    folder, output = tmp_path / "dicom", tmp_path / "out"
    write_series_files(folder)
    pixels = np.zeros((16, 16), np.int16)
    write_ct(folder / "a", pixels, SOPInstanceUID="5.1", StudyInstanceUID=None)
    write_ct(folder / "b", pixels, SOPInstanceUID="5.2", SeriesInstanceUID=None)
    flags = ("--pr_input", str(folder), "--pr_output", str(output))
    assert run_predict(monkeypatch, root, *flags) == 0
    slices = pd.read_parquet(output / "predictions.parquet").set_index("image_id")
    assert len(slices) == 6
    np.testing.assert_allclose(
        slices.loc[["5.1", "5.2"], list(LABELS)].astype(float), [PRIOR] * 2, rtol=1e-5
    )
    filled = pd.read_csv(output / "filled_with_prior.csv", dtype="str")
    assert dict(zip(filled["image_id"], filled["reason"])) == {"5.1": "no_id", "5.2": "no_id"}


def test_a_folder_without_ct_exits_2(monkeypatch, capsys, root, tmp_path):
    folder = tmp_path / "input"
    folder.mkdir()
    flags = ("--pr_input", str(folder), "--pr_output", str(tmp_path / "out"))
    assert run_predict(monkeypatch, root, *flags) == 2
    assert "no files" in capsys.readouterr().err
    (folder / "notes.txt").write_text("not an image")
    assert run_predict(monkeypatch, root, *flags) == 2
    assert "1 not_dicom" in capsys.readouterr().err


def test_slices_are_prepared_as_those_it_was_trained_on(monkeypatch, capsys, root, tmp_path):
    network = RSNAModel("test_resnet")
    steps = {"head_crop": False, "spacing_mm": 1.0, "size": 48}
    predictor = make_predictor(
        network=network, model=network.specification, training={"pixels": steps}
    )
    predictor.save(tmp_path / "output" / "results" / "0001" / "predictor")
    write_series_files(tmp_path / "in", size=64)
    folders = ["--pr_input", str(tmp_path / "in"), "--pr_output", str(tmp_path / "out")]
    assert run_predict(monkeypatch, tmp_path, *folders) == 0
    slices = pd.read_parquet(tmp_path / "out" / "dataset" / "slices.parquet")
    assert set(slices["rows"]) == {48}
    assert set(slices["spacing_row"]) == {1.0}
    # The same folder prepared otherwise, by a predictor without steps: refused, not mixed up.
    assert run_predict(monkeypatch, root, *folders, "--pr_overwrite", "1") == 2
    assert "was made with --pre_head_crop 0 --pre_spacing 1" in capsys.readouterr().err
    folders = ["--pr_input", str(root / "dataset"), "--pr_output", str(tmp_path / "out2")]
    assert run_predict(monkeypatch, tmp_path, *folders) == 2
    assert "--pre_size 48: prepare the data" in capsys.readouterr().err
