import errno
import hashlib
import pickle

import pytest
import torch
from small_disk import files_up_to
from torch import nn

from common import checkpoint, files
from common.checkpoint import (
    inference_weights,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
)
from common.errors import InputError


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_round_trip_and_format_version(tmp_path):
    model = _model()
    save_checkpoint(tmp_path / "a.pt", {"model": model.state_dict(), "iteration": 3})
    state = load_checkpoint(tmp_path / "a.pt")
    assert state["iteration"] == 3
    assert state["format_version"] == checkpoint.FORMAT_VERSION
    torch.save({"format_version": 99}, tmp_path / "new.pt")
    with pytest.raises(InputError, match="newer version"):
        load_checkpoint(tmp_path / "new.pt")


class _Foreign:
    def __reduce__(self):
        return print, ("this must never run",)


@pytest.mark.parametrize("content", ["pickle", "zip", "text", "empty", "truncated"])
def test_what_is_no_checkpoint_is_refused_and_never_run(tmp_path, content, capsys):
    path = tmp_path / "foreign.pt"
    if content == "pickle":
        path.write_bytes(pickle.dumps(_Foreign()))
    elif content == "zip":
        torch.save({"model": _Foreign()}, path)
    elif content == "truncated":
        torch.save(_model().state_dict(), path)
        path.write_bytes(path.read_bytes()[:-200])
    else:
        path.write_text("hello" if content == "text" else "")
    with pytest.raises(InputError, match=r"foreign\.pt"):
        load_checkpoint(path)
    assert "never run" not in capsys.readouterr().out


def test_missing_file_names_the_flag(tmp_path):
    with pytest.raises(InputError, match=r"--net_weight_file .*: no such file"):
        load_weights(_model(), tmp_path / "none.pt")


def test_weights_come_from_plain_dicts_wrappers_and_averages(tmp_path):
    source, average = _model(), _model()
    plain = source.state_dict()
    wrapped = {f"module._orig_mod.{name}": value for name, value in plain.items()}
    averages = {"WeightAverage": {"model": average.state_dict(), "num_updates": 1}}
    began = {"StochasticWeightAverage": {"model": average.state_dict(), "num_updates": 2}}
    waits = {"StochasticWeightAverage": {"model": {}, "num_updates": 0}}
    other = {"WeightAverage": {"model": _model().state_dict(), "num_updates": 9}}
    for state, expected in [
        (plain, plain),
        ({"model": plain, "averages": began | other}, average.state_dict()),
        ({"model": plain, "averages": waits | averages}, average.state_dict()),
        ({"model": plain, "averages": waits}, plain),
        (wrapped, plain),
        ({"model": plain, "averages": {}}, plain),
        ({"model_state_dict": plain}, plain),
        ({"model": plain, "averages": averages}, average.state_dict()),
    ]:
        torch.save(state, tmp_path / "w.pt")
        model = _model()
        load_weights(model, tmp_path / "w.pt")
        assert all(torch.equal(model.state_dict()[name], value) for name, value in expected.items())


def test_mismatched_keys_are_listed_and_nothing_is_loaded(tmp_path):
    state = _model().state_dict()
    state["extra"] = torch.zeros(1)
    del state["1.bias"]
    state["0.weight"] = torch.zeros(5, 3)
    torch.save(state, tmp_path / "w.pt")
    model = _model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError) as error:
        load_weights(model, tmp_path / "w.pt")
    for part in ("missing 1.bias", "unexpected extra", "0.weight has shape (5, 3)"):
        assert part in str(error.value)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"model": {}, "iteration": 1})

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, {"model": {}, "iteration": 2})
    assert load_checkpoint(path)["iteration"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_inference_weights_of_a_plain_state_dict_are_itself():
    state = _model().state_dict()
    assert inference_weights(state).keys() == state.keys()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_off_is_refused(tmp_path, share):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"model": nn.Linear(300, 300).state_dict()})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match="not a checkpoint that can be read"):
        load_checkpoint(path)


def test_weights_are_whole_or_as_they_were(tmp_path):
    path = tmp_path / "model.pt"
    digest = save_weights(path, _model().state_dict())
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    with files_up_to(2000), pytest.raises(OSError, match="too large"):
        save_weights(path, nn.Linear(100, 100).state_dict())
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]
