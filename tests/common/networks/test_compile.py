"""A compiled network learns, saves and validates as it does uncompiled."""

import functools

import pytest
import torch
from toy import ToyDataset, make_toy, toy_loader, weights_of

from common.callbacks import CheckpointSaver
from common.checkpoint import load_checkpoint
from common.datasets.loading import make_loader
from common.networks import FitSettings


def trained(folder, is_compiled: bool):
    settings = FitSettings(iteration_num=6, iteration_valid=6, compile=is_compiled)
    saver = CheckpointSaver(folder, every=3)
    network = make_toy(settings, callbacks=(saver,))
    network.fit(toy_loader(ToyDataset(22), 4), make_loader(ToyDataset(7), 3, 0))
    return network, load_checkpoint(saver.last_path)


@pytest.mark.long
def test_weights_agree_and_checkpoints_fit_either_way(tmp_path, monkeypatch):
    # Traced and wrapped as always, but run by torch: making C++ of it takes minutes.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    plain, saved_plain = trained(tmp_path / "plain", False)
    compiled, saved = trained(tmp_path / "compiled", True)
    assert compiled._module is not compiled.model  # it did compile
    assert (
        list(saved["model"])
        == list(saved_plain["model"])
        == ["0.weight", "0.bias", "2.weight", "2.bias"]
    )
    torch.testing.assert_close(weights_of(compiled), weights_of(plain), rtol=0, atol=1e-12)
    again = make_toy(FitSettings(iteration_num=6))
    again.load_state_dict(saved)
    assert torch.equal(weights_of(again), weights_of(compiled))
