"""--tr_best_metric: what the refusal lists is what validations report, and each name works."""

import json
import sys

import pytest
from tiny_dataset import make_tiny_dataset

import train
from common.cli import status_of
from common.experiment import Experiment
from rsna_task import TASKS, validation_metrics


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("best")
    make_tiny_dataset(folder / "input" / "datasets" / "tiny")
    return folder


def run(root, monkeypatch, name: str, *flags: str) -> int:
    places = ["--data_input_folder", str(root / "input"), "--output_dir", str(root / "output")]
    sizes = ["--data_img_size", "32", "--tr_batch_size", "4", "--n_jobs", "0"]
    network = ["--net_model", "test_efficientnet", "--net_pretrained", "0", "--mlflow_enabled", "0"]
    asked = ["--data_dataset", "tiny", "--tr_iteration_num", "1", "--experiment_id", name, *flags]
    monkeypatch.setattr(sys, "argv", ["train.py", *places, *sizes, *network, *asked])
    return status_of(train.main)


@pytest.mark.parametrize("has_rates", [True, False])
@pytest.mark.parametrize("num_labels", [6, 1])
def test_the_list_is_what_a_validation_reports(root, monkeypatch, num_labels, has_rates):
    names = validation_metrics(TASKS[num_labels], has_rates)
    flags = ["--net_num_classes", str(num_labels), "--cb_metrics_enabled", str(int(has_rates))]
    experiment_id = f"listed_{num_labels}_{has_rates}"
    assert run(root, monkeypatch, experiment_id, *flags, "--tr_best_metric", names[-1]) == 0
    experiment = Experiment(root / "output" / "results" / experiment_id)
    records = [json.loads(line) for line in experiment.metrics_log.read_text().splitlines()]
    reported = {
        name.removeprefix("valid_")
        for record in records
        for name in record
        if name.startswith("valid_")
    }
    assert reported - {name for name in reported if name.startswith("raw_")} == set(names)


@pytest.mark.long
@pytest.mark.parametrize("name", validation_metrics(TASKS[6]))
def test_each_name_works(root, monkeypatch, name):
    assert run(root, monkeypatch, name.replace(".", "-"), "--tr_best_metric", name) == 0
