import json
import shutil
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from blend_factory import DATASET, make_fold_dataset, make_members, write_member
from predictor_factory import make_predictor

import ensemble
import evaluate
import predict
from common.cli import status_of
from common.predictors.loading import load_predictor
from common.scoring.metrics import weighted_log_loss
from common.scoring.predictions import probabilities_of
from common.slices.leakage import id_digests
from common.slices.table import SliceTable
from config import recorded_config
from rsna_model import RSNAModel, build_model
from rsna_task import LABEL_WEIGHTS, LABELS

STACKING = ("--ens_method", "stacking", "--ens_calibration", "isotonic", "--ens_consistency", "1")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("root")
    make_members(root)
    return root


def run(monkeypatch, root: Path, script, *arguments: str) -> int:
    common = ["--output_dir", str(root / "output"), "--n_jobs", "0"]
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *common, *arguments])
    return status_of(script.main)


def blend(monkeypatch, root: Path, name: str, *more: str, members: str = "0001,0002") -> Path:
    flags = ["--ens_experiments", members, "--experiment_id", name, *more]
    assert run(monkeypatch, root, ensemble, *flags) == 0
    return root / "output" / "results" / name


def refused(monkeypatch, capsys, root: Path, *flags: str) -> str:
    assert run(monkeypatch, root, ensemble, *flags) == 2
    return capsys.readouterr().err


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Drawing takes most of the time; what the fixture `stacked` draws is enough."""
    for place in ("evaluation", "blend"):
        monkeypatch.setattr(f"common.report.{place}.figure", lambda drawing, name: name)
        monkeypatch.setattr(f"common.report.{place}.figures", Mock())


@pytest.fixture(scope="module")
def stacked(root, tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as monkeypatch:
        return blend(monkeypatch, root, "stacked", *STACKING)


def test_a_mean_is_the_mean_and_its_score_that_of_the_table(monkeypatch, capsys, root):
    folder = blend(monkeypatch, root, "mean", "--ens_studies", "0")
    assert capsys.readouterr().out == "mean\n"
    frames = [
        pd.read_parquet(root / "output" / "results" / name / "predictions" / "oof.parquet")
        .set_index("image_id")
        .sort_index()
        for name in ("0001", "0002", "mean")
    ]
    expected = (frames[0][list(LABELS)] + frames[1][list(LABELS)]) / 2
    np.testing.assert_allclose(frames[2][list(LABELS)], expected, rtol=1e-12)
    assert frames[2]["fold"].tolist() == frames[0]["fold"].tolist()
    table = SliceTable.load(root / "input" / "datasets" / DATASET)
    labels = table.labels(table.rows_of(frames[2].index), LABELS)
    metrics = json.loads((folder / "metrics.json").read_text())
    reference = weighted_log_loss(labels, expected.to_numpy(), LABEL_WEIGHTS)
    assert metrics["weighted_log_loss"] == pytest.approx(reference, abs=1e-12)
    for name, frame in zip(("0001", "0002"), frames):
        own = weighted_log_loss(labels, frame[list(LABELS)].to_numpy(), LABEL_WEIGHTS)
        told = metrics["members"][name]
        assert told["weighted_log_loss"] == pytest.approx(own, abs=1e-12)
        assert told["blend_gains"]["difference"] == pytest.approx(own - reference, abs=1e-12)
    # Without one of two members the other is left.
    left = metrics["leave_one_out"]["0001"]["weighted_log_loss"]
    assert left == pytest.approx(metrics["members"]["0002"]["weighted_log_loss"], abs=1e-12)
    assert metrics["weights"]["any"]["all rows"]["weights"] == [0.5, 0.5]
    assert metrics["correlation"]["any"][0][1] == pytest.approx(
        np.corrcoef(frames[0]["any"], frames[1]["any"])[0, 1], abs=1e-9
    )
    assert set(metrics["study"]) >= {"weighted_log_loss", "auc", "ece", "raw"}
    assert recorded_config(folder).ensemble.ens_experiments == "0001,0002"


@pytest.mark.drawn
def test_what_is_calibrated_is_reported_raw_too(root, stacked):
    metrics = json.loads((stacked / "metrics.json").read_text())
    assert list(metrics["stages"]) == [
        "raw",
        "raw, any at least its subtypes",
        "calibrated",
        "calibrated, any at least its subtypes",
    ]
    last = metrics["stages"]["calibrated, any at least its subtypes"]
    assert last["weighted_log_loss"] == pytest.approx(metrics["weighted_log_loss"], abs=1e-12)
    assert last["ece"] == metrics["ece"] != metrics["stages"]["raw"]["ece"]
    frame = pd.read_parquet(stacked / "predictions" / "oof.parquet")
    assert (frame["any"] >= frame[list(LABELS)].max(axis=1) - 1e-12).all()
    assert set(metrics["weights"]["subdural"]) == {"fold 0", "fold 1", "fold 2", "all rows"}
    study = metrics["study"]
    assert study["weighted_log_loss"] == study["calibrated"]["weighted_log_loss"]
    page = (stacked / "report.html").read_text()
    for heading in ("Members, and what each adds", "Weights", "Studies: raw and calibrated"):
        assert heading in page
    assert "indirect dependence" in page and "secret-patient" not in page


def test_the_predictor_does_what_was_fitted_on_all_rows(root, stacked):
    """The folder stands alone: members are in it."""
    table = SliceTable.load(root / "input" / "datasets" / DATASET)
    rows = np.flatnonzero(table.readable)[:20]
    predictor = load_predictor(stacked / "predictor", build_model)
    told = predictor.predict_rows(table, rows)
    assert not told.unreadable.any()
    members = [load_predictor(root / "output" / "results" / name / "predictor", build_model)
               for name in ("0001", "0002")]  # fmt: skip
    alone = np.stack([probabilities_of(m.predict_rows(table, rows).logits) for m in members])
    expected = predictor.blender.apply(alone)
    np.testing.assert_allclose(told.logits, expected, rtol=1e-5)
    info = json.loads((stacked / "predictor" / "predictor.json").read_text())
    assert info["kind"] == "blend" and "secret-patient" not in json.dumps(info)


def test_test_rows_and_the_predictor_agree_on_what_is_kept(root, stacked):
    test = pd.read_parquet(stacked / "predictions" / "test.parquet").set_index("image_id")
    members = [
        pd.read_parquet(root / "output" / "results" / name / "predictions" / "test.parquet")
        .set_index("image_id")
        .loc[test.index, list(LABELS)]
        .to_numpy()
        for name in ("0001", "0002")
    ]
    predictor = load_predictor(stacked / "predictor", build_model)
    raw = predictor.blender.apply(np.stack(members))
    np.testing.assert_allclose(
        test[list(LABELS)], probabilities_of(raw, predictor.calibration), rtol=1e-9
    )
    assert test["fold"].isna().all()


def test_a_submission_is_checked_and_whole(monkeypatch, root, tmp_path):
    table = SliceTable.load(root / "input" / "datasets" / DATASET)
    images = table.frame.loc[table.frame["split"] == "test", "image_id"].tolist()
    ids = [f"{image}_{label}" for image in [*images[::-1], "ID_absent"] for label in LABELS]
    sample = tmp_path / "sample.csv"
    pd.DataFrame({"ID": ids, "Label": 0.5}).to_csv(sample, index=False)
    folder = blend(monkeypatch, root, "sent", "--pr_dataframe", str(sample))
    submission = pd.read_csv(folder / "submission.csv")
    assert submission["ID"].tolist() == ids
    assert submission["Label"].between(0, 1).all() and submission["Label"].nunique() > 20


def elsewhere(root: Path, name: str, *columns: str) -> Path:
    """A dataset like that of the members, with other ids in some columns."""
    folder = root / "input" / "datasets" / name
    make_fold_dataset(folder, num_patients=8, num_test=0)
    frame = pd.read_parquet(folder / "slices.parquet")
    for column in columns:
        frame[column] += "-elsewhere"
    frame.to_parquet(folder / "slices.parquet")
    return folder


def with_study_calibration(stacked: Path, name: str, **changes) -> Path:
    """A copy of a blend whose study calibrator changes every study, and whose JSON is changed."""
    folder = stacked.with_name(name)
    shutil.copytree(stacked, folder)
    path = folder / "predictor" / "predictor.json"
    info = json.loads(path.read_text())
    coefficients = [[0.9, 0.3 * column, -0.2] for column in range(len(LABELS))]
    info["study_calibration"] |= {"coefficients": coefficients, "bias": [0.4, 0.9, 0, 0, 0, -2]}
    path.write_text(json.dumps(info | changes))
    return folder


def test_evaluate_scores_the_studies_that_predict_writes(
    monkeypatch, capsys, root, stacked, tmp_path
):
    before = (stacked / "metrics.json").read_text()
    assert run(monkeypatch, root, evaluate, "--experiment_id", "stacked") == 0
    assert (stacked / "metrics.json").read_text() == before
    folder = elsewhere(root, "other", "study_id", "patient_id")
    frame = pd.read_parquet(folder / "slices.parquet")
    # Of one study no slice can be read; the labels of a slice of the used series are unknown.
    lost = frame["study_id"].eq("study2-elsewhere")
    frame.loc[lost, "status"] = "truncated"
    frame.loc[lost, ["store_file", "store_index", "rank"]] = None
    frame.loc[frame["series_id"].eq("p3r0").idxmax(), list(LABELS)] = np.nan
    frame.to_parquet(folder / "slices.parquet")
    blended = with_study_calibration(stacked, "studied")
    assert run(monkeypatch, root, evaluate, *["--experiment_id", "studied"],
               *["--data_dataset", "other"]) == 0  # fmt: skip
    metrics = json.loads((blended / "evaluations" / "other" / "metrics.json").read_text())["study"]
    flags = ["--experiment_id", "studied", "--pr_output", str(tmp_path / "out")]
    assert run(monkeypatch, root, predict, *flags, "--pr_input", str(folder)) == 0
    studies = pd.read_csv(tmp_path / "out" / "studies.csv").set_index("study_id")
    labels = frame.groupby("study_id")[list(LABELS)].max()
    is_lacking = frame[list(LABELS)].isna().groupby(frame["study_id"]).any()
    labels = labels.mask(is_lacking & (labels == 0)).loc[studies.index]
    assert labels.isna().any().any(), "negative, as far as it is known, is unknown"
    p = studies[list(LABELS)].to_numpy()
    assert len(studies) == 8 and (studies["status"] == "prior").sum() == 1
    for number, name in enumerate(LABELS):
        y, own = labels[name].to_numpy(), p[:, number]
        loss = -np.nanmean(y * np.log(own) + (1 - y) * np.log(1 - own))
        assert metrics["log_loss"][name] == pytest.approx(loss, rel=1e-5)
    assert (studies["any"] >= studies[list(LABELS)].max(axis=1) - 1e-12).all()
    assert metrics["rule"].startswith("calibrated") and "at least" in metrics["rule"]
    assert ">None<" not in (blended / "evaluations" / "other" / "report.html").read_text()
    # The study that can't be read has the prior of studies.
    info = json.loads((blended / "predictor" / "predictor.json").read_text())
    filled = studies[studies["status"] == "prior"][list(LABELS)].to_numpy()[0]
    np.testing.assert_allclose(filled, [info["study_prior"][name] for name in LABELS])
    assert (filled > np.array([info["prior"][name] for name in LABELS])).all()


def test_studies_are_scored_by_the_labels_that_they_were_given(monkeypatch, root):
    folder = root / "input" / "datasets" / DATASET
    frame = SliceTable.load(folder).frame
    studies = frame.groupby("study_id", as_index=False)[["patient_id", *LABELS]].max()
    given = studies.assign(**{name: 1 - studies[name] for name in LABELS}, label_source="study")
    given.to_parquet(folder / "studies.parquet")
    try:
        blended = blend(monkeypatch, root, "given")
    finally:
        (folder / "studies.parquet").unlink()
    told = pd.read_parquet(blended / "predictions" / "studies.parquet").set_index("study_id")
    expected = given.set_index("study_id").loc[told.index]
    for name in LABELS:
        assert told[f"label_{name}"].tolist() == expected[name].tolist()
    study = json.loads((blended / "metrics.json").read_text())["study"]
    assert study["num_positive"] == {name: int(expected[name].sum()) for name in LABELS}


def test_an_old_blend_without_a_prior_of_studies_warns(
    monkeypatch, caplog, root, stacked, tmp_path
):
    old = with_study_calibration(stacked, "oldprior", study_prior=None)
    folder = elsewhere(root, "lost", "study_id", "patient_id")
    frame = pd.read_parquet(folder / "slices.parquet")
    lost = frame["study_id"].eq("study2-elsewhere")
    frame.loc[lost, "status"] = "truncated"
    frame.loc[lost, ["store_file", "store_index", "rank"]] = None
    frame.to_parquet(folder / "slices.parquet")
    flags = ["--experiment_id", "oldprior", "--pr_output", str(tmp_path / "out")]
    assert run(monkeypatch, root, predict, *flags, "--pr_input", str(folder)) == 0
    assert "1 study can't be read and have the prior of slices" in caplog.text
    studies = pd.read_csv(tmp_path / "out" / "studies.csv").set_index("study_id")
    info = json.loads((old / "predictor" / "predictor.json").read_text())
    np.testing.assert_allclose(
        studies.loc["study2-elsewhere", list(LABELS)].astype(float), list(info["prior"].values())
    )


def test_a_blend_is_not_scored_on_patients_that_it_was_fitted_on(
    monkeypatch, capsys, root, stacked
):
    """Another study of the same patient is refused too; a blend of before knows its studies."""
    elsewhere(root, "other_studies", "study_id")
    flags = ["--experiment_id", "stacked", "--data_dataset", "other_studies"]
    assert run(monkeypatch, root, evaluate, *flags) == 2
    assert "8 patients that it was fitted on" in capsys.readouterr().err
    info = json.loads((stacked / "predictor" / "predictor.json").read_text())
    digests = [id_digests([f"{name}{n}" for n in range(9)], info["fitted_on_salt"])
               for name in ("secret-patient-", "study")]  # fmt: skip
    assert info["fitted_on"] == sorted(digests[0] + digests[1])
    assert "secret" not in json.dumps(info)
    # An export without patient ids is known by its studies.
    folder = elsewhere(root, "anonymous")
    frame = pd.read_parquet(folder / "slices.parquet")
    frame.assign(patient_id=None).to_parquet(folder / "slices.parquet")
    flags = ["--experiment_id", "stacked", "--data_dataset", "anonymous"]
    assert run(monkeypatch, root, evaluate, *flags) == 2
    assert "8 patients that it was fitted on" in capsys.readouterr().err
    studies = [f"study{number}" for number in range(9)]
    old = {"fitted_on": id_digests(studies), "fitted_on_salt": ""}
    with_study_calibration(stacked, "oldguard", **old)
    flags = ["--experiment_id", "oldguard", "--data_dataset", "other_studies"]
    assert run(monkeypatch, root, evaluate, *flags) == 0
    elsewhere(root, "other_patients", "patient_id")
    flags = ["--experiment_id", "oldguard", "--data_dataset", "other_patients"]
    assert run(monkeypatch, root, evaluate, *flags) == 2
    assert "fitted on" in capsys.readouterr().err


def test_a_blend_and_its_members_have_one_prior(monkeypatch, root):
    """Members whose folds have priors of their own: each row is compared with that of its fold."""
    results = root / "output" / "results"
    rng = np.random.default_rng(0)
    for name in ("0001", "0002"):
        folder = results / f"prior{name}"
        shutil.copytree(results / name, folder)
        path = folder / "predictor" / "predictor.json"
        info = json.loads(path.read_text())
        of_folds = rng.uniform(0.1, 0.4, (3, len(LABELS)))
        info["fold_priors"] = {
            str(fold): dict(zip(LABELS, prior)) for fold, prior in enumerate(of_folds.tolist())
        }
        path.write_text(json.dumps(info))
    folder = blend(monkeypatch, root, "prior", members="prior0001")
    assert run(monkeypatch, root, evaluate, "--experiment_id", "prior0001") == 0
    found = [
        json.loads((results / name / "metrics.json").read_text())["prior_weighted_log_loss"]
        for name in ("prior", "prior0001")
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    folder = blend(monkeypatch, root, "priors", members="prior0001,prior0002")
    info = json.loads((folder / "predictor" / "predictor.json").read_text())
    members = [
        json.loads((results / name / "predictor" / "predictor.json").read_text())["fold_priors"]
        for name in ("prior0001", "prior0002")
    ]
    for fold in "012":
        for label in LABELS:
            mean = (members[0][fold][label] + members[1][fold][label]) / 2
            assert info["fold_priors"][fold][label] == pytest.approx(mean)


def test_tables_can_be_blended_without_experiments(monkeypatch, capsys, root):
    results = root / "output" / "results"
    paths = [str(results / name / "predictions" / "oof.parquet") for name in ("0001", "0002")]
    place = ["--data_input_folder", str(root / "input"), "--data_dataset", DATASET]
    folder = blend(monkeypatch, root, "tables", *place, members=",".join(paths))
    assert (folder / "predictions" / "test.parquet").is_file()
    flags = ["--experiment_id", "tables", "--pr_output", str(root / "x")]
    flags += ["--pr_input", str(root / "input" / "datasets" / DATASET)]
    assert run(monkeypatch, root, predict, *flags) == 2
    assert "has no networks" in capsys.readouterr().err


def test_one_fold_is_fitted_across_patients(monkeypatch, root):
    table = SliceTable.load(root / "input" / "datasets" / DATASET)
    for number in (1, 2):
        name = f"single{number}"
        write_member(root, table, name, number)
        folder = root / "output" / "results" / name / "predictions"
        frame = pd.read_parquet(folder / "oof.parquet")
        frame[frame["fold"] == 1].to_parquet(folder / "valid.parquet")
        (folder / "oof.parquet").unlink()
    folder = blend(
        monkeypatch, root, "onefold", "--ens_method", "weights", members="single1,single2"
    )
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["plan"]["groups"] == "patients"
    assert "divided into groups" in (folder / "report.html").read_text()
    frame = pd.read_parquet(folder / "predictions" / "oof.parquet")
    assert set(frame["fold"]) == {1}


def test_what_cant_be_blended_is_refused_with_the_reason(monkeypatch, capsys, root):
    table = SliceTable.load(root / "input" / "datasets" / DATASET)
    results = root / "output" / "results"
    assert "--ens_experiments is missing" in refused(monkeypatch, capsys, root)
    told = refused(monkeypatch, capsys, root, "--ens_experiments", "0001,0001")
    assert "names a member twice" in told
    told = refused(monkeypatch, capsys, root, "--ens_experiments", "0001,0099")
    assert "no experiment at" in told
    write_member(root, table, "leaking", 7)
    path = results / "leaking" / "predictions" / "oof.parquet"
    frame = pd.read_parquet(path)
    frame["fold"] = (frame["fold"] + 1) % 3
    frame.to_parquet(path)
    told = refused(monkeypatch, capsys, root, "--ens_experiments", "0001,leaking")
    assert "other folds" in told
    told = refused(monkeypatch, capsys, root, "--ens_experiments", "leaking")
    assert "trained on the same patient" in told


def write_nested(root: Path, member: str, number: int) -> None:
    """Experiments without each fold, as train.py with --data_leave_out_fold leaves them."""
    table = SliceTable.load(root / "input" / "datasets" / DATASET)
    results = root / "output" / "results"
    for fold in range(3):
        name = f"{member}-without-{fold}"
        write_member(root, table, name, 10 * number + fold)
        path = results / name / "predictions" / "oof.parquet"
        frame = pd.read_parquet(path)
        frame[frame["fold"] != fold].to_parquet(path)
        config = recorded_config(results / name).with_flags(data_leave_out_fold=fold)
        (results / name / "config.yaml").write_text(config.to_yaml())


def test_nested_stacking_fits_on_members_that_saw_neither_fold(monkeypatch, capsys, root):
    flags = ["--ens_experiments", "0001,0002", "--ens_method", "stacking", "--stack_nested", "1"]
    told = refused(monkeypatch, capsys, root, *flags)
    assert "6 trainings are missing" in told
    assert "--experiment_id 0002-without-2 --tr_features 0 --data_leave_out_fold 2" in told
    for number, member in enumerate(("0001", "0002"), start=1):
        write_nested(root, member, number)
    folder = blend(monkeypatch, root, "nested", *flags[2:])
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["plan"]["nested"] is True
    assert "saw neither" in (folder / "report.html").read_text()
    plain = blend(monkeypatch, root, "plain", "--ens_method", "stacking")
    other = json.loads((plain / "metrics.json").read_text())
    # What is kept for new data is the same; what was scored is not.
    weights = [each["weights"]["any"] for each in (metrics, other)]
    assert weights[0]["all rows"] == weights[1]["all rows"]
    assert weights[0]["fold 1"] != weights[1]["fold 1"]
    results = root / "output" / "results"
    config = recorded_config(results / "0001-without-1").with_flags(seed=1)
    (results / "0001-without-1" / "config.yaml").write_text(config.to_yaml())
    told = refused(monkeypatch, capsys, root, *flags)
    assert "trained with another --seed" in told


def test_nested_trainings_with_other_folds_or_none_at_all_are_refused(monkeypatch, capsys, root):
    """A fold table of then does not say who has been left out; a blend has no training."""
    results = root / "output" / "results"
    flags = ["--ens_method", "stacking", "--stack_nested", "1"]
    blend(monkeypatch, root, "below")
    told = refused(monkeypatch, capsys, root, "--ens_experiments", "below", *flags)
    assert "below is made of other experiments, and can't be trained without a fold" in told
    table = SliceTable.load(root / "input" / "datasets" / DATASET)
    write_member(root, table, "0008", 8)
    write_nested(root, "0008", 8)
    network = RSNAModel("test_resnet")
    make_predictor(
        network=network,
        model=network.specification,
        training={"dataset": DATASET, "fold": "all", "folds_sha256": "of before"},
    ).save(results / "0008-without-1" / "predictor")
    told = refused(monkeypatch, capsys, root, "--ens_experiments", "0008", *flags)
    assert "predictions of 0008-without-1 were made with other folds" in told


def test_an_id_that_is_taken_is_told_before_the_work(monkeypatch, capsys, root):
    flags = ["--ens_experiments", "nowhere", "--experiment_id", "0001"]
    told = refused(monkeypatch, capsys, root, *flags)
    assert "--experiment_id 0001 exists" in told and "remove it, or leave the flag out" in told


def test_tables_have_no_nested_trainings(monkeypatch, capsys, root):
    path = root / "output" / "results" / "0001" / "predictions" / "oof.parquet"
    flags = ["--data_input_folder", str(root / "input"), "--data_dataset", DATASET]
    flags += ["--ens_experiments", str(path), "--ens_method", "stacking", "--stack_nested", "1"]
    assert "experiments of all folds" in refused(monkeypatch, capsys, root, *flags)
