"""Poolings, heads, dropouts and sizes of the networks made of timm's."""

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import InputError
from common.models import TimmClassifier
from common.models.heads import HEADS
from common.models.pooling import POOLINGS, GeneralizedMean
from common.networks import FitSettings, ImageClassifierNetwork
from common.networks.losses import weighted_bce_sum
from common.optim.groups import parameter_groups

IMAGES = torch.rand(3, 9, 64, 64, generator=torch.Generator().manual_seed(0))
MAPS = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(1))


def net(name: str = "test_resnet", **options: Any) -> TimmClassifier:
    torch.manual_seed(0)
    return TimmClassifier(name, 6, **{"in_chans": 9, **options}).eval()


def test_poolings_are_those_of_their_names() -> None:
    maps = MAPS.double().numpy()
    average, maximum = maps.mean((2, 3)), maps.max((2, 3))
    expected = {
        "avg": average,
        "max": maximum,
        "concat": np.concatenate([average, maximum], 1),
        "gem": (np.maximum(maps, 1e-6) ** 3).mean((2, 3)) ** (1 / 3),
    }
    assert expected.keys() == POOLINGS.keys()
    for name, features in expected.items():
        np.testing.assert_allclose(POOLINGS[name]()(MAPS).detach(), features, rtol=1e-5)


def test_generalized_mean_goes_from_average_to_maximum_and_learns() -> None:
    maps = MAPS.abs()
    torch.testing.assert_close(GeneralizedMean(1.0)(maps), maps.mean((2, 3)))
    torch.testing.assert_close(GeneralizedMean(60.0)(maps), maps.amax((2, 3)), rtol=0.06, atol=0)
    gem = GeneralizedMean()
    gem(MAPS).sum().backward()  # negative values among them
    assert gem.exponent.grad is not None and torch.isfinite(gem.exponent.grad).all()
    half = gem(maps.half() * 100)  # the cube of 100 is beyond float16
    assert half.dtype == torch.float16 and torch.isfinite(half).all()


# Channels first, and channels last with features widened behind the pooling (mambaout).
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_mambaout"])
def test_average_pooling_is_the_backbones_own(name: str) -> None:
    size = {"image_size": (64, 64)}
    own, average = net(name, **size), net(name, pooling="avg", **size)
    # timm writes some layers as convolutions where a map goes through them.
    weights = {
        key: value.reshape(average.state_dict()[key].shape)
        for key, value in own.state_dict().items()
    }
    average.load_state_dict(weights)
    with torch.no_grad():
        expected, features = own.forward_features(IMAGES), average.forward_features(IMAGES)
    assert features.shape == (3, own.feature_dim)
    if name == "test_resnet":  # the others have a norm behind the pooling
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", sorted(POOLINGS))
@pytest.mark.parametrize("head", sorted(HEADS))
def test_specification_rebuilds_every_pooling_and_head(pooling: str, head: str) -> None:
    model = net(pooling=pooling, head=head, drop_rate=0.3)
    with torch.no_grad():
        features, logits = model.forward_features(IMAGES), model(IMAGES)
    assert features.shape == (3, model.feature_dim) and logits.shape == (3, 6)
    again = TimmClassifier(**json.loads(json.dumps(model.specification))).eval()
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(again(IMAGES), logits)
        assert torch.equal(again.forward_head(features), logits)


def test_concatenation_doubles_the_features() -> None:
    assert net(pooling="concat").feature_dim == 2 * net().feature_dim


def test_specifications_of_before_poolings_and_heads_still_build() -> None:
    """Their predictors name nothing else, and their weights have these names."""
    model = TimmClassifier(name="test_efficientnet", num_classes=6, in_chans=3)
    assert {"classifier.weight", "classifier.bias"} <= model.state_dict().keys()
    assert all(key.startswith("backbone.") for key in model.state_dict() if "classifier" not in key)


def test_what_has_no_feature_map_is_refused() -> None:
    with pytest.raises(InputError, match=r"--net_pooling gem: test_vit has no feature map.*own"):
        net("test_vit", pooling="gem")
    with pytest.raises(InputError, match="--net_pooling"):
        net("gmixer_12_224", pooling="max")


def test_nets_of_one_size_are_made_for_the_images() -> None:
    model = net("test_maxvit", image_size=(64, 96))
    assert model(IMAGES.repeat(1, 1, 1, 2)[..., :96]).shape == (3, 6)
    assert model.specification["image_size"] == [64, 96]
    assert net("test_resnet", image_size=(64, 64)).specification["image_size"] is None
    model.require_image_size((64, 96), "data_valid_transform")
    net().require_image_size((7, 7), "data_valid_transform")
    with pytest.raises(InputError, match=r"--data_valid_transform.*one size only.*--data_img_size"):
        model.require_image_size((64, 64), "data_valid_transform")
    with pytest.raises(InputError, match=r"does not take images of 70 x 70.*--data_img_size"):
        net("test_maxvit", image_size=(70, 70))


def test_multi_sample_dropout_averages_losses_of_independent_draws() -> None:
    """Inoue 2019, figure 1: one pass of the backbone, a loss for each draw, their mean."""
    model = net(drop_rate=0.5, num_dropouts=4)
    single = net(drop_rate=0.5)
    single.load_state_dict(model.state_dict())
    assert torch.equal(model(IMAGES), single(IMAGES))  # nothing is drawn in evaluation
    nn.init.normal_(model.classifier.weight, generator=torch.Generator().manual_seed(3))
    settings = FitSettings(iteration_num=1)
    network = ImageClassifierNetwork(model, settings, [1.0] * 6)
    labels = torch.randint(0, 2, (3, 6), generator=torch.Generator().manual_seed(2)).float()
    labels[0, 1] = float("nan")
    batch = {"image": IMAGES, "labels": labels, "index": torch.arange(3)}
    model.train()
    for module in model.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    torch.manual_seed(5)
    output = network.training_step(batch)
    torch.manual_seed(5)
    draws = model(IMAGES)
    assert draws.shape == (3, 4, 6) and not torch.equal(draws[:, 0], draws[:, 1])
    losses = [weighted_bce_sum(draws[:, k], labels, torch.ones(6)) for k in range(4)]
    torch.testing.assert_close(output.loss_sum, torch.stack([loss for loss, _ in losses]).mean())
    torch.testing.assert_close(output.num_terms, losses[0][1])
    torch.testing.assert_close(output.outputs["logits"], draws.mean(1))


def test_mlp_takes_a_last_batch_of_one() -> None:
    model = net(head="mlp", num_dropouts=2, drop_rate=0.1).train()
    before = {key: value.clone() for key, value in model.neck.state_dict().items()}
    assert model.forward_head(torch.rand(1, model.feature_dim)).shape == (1, 2, 6)
    after = model.neck.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    model.forward_head(torch.rand(2, model.feature_dim))
    assert not torch.equal(model.neck.state_dict()["0.running_mean"], before["0.running_mean"])


@pytest.mark.parametrize("name", ["test_resnet", "test_maxvit"])
def test_layer_decay_puts_pooling_and_head_on_top(name: str) -> None:
    model = net(name, pooling="gem", head="mlp", image_size=(64, 64))
    depths = model.parameter_depths()
    head = depths["classifier.weight"]
    assert head == max(depths.values()) > min(depths.values()) == 0
    on_top = {key for key in depths if not key.startswith("backbone.")}
    assert {"pooling.exponent", "neck.2.weight"} <= on_top
    assert all(depths[key] == head for key in on_top)
    assert depths.keys() == {key for key, _ in model.named_parameters()}
    groups = parameter_groups(model, 0.05, 1e-3, layer_decay=0.5)
    exponent = model.pooling.exponent
    own = next(group for group in groups if any(p is exponent for p in group["params"]))
    assert own["lr"] == 1e-3 and own["weight_decay"] == 0


@pytest.mark.parametrize(
    ("name", "size", "takes_one"),
    [
        ("test_efficientnet", 32, False),
        ("test_efficientnet", 64, True),
        ("skresnet18", 64, False),
        ("skresnet18", 128, False),  # the attention pools to one pixel whatever the size
        ("test_vit", 160, True),
    ],
)
def test_a_batch_of_one_is_told_by_whether_batch_norm_takes_it(name, size, takes_one):
    model = TimmClassifier(name, 6, image_size=(size, size)).eval()
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert model.trains_on_one((size, size)) == takes_one
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(random_state, torch.get_rng_state()) and not model.training
    try:
        model.train()(torch.zeros(1, 3, size, size))
    except ValueError:
        assert not takes_one
    else:
        assert takes_one
