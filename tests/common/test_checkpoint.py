import errno
import hashlib
import pickle
import zipfile

import numpy as np
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


def test_any_changed_byte_is_seen(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"model": _model().state_dict(), "iteration": 3})
    content = path.read_bytes()
    before = load_checkpoint(path)
    places = np.random.default_rng(0).choice(len(content), 400, replace=False)
    for place in (0, len(content) - 1, len(content) - 64, *places.tolist()):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            state = load_checkpoint(path)
        except InputError as error:
            assert "last.pt" in str(error) and "image" not in str(error)
            assert "restore it from a copy, or train anew" in str(error)
        else:
            # The mark of the digest itself: the content is as it was.
            assert place >= len(content) - 73
            assert all(torch.equal(v, before["model"][n]) for n, v in state["model"].items())


def test_what_damage_is_and_which_checkpoint_is_the_newest_sound_one(tmp_path):
    for name, iteration in (("last", 9), ("best", 5), ("iteration_5", 5), ("iteration_8", 8)):
        state = {"model": _model().state_dict(), "iteration": iteration, "optimizer": {}}
        save_checkpoint(tmp_path / f"{name}.pt", state)
    save_weights(tmp_path / "weights.pt", _model().state_dict())  # nothing to go on from
    changed = bytearray((tmp_path / "last.pt").read_bytes())
    changed[len(changed) // 2] ^= 255
    offer = r"iteration_8\.pt, of iteration 8: copy it to last\.pt and run the same command again"
    for content, reason in (
        (changed, "damaged: its bytes are not those that were written"),
        (changed[:-500], "cut off, damaged or not a checkpoint"),
        (b"", "empty"),
    ):
        (tmp_path / "last.pt").write_bytes(content)
        with pytest.raises(InputError, match=rf"last\.pt: {reason}.*{offer}"):
            load_checkpoint(tmp_path / "last.pt")
    with pytest.raises(InputError, match=r"iteration_8\.pt, of iteration 8: give that one$"):
        load_checkpoint(tmp_path / "last.pt", "--net_weight_file")
    (tmp_path / "iteration_8.pt").write_bytes(changed)
    with pytest.raises(InputError, match=r"is .*_5\.pt|best\.pt, of iteration 5: copy it"):
        load_checkpoint(tmp_path / "last.pt")


def test_files_without_a_digest_load_with_a_line(tmp_path, caplog):
    path = tmp_path / "old.pt"
    state = _model().state_dict()
    torch.save({"model": state, "format_version": 1}, path)
    with caplog.at_level("INFO"):
        load_checkpoint(path)
    (record,) = caplog.records
    assert "old.pt has no digest" in record.message
    caplog.clear()
    save_checkpoint(path, {"model": state})
    with caplog.at_level("INFO"):
        load_checkpoint(path)
    assert not caplog.records
    state["0.weight"][0, 0] = torch.nan
    torch.save({"model": state}, path)
    with pytest.raises(InputError, match=r"old\.pt: damaged: .* not finite"):
        load_checkpoint(path)


def test_torch_reads_the_file_with_its_digest(tmp_path):
    path = tmp_path / "a.pt"
    state = _model().state_dict()
    save_checkpoint(path, {"model": state})
    plain = torch.load(path, weights_only=True)
    assert all(torch.equal(value, state[name]) for name, value in plain["model"].items())
    assert zipfile.ZipFile(path).testzip() is None
    mapped = torch.load(path, weights_only=True, mmap=True)
    assert mapped.keys() == plain.keys()


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
