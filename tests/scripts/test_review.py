"""scripts/review.py: which studies it shows, what is ticked in them, and what comes of it."""

import re
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import BROWSER, NO_BROWSER, browser
from predictor_factory import make_predictor
from prepared import write_series_files

import preprocessing
from common.cli import status_of
from common.scoring.predictions import build_predictions, write_predictions
from common.slices.table import SliceTable
from config import Config
from rsna.evaluation.ticks import with_ticks
from rsna_model import RSNAModel
from rsna_task import LABELS
from scripts import review

EVIL = "</script><script>alert(1)</script>"
NUM_PATIENTS, NUM_SLICES = 12, 4
LABELLED = "SOPInstanceUID," + ",".join(LABELS)


def call(monkeypatch: pytest.MonkeyPatch, main: object, **flags: object) -> int:
    arguments = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
    return status_of(main)


def prepare(monkeypatch, root: Path, name: str, labels: object, status: int = 0) -> SliceTable:
    flags = {"pre_source": "dicom", "pre_folder": root / "dicom", "pre_labels": labels}
    flags |= {"data_input_folder": root / "input", "data_dataset": name, "n_jobs": 0}
    assert call(monkeypatch, preprocessing.main, **flags, pre_num_folds=2) == status
    return SliceTable.load(root / "input" / "datasets" / name)


def true_labels() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    ids = [f"1.{p + 1}.{i}" for p in range(NUM_PATIENTS) for i in range(NUM_SLICES)]
    y = (rng.random((len(ids), len(LABELS))) < 0.3).astype(float)
    y[:, -1] = y[:, :-1].max(axis=1)
    return pd.DataFrame(y, pd.Index(ids, name="SOPInstanceUID"), list(LABELS))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment over DICOM of twelve patients that is right but for one uncertain study.

    The labels of slice 1.4.2 are all wrong, slice 1.6.1 has shares of raters, and the last study
    has a wrong label as a whole.
    """
    tmp_path = tmp_path_factory.mktemp("made")
    for p in range(NUM_PATIENTS):
        names = {"PatientName": f"{EVIL}^{p}", "PatientID": f"secret{p}", "AccessionNumber": EVIL}
        write_series_files(tmp_path / "dicom", f"1.{p + 1}", NUM_SLICES, **names)
    truth = true_labels()
    wrong = truth.astype(object)
    wrong.loc["1.4.2"] = 1 - truth.loc["1.4.2"]
    wrong.loc["1.6.1"] = [0.667, 0, 0.333, 0, 0.5, 1]
    truth.loc["1.6.1"] = [1, 0, 0, 0, 0, 1]
    wrong.iloc[:-NUM_SLICES].to_csv(tmp_path / "labels.csv")
    last = 1 - truth.iloc[-NUM_SLICES:]["any"].max()
    (tmp_path / "studies.csv").write_text(f"StudyInstanceUID,any\n1.12.0,{last}\n")
    files = f"{tmp_path / 'labels.csv'},{tmp_path / 'studies.csv'}"
    with pytest.MonkeyPatch.context() as patch:
        table = prepare(patch, tmp_path, "own", files)
    folder = tmp_path / "output" / "results" / "0001"
    network = RSNAModel("test_resnet")
    options = {"network": network, "model": network.specification}
    make_predictor(**options, training={"dataset": "own", "fold": 0}).save(folder / "predictor")
    logits = 8 * truth.loc[table.frame["image_id"]].to_numpy() - 4
    logits[table.frame["study_id"].eq("1.9.0"), -1] = 0.1
    frame = build_predictions(table.frame, logits, LABELS, 0, "0001")
    write_predictions(folder / "predictions" / "oof.parquet", frame, LABELS)
    return tmp_path


@pytest.fixture
def root(tmp_path: Path, made: Path) -> Path:
    """The experiment, to be changed."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    config = Config().with_flags(data_dataset="own", data_input_folder=str(tmp_path / "input"))
    (tmp_path / "output/results/0001/config.yaml").write_text(config.to_yaml())
    return tmp_path


def run(monkeypatch, root: Path, **flags: object) -> int:
    given = {"experiment_id": "0001", "output_dir": root / "output"} | flags
    given = {name: value for name, value in given.items() if value is not None}
    return call(monkeypatch, review.main, **given)


def refused(monkeypatch, capsys, root: Path, **flags: object) -> str:
    capsys.readouterr()
    assert run(monkeypatch, root, **flags) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    return next(line for line in reversed(lines) if line.startswith("error: "))


def reviewed(root: Path) -> Path:
    return root / "output" / "reviews" / "0001_own"


def write_ticks(root: Path, name: str, *rows: str, reader: str = "r", save: int = 1) -> Path:
    """A csv as a page saves it; a row is the slice and labels, and the study before it."""
    ids = pd.read_csv(reviewed(root) / "pages.csv", dtype="str")
    page = ids.drop_duplicates("study_id").set_index("study_id")["page"]
    lines = [f"page,study,reader,save,slice,{','.join(LABELS)}"]
    for row in rows:
        study, _, rest = row.partition(" ")
        lines.append(f"{page[study]},1,{reader},{save},{rest}")
    path = root / "saved" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def test_pages_of_the_studies_worth_a_look_without_ids(monkeypatch, capsys, root) -> None:
    assert run(monkeypatch, root, rv_num=2) == 0
    printed = capsys.readouterr().out
    assert "likely label error: 2 studies" in printed and "uncertain: " in printed
    studies = pd.read_csv(reviewed(root) / "studies.csv", dtype={"study_id": "str"})
    assert studies["study_id"][0] == "1.4.0"
    assert "slice 3, " in studies["why"].iloc[0]
    assert studies["study_id"][1] == "1.12.0"
    assert re.search(r"the study, any 0\.\d+, labelled (yes|no)", studies["why"].iloc[1])
    assert studies["study_id"].eq("1.9.0").any()  # the uncertain one
    pages = sorted(path.name for path in reviewed(root).glob("*.html"))
    assert pages == ["index.html", *(f"study_{n}.html" for n in studies["number"])]
    ids = [*true_labels().index, *studies["study_id"], "secret", "alert(1)", str(root)]
    for name in pages:
        html = (reviewed(root) / name).read_text()
        text = re.sub(r"base64,[^\"]+|id=\"packed\">[^<]+", "", html)
        assert not [one for one in ids if re.search(rf"(?<![\d.]){re.escape(one)}(?![\d.])", text)]
    index = (reviewed(root) / "index.html").read_text()
    assert re.findall(r'href="(.*?)"', index) == pages[1:]
    before = {name: (reviewed(root) / name).read_bytes() for name in pages}
    assert run(monkeypatch, root, rv_num=2) == 0
    assert before == {name: (reviewed(root) / name).read_bytes() for name in pages}


def test_studies_without_pixels_are_counted(monkeypatch, capsys, root) -> None:
    assert run(monkeypatch, root, rv_num=2) == 0
    table = SliceTable.load(root / "input" / "datasets" / "own")
    files = table.frame.groupby("study_id")["store_file"].first()
    (table.folder / "store" / files["1.4.0"]).unlink()
    capsys.readouterr()
    assert run(monkeypatch, root, rv_num=2) == 0
    assert ", 1 left out: no pixels at hand: " in capsys.readouterr().out
    studies = pd.read_csv(reviewed(root) / "studies.csv", dtype="str")
    assert not studies["study_id"].eq("1.4.0").any()
    pages = {path.stem for path in reviewed(root).glob("study_*.html")}
    assert pages == {f"study_{number}" for number in studies["number"]}
    # A tick in the page that was there before is still understood.
    path = write_ticks(root, "ticks_study_1.csv", "1.4.0 3,1,1,1,1,1,1")
    assert run(monkeypatch, root, rv_ticks=path) == 0


def test_ticks_become_labels_by_one_command(monkeypatch, capsys, root) -> None:
    assert run(monkeypatch, root) == 0
    write_ticks(root, "ticks_study_1.csv", "1.4.0 3,1,1,1,1,1,1", reader="a")
    # Saved again: what stood in the first file is undone.
    write_ticks(root, "ticks_study_1 (1).csv", "1.4.0 2,0,1,,0,0,1", reader="a", save=2)
    write_ticks(root, "ticks_study_2.csv", "1.6.0 2,0,0,0,0,,1", "1.6.0 study,,,,,,1", reader="b")
    capsys.readouterr()
    assert run(monkeypatch, root, rv_ticks=root / "saved") == 0
    printed = capsys.readouterr().out
    files = re.search(r"--pre_labels (\S+)", printed)[1]
    table = prepare(monkeypatch, root, "corrected", files)
    found = table.frame.set_index("image_id")[list(LABELS)].astype(float)
    expected = pd.read_csv(root / "labels.csv", index_col=0).astype(float)
    expected.loc["1.4.1"] = [0, 1, np.nan, 0, 0, 1]
    expected.loc["1.6.1", "epidural"] = 0  # the other shares of raters stay
    expected = expected.reindex(found.index)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    studies = pd.read_parquet(table.folder / "studies.parquet").set_index("study_id")
    assert studies["label_source"].eq("study").sum() == 2
    assert studies.loc["1.6.0", "any"] == 1
    # Without any change the labels are those that there were.
    shutil.rmtree(root / "saved")
    path = write_ticks(root, "ticks_study_1.csv", "1.4.0 none,,,,,,")
    assert run(monkeypatch, root, rv_ticks=path) == 0
    again = pd.read_csv(reviewed(root) / "labels_studies.csv", index_col=0)
    assert again.index.tolist() == ["1.12.0"] and again.notna().sum(axis=None) == 1
    again = pd.read_csv(reviewed(root) / "labels_slices.csv", index_col=0)
    pd.testing.assert_frame_equal(
        again, pd.read_csv(root / "labels.csv", index_col=0).loc[again.index], check_dtype=False
    )


@pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER)
def test_ticks_of_a_browser_are_found_in_the_prepared_dataset(
    monkeypatch, capsys, root, tmp_path_factory
) -> None:
    assert run(monkeypatch, root, rv_num=3) == 0
    studies = pd.read_csv(reviewed(root) / "studies.csv", dtype="str").set_index("study_id")
    page = reviewed(root) / f"study_{studies.loc['1.4.0', 'number']}.html"
    truth = true_labels().loc["1.4.2"]
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.save_to(root / "saved")
        opened.open(page)
        opened.run("ready")
        assert opened.run("state.slice") == 2  # it opens at the slice that is worth a look
        for k, value in enumerate(truth[:-1]):
            given = opened.run(f"labels.slice[2][{k}]")
            assert given == 1 - value
            opened.click(f"input[data-of=slice][data-label='{k}']")
        opened.click("[data-do=save]")
        while not list((root / "saved").glob("*.csv")):
            time.sleep(0.1)
    capsys.readouterr()
    assert run(monkeypatch, root, rv_ticks=root / "saved") == 0
    files = re.search(r"--pre_labels (\S+)", capsys.readouterr().out)[1]
    table = prepare(monkeypatch, root, "corrected", files)
    found = table.frame.set_index("image_id").loc["1.4.2", list(LABELS)]
    assert found.astype(float).tolist() == truth.tolist()


def test_what_is_refused(monkeypatch, capsys, root) -> None:
    def refuses(**flags: object) -> str:
        return refused(monkeypatch, capsys, root, **flags)

    assert "give one of" in refuses(experiment_id=None)
    assert "give one of" in refuses(rv_predictions=root)
    assert "no output of predict.py" in refuses(experiment_id=None, rv_predictions=root)
    assert "must be at least 1" in refuses(rv_num=0)
    assert "without --rv_ticks" in refuses(rv_ticks=root)
    assert run(monkeypatch, root) == 0
    assert "no ticks_*.csv" in refuses(rv_ticks=root)
    assert "no such file" in refuses(rv_ticks=root / "x.csv").lower()
    assert "no page, study" in refuses(rv_ticks=root / "labels.csv")
    one = write_ticks(root, "one.csv", "1.4.0 3,1,1,1,1,1,1", reader="a")
    other = write_ticks(root, "other.csv", "1.4.0 3,1,1,1,1,0,1", reader="b")
    message = refuses(rv_ticks=f"{one},{other}")
    assert "one.csv and other.csv contradict" in message and "slice 3" in message
    assert "1.4" not in message
    for place in ("5", "0", "-1", "x"):
        path = write_ticks(root, "bad.csv", f"1.4.0 {place},1,1,1,1,1,1")
        assert "bad.csv, line 2: no such page or slice" in refuses(rv_ticks=path)
    path = write_ticks(root, "bad.csv", "1.4.0 3,1,1,1,1,1,yes")
    assert "any is 'yes', but a label is 0, 1 or empty" in refuses(rv_ticks=path)
    path = write_ticks(root, "bad.csv", "1.4.0 3,1,1,1,1,1,1")
    path.write_text(path.read_text().replace("page_", "page_0"))
    assert "no such page" in refuses(rv_ticks=path)
    assert not list(reviewed(root).glob("labels_*"))


def test_an_output_of_predict(monkeypatch, capsys, root) -> None:
    """Its own dataset has no labels: there is nothing but uncertain slices and studies."""
    folder = root / "predicted"
    shutil.copytree(root / "input" / "datasets" / "own", folder / "dataset")
    for name in ("slices", "studies"):
        path = folder / "dataset" / f"{name}.parquet"
        frame = pd.read_parquet(path)
        frame[list(LABELS)] = np.nan
        frame.assign(label_source=None).to_parquet(path)
    frame = pd.read_parquet(root / "output/results/0001/predictions/oof.parquet")
    frame.loc[frame["study_id"].eq("1.2.0"), "any"] = [0.3, 0.31, 0.32, 0.33]
    frame.to_parquet(folder / "predictions.parquet")
    frame.groupby("study_id")[list(LABELS)].max().to_csv(folder / "studies.csv")
    flags = {"experiment_id": None, "rv_predictions": folder, "rv_num": 20}
    assert run(monkeypatch, root, **flags) == 0
    printed = capsys.readouterr().out
    assert "label error" not in printed
    pages = root / "output" / "reviews" / "predicted"
    studies = pd.read_csv(pages / "studies.csv", dtype="str").set_index("study_id")
    assert studies.loc["1.2.0", "why"].endswith("Uncertain: the study, any 0.330.")
    assert len(list(pages.glob("study_*.html"))) == len(studies) < NUM_PATIENTS
    ids = pd.read_csv(pages / "pages.csv", dtype="str")
    rows = ids[ids["study_id"].eq("1.2.0")]
    text = f"page,study,reader,save,slice,{','.join(LABELS)}\n"
    text += "".join(
        f"{page},1,r,1,{n},0,0,0,0,0,0\n" for page, n in zip(rows["page"], rows["slice"])
    )
    (root / "ticks.csv").write_text(text)
    assert run(monkeypatch, root, **flags, rv_ticks=root / "ticks.csv") == 0
    labels = pd.read_csv(pages / "labels_slices.csv", index_col=0)
    assert sorted(labels.index) == [f"1.2.{i}" for i in range(NUM_SLICES)]
    assert (labels == 0).all(axis=None)
    (folder / "dataset").rename(root / "input" / "datasets" / "moved")
    assert "by --data_dataset" in refused(monkeypatch, capsys, root, **flags)
    flags |= {"data_dataset": "moved", "data_input_folder": root / "input"}
    assert run(monkeypatch, root, **flags) == 0


def test_ticks_of_any_alone_keep_the_other_labels_in_line() -> None:
    known = pd.DataFrame(
        [[1, 0, 0, 0, 0, 1], [0] * 6, [1, 0, 0, 0, 0, 1], [0.75, 0, 0, 0, 0, 0.75]],
        index=list("abcd"),
        columns=list(LABELS),
        dtype="float32",
    )
    ticks = pd.DataFrame({"any": [0, 1, np.nan, 1, 0]}, index=list("abcde"))
    found, num_changed = with_ticks(known, ticks)
    nan = np.nan
    expected = [[0] * 6, [*[nan] * 5, 1], [0.75, 0, 0, 0, 0, 0.75], [0] * 6]
    np.testing.assert_array_equal(found.loc[list("abde")], expected)
    assert "c" not in found.index  # nothing is known of it any more
    assert num_changed == 2 + 6 + 6 + 6
