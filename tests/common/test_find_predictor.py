"""A predictor folder where weights or an experiment are named."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from common.checkpoint import load_weights, save_weights
from common.errors import InputError
from common.experiment import Experiment, PredictorHome, find_predictor, weights_file
from common.slices.leakage import origins_of_predictor, origins_of_weights


def leave(folder: Path, network: nn.Module | None = None, **training: object) -> Path:
    folder.mkdir(parents=True)
    content = {"format_version": 1, "training": training, "model": {"name": "tiny", "in_chans": 3}}
    (folder / "predictor.json").write_text(json.dumps(content))
    if network is not None:
        save_weights(folder / "model.pt", network.state_dict())
    return folder


def test_a_training_starts_from_the_network_of_a_folder(tmp_path):
    network, other = nn.Linear(3, 2), nn.Linear(3, 2)
    folder = leave(tmp_path / "net", network, dataset="far", fold=2, started_from=[{"fold": 1}])
    load_weights(other, folder)
    assert torch.equal(other.weight, network.weight)
    assert origins_of_weights(folder) == origins_of_weights(folder / "model.pt")
    assert [origin["fold"] for origin in origins_of_weights(folder)] == [2, 1]
    with pytest.raises(InputError, match=r"model.pt \(tiny, in_chans 3\): does not match"):
        load_weights(nn.Linear(4, 2), folder)


def test_of_several_networks_one_is_named(tmp_path):
    folds = leave(tmp_path / "folds", dataset="own", fold="all")
    for fold in range(2):
        leave(folds / f"fold_{fold}", nn.Linear(3, 2), dataset="own", fold=fold)
    with pytest.raises(InputError, match=r"several networks: give the folder .*fold_0"):
        weights_file(folds)
    assert weights_file(folds / "fold_1") == folds / "fold_1" / "model.pt"
    assert [origin["fold"] for origin in origins_of_predictor(folds)] == ["all", 0, 1]
    with pytest.raises(InputError, match=r"--net_weight_file .*no predictor.json"):
        weights_file(tmp_path)


def test_a_folder_of_an_experiment_is_the_experiment(tmp_path):
    folder = tmp_path / "results" / "0001"
    leave(folder / "predictor")
    # Copied without its flags it stands alone.
    assert type(find_predictor(folder)) is PredictorHome
    (folder / "config.yaml").write_text("{}")
    for place in (folder, folder / "predictor"):
        home = find_predictor(place)
        assert isinstance(home, Experiment) and home.title == "Experiment 0001"
    beside = find_predictor(leave(folder / "predictor_mine"))
    assert type(beside) is PredictorHome and beside.title == "Predictor predictor_mine"
    assert beside.evaluation("x").folder == folder / "predictor_mine" / "evaluations" / "x"
