"""Which class trains a network: the prefix of its name decides."""

import rsna.training.training
from config import Config
from rsna.training.training import RSNATraining, training_class


def test_networks_of_single_slices_are_the_rest():
    assert training_class(Config()) is RSNATraining
    assert training_class(Config().with_flags(net_model="rsna-resnet-18")) is RSNATraining


def test_prefix_chooses_the_class(monkeypatch):
    monkeypatch.setitem(
        rsna.training.training.TRAININGS, "toy-", "rsna.training.lr_finder:RSNALearningRateFinder"
    )
    found = training_class(Config().with_flags(net_model="toy-anything"))
    assert found.__name__ == "RSNALearningRateFinder"


def test_resumed_training_is_of_the_recorded_kind(monkeypatch, tmp_path):
    monkeypatch.setitem(
        rsna.training.training.TRAININGS, "toy-", "rsna.training.lr_finder:RSNALearningRateFinder"
    )
    folder = tmp_path / "results" / "0001"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(Config().with_flags(net_model="toy-x").to_yaml())
    asked = Config().with_flags(experiment_id="0001", tr_resume=1, output_dir=str(tmp_path))
    assert training_class(asked).__name__ == "RSNALearningRateFinder"
