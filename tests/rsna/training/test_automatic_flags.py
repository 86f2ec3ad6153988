"""What auto stood for is recorded, resumed, and on a CPU changes no bit."""

import logging
from pathlib import Path

import pytest
import torch
from tiny_dataset import make_tiny_dataset
from train_script import FLAGS, assert_equal_results, lines

from common.errors import Interrupted
from common.machine import Gpu, Machine
from config import parse_config, recorded_config
from rsna.build import fit_settings
from rsna.evaluation.prediction import predict_options
from rsna.training.training import RSNATraining
from train import GROUPS

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
A100 = Machine(num_affine=8, memory_gb=64, gpu=Gpu("A100", (8, 0), 40))
BY_HAND = ("--n_jobs", "2", "--tr_use_amp", "0", "--tr_channels_last", "1", "--tr_compile", "0")
BY_HAND += ("--data_transform_device", "cpu", "--tr_tf32", "1", "--tr_pin_memory", "0")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("automatic")
    make_tiny_dataset(folder / "input" / "datasets" / "tiny", size=48)
    return folder


def parsed(place: Path, *flags: str):
    places = ["--data_input_folder", str(place / "input"), "--output_dir", str(place / "output")]
    return parse_config("Test.", GROUPS, [*places, *flags])


@needs_no_gpu
def test_on_a_cpu_the_defaults_of_before_are_recorded_and_give_the_same_bits(place, caplog):
    flags = (*FLAGS, "--tr_iteration_num", "6", "--tr_iteration_valid", "4")
    with caplog.at_level(logging.INFO):
        default = RSNATraining(parsed(place, *flags, "--experiment_id", "default")).run()
    chosen = [line for line in caplog.messages if line.startswith("auto, with")]
    assert len(chosen) == 1
    assert chosen[0] in (default.folder / "train.log").read_text()
    assert "tr_use_amp 0" in chosen[0] and "(on the CPU)" in chosen[0]
    caplog.clear()
    by_hand = RSNATraining(parsed(place, *flags, *BY_HAND, "--experiment_id", "hand")).run()
    assert not any(line.startswith("auto, with") for line in caplog.messages)
    assert_equal_results(default.folder, by_hand.folder, place)
    used = [recorded_config(run.folder).flags() for run in (default, by_hand)]
    assert {name for name in used[0] if used[0][name] != used[1][name]} == {
        "experiment_id",
        "tr_tf32",
    }
    assert sum(value == "auto" for value in used[0].values()) == 1  # --device


@needs_no_gpu
def test_a_resumed_training_keeps_what_another_machine_chose(place, monkeypatch, caplog):
    flags = ("--experiment_id", "moved", "--data_transform_device", "cpu", "--tr_max_hours", "1e-9")
    with monkeypatch.context() as there:
        there.setattr(Machine, "here", lambda device: A100)
        training = RSNATraining(parsed(place, *FLAGS, "--n_jobs", "0", *flags))
        assert training.parts.settings.amp_dtype == "bf16"
        with pytest.raises(Interrupted):
            training.run()
    folder = place / "output" / "results" / "moved"
    there = recorded_config(folder).flags()
    assert (there["tr_use_amp"], there["tr_tf32"], there["tr_pin_memory"]) == (1, 1, 1)
    again = ("--experiment_id", "moved", "--tr_resume", "1", "--tr_max_hours", "0")
    caplog.clear()
    training = RSNATraining(parsed(place, *again, "--tr_use_amp", "auto"))
    assert training.parts.settings.amp_dtype == "bf16"
    assert training.config.chosen == ""
    training.run()
    assert lines(place, "moved")[-1]["iteration"] == 12
    assert recorded_config(folder).flags() == there
    assert "amp_dtype was" not in caplog.text


def test_a_record_of_before_goes_on_as_it_was(place):
    config = parsed(place, *FLAGS, "--experiment_id", "old", *BY_HAND)
    folder = config.experiment_folder("old")
    folder.mkdir(parents=True)
    kept = [line for line in config.to_yaml().splitlines() if "tr_pin_memory" not in line]
    (folder / "config.yaml").write_text("\n".join(kept))
    recorded = recorded_config(folder)
    assert recorded.flags() == config.flags() | {"tr_pin_memory": "auto"}
    assert recorded.resolved("training").flags() == config.flags()


def test_a_prediction_takes_its_batch_from_the_memory_of_its_gpu(place, monkeypatch):
    config = parsed(place, "--device", "cpu")
    assert predict_options(config).batch_size == 64
    with pytest.raises(AssertionError, match="resolved first"):
        fit_settings(config)
    monkeypatch.setattr(Machine, "here", lambda device: A100)
    options = predict_options(config)
    assert (options.batch_size, options.num_workers) == (128, 7)
    assert predict_options(parsed(place, "--tr_batch_size_valid", "9")).batch_size == 9
