"""predict.py --pr_submit, with a stand-in for the kaggle client."""

import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest
from blend_factory import make_members
from kaggle_stub import KaggleStub
from predictor_factory import make_dataset, make_predictor

import ensemble
import predict
from common.cli import status_of
from common.errors import InputError
from common.scoring.kaggle_client import KaggleClient
from config import parse_config
from rsna_model import RSNAModel
from rsna_task import LABELS

COMPETITION = "rsna-intracranial-hemorrhage-detection"


def forget_kaggle() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "kaggle"]:
        del sys.modules[name]


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KaggleStub]:
    stub = KaggleStub(tmp_path / "packages")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    forget_kaggle()
    yield stub
    forget_kaggle()


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("root")
    network = RSNAModel("test_resnet")
    predictor = make_predictor(network=network, model=network.specification)
    predictor.save(root / "output" / "results" / "0001" / "predictor")
    table = make_dataset(root / "dataset", num_patients=1)
    ids = [f"{image}_{label}" for image in table.frame["image_id"][:2] for label in LABELS]
    pd.DataFrame({"ID": ids, "Label": 0.5}).to_csv(root / "sample.csv", index=False)
    return root


def run(monkeypatch: pytest.MonkeyPatch, root: Path, output: Path, *more: str) -> int:
    flags = ["--experiment_id", "0001", "--output_dir", str(root / "output"), "--n_jobs", "0"]
    flags += ["--pr_input", str(root / "dataset"), "--pr_output", str(output)]
    flags += ["--pr_dataframe", str(root / "sample.csv"), *more]
    monkeypatch.setattr(sys, "argv", ["predict.py", *flags])
    return status_of(predict.main)


def test_the_checked_submission_is_sent_and_no_secret_shown(
    monkeypatch, capfd, caplog, stub, root, tmp_path
):
    output = tmp_path / "out"
    assert run(monkeypatch, root, output, "--pr_submit", COMPETITION) == 0
    (call,) = stub.calls
    assert call["text"] == (output / "submission.csv").read_text()
    assert (call["competition"], call["message"]) == (COMPETITION, "experiment 0001")
    told = capfd.readouterr()
    assert f"{COMPETITION}: Successfully submitted to RSNA" in told.out
    assert stub.SECRET not in told.out + told.err + caplog.text


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("403", "accept the rules on the competition's page"),
        ("404", "there is no such competition"),
        ("400", "today's are used up (HTTP status 400)"),
        ("502", "the service failed: try later (HTTP status 502)"),
        ("upload", "the upload did not end well"),
        ("exit", "the kaggle client failed (SystemExit)"),
    ],
)
def test_a_refusal_is_one_line_without_secrets(capfd, stub, tmp_path, mode, words):
    stub.behave(mode)
    path = tmp_path / "submission.csv"
    path.write_text("ID,Label\n")
    with pytest.raises(InputError) as refused:
        KaggleClient(COMPETITION).submit(path, "experiment 0001")
    told = str(refused.value)
    assert told.startswith(f"--pr_submit {COMPETITION}: ") and words in told
    assert f"{path} is complete" in told and "\n" not in told
    heard = capfd.readouterr()
    assert stub.SECRET not in told + heard.out + heard.err


def test_what_was_predicted_is_kept_where_it_is_refused(monkeypatch, capfd, stub, root, tmp_path):
    stub.behave("403")
    assert run(monkeypatch, root, tmp_path / "out", "--pr_submit", COMPETITION) == 2
    assert (tmp_path / "out" / "submission.csv").is_file()
    told = capfd.readouterr()
    assert "HTTP status 403" in told.err.strip().splitlines()[-1]
    assert stub.SECRET not in told.out + told.err


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("no credentials", "finds no credentials that work: run `kaggle auth login`"),
        ("offline", "the service can't be reached (ConnectionError)"),
    ],
)
def test_credentials_are_asked_for_before_the_work(
    monkeypatch, capfd, stub, root, tmp_path, mode, words
):
    stub.behave(mode)
    assert run(monkeypatch, root, tmp_path / "out", "--pr_submit", COMPETITION) == 2
    told = capfd.readouterr()
    assert words in told.err.strip().splitlines()[-1]
    assert stub.SECRET not in told.out + told.err
    assert not (tmp_path / "out").exists()


def test_without_the_client_the_message_names_its_requirements(monkeypatch, capfd, root, tmp_path):
    monkeypatch.setitem(sys.modules, "kaggle", None)
    output = tmp_path / "out"
    assert run(monkeypatch, root, output, "--pr_submit", COMPETITION) == 2
    assert "pip install -r requirements/kaggle.txt" in capfd.readouterr().err
    assert not output.exists()


def test_nothing_is_sent_or_imported_unless_asked(monkeypatch, stub, root, tmp_path):
    assert run(monkeypatch, root, tmp_path / "out") == 0
    assert stub.calls == []
    assert "kaggle" not in sys.modules


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--pr_submit", COMPETITION), "needs --pr_dataframe"),
        (("--pr_submit", "RSNA 2019", "--pr_dataframe", "x.csv"), "name as in its address"),
    ],
)
def test_unusable_flags_are_refused(flags, message):
    with pytest.raises(InputError, match=message):
        parse_config("Test.", ("general", "prediction"), flags)


def test_a_blend_is_sent_too(monkeypatch, capfd, stub, tmp_path):
    make_members(tmp_path)
    test = tmp_path / "output" / "results" / "0001" / "predictions" / "test.parquet"
    ids = [f"{i}_{label}" for i in pd.read_parquet(test)["image_id"] for label in LABELS]
    pd.DataFrame({"ID": ids, "Label": 0.5}).to_csv(tmp_path / "sample.csv", index=False)
    flags = ["--ens_experiments", "0001,0002", "--experiment_id", "blend", "--ens_studies", "0"]
    flags += ["--output_dir", str(tmp_path / "output"), "--pr_submit", COMPETITION]
    flags += ["--pr_dataframe", str(tmp_path / "sample.csv")]
    monkeypatch.setattr(sys, "argv", ["ensemble.py", *flags])
    for place in ("evaluation", "blend"):
        monkeypatch.setattr(f"common.report.{place}.figure", lambda drawing, name: name)
        monkeypatch.setattr(f"common.report.{place}.figures", Mock())
    assert status_of(ensemble.main) == 0
    (call,) = stub.calls
    folder = tmp_path / "output" / "results" / "blend"
    assert call["text"] == (folder / "submission.csv").read_text()
    assert call["message"] == "experiment blend"
    told = capfd.readouterr()
    assert told.out == "blend\n" and stub.SECRET not in told.err
