import copy

import pytest
import torch
from series_batches import assert_padding_changes_nothing, padded_series, random_series

from common.errors import InputError
from common.models.joint import JointModel, _chunk_sizes
from rsna_model import build_model


def make_model(**options) -> JointModel:
    torch.manual_seed(1)
    model = JointModel(
        "joint-test_resnet",
        encoder={"name": "test_resnet", "num_classes": 6},
        sequence={"dim": 16, "num_layers": 1, "num_heads": 2, "num_networks": 1},
        **options,
    )
    torch.nn.init.normal_(model.sequence.head.weight)  # it starts at zero
    return model


@pytest.fixture(scope="module")
def model() -> JointModel:
    return make_model()


def test_padding_changes_nothing(model):
    assert_padding_changes_nothing(model)


def test_slices_see_each_other(model):
    single = random_series([4])[0]
    model.eval()
    with torch.no_grad():
        before = model(single)["logits"]
        single["images"][0, 3] += 1
        after = model(single)["logits"]
    assert (before - after)[0, 0].abs().max() > 1e-6


def test_untrained_network_says_what_its_encoder_says():
    model = make_model()
    torch.nn.init.zeros_(model.sequence.head.weight)
    single = random_series([4])[0]
    model.eval()
    with torch.no_grad():
        expected = model.encoder(single["images"][0])
        torch.testing.assert_close(model(single)["logits"][0], expected)


def test_chunks_change_nothing_in_evaluation(model):
    chunked = make_model(chunk=2)
    chunked.load_state_dict(model.state_dict())
    batch = padded_series(random_series([5, 3]))
    with torch.no_grad():
        torch.testing.assert_close(chunked.eval()(batch), model.eval()(batch))


def train_step(model: JointModel) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model.train()
    model(padded_series(random_series([4, 2])))["logits"].square().mean().backward()
    optimizer.step()


def test_frozen_encoder_stays_bit_by_bit_while_the_sequence_learns():
    model = make_model(frozen=True)
    before = copy.deepcopy(model.state_dict())
    for _ in range(3):
        train_step(model)
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith(("sequence.", "feature_norm.")) for name in changed)
    assert any("running_mean" in name for name in before)


def test_statistics_of_a_free_encoder_are_of_slices_alone():
    """Padded steps, of whatever content, are in no statistic."""
    states = []
    for filling in (0.0, 50.0):
        model = make_model()
        model.train()
        model(padded_series(random_series([4, 2]), filling))
        states.append(model.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_checkpointing_gives_the_same_gradients():
    single = random_series([3])[0]
    gradients = []
    for checkpointing in (False, True):
        model = make_model(checkpointing=checkpointing)
        model.train()
        model(single)["logits"].square().mean().backward()
        gradients.append(model.encoder.backbone.conv1[0].weight.grad)
    torch.testing.assert_close(*gradients)


def test_layers_are_counted_from_the_encoder_up(model):
    depths = model.parameter_depths()
    assert set(depths) == {name for name, _ in model.named_parameters()}
    assert depths["encoder.backbone.conv1.0.weight"] == 0
    assert depths["sequence.head.weight"] > depths["encoder.classifier.weight"]


def test_specification_makes_the_same_network(model):
    again = build_model(model.specification)
    again.load_state_dict(model.state_dict())
    batch = random_series([3])[0]
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(batch), model.eval()(batch))


def test_backbone_that_cannot_checkpoint_is_named(monkeypatch):
    import timm.models.resnet

    def refuse(*_):
        raise AssertionError("gradient checkpointing not supported")

    monkeypatch.setattr(timm.models.resnet.ResNet, "set_grad_checkpointing", refuse)
    with pytest.raises(InputError, match="--net_encoder_checkpoint 1: the backbone of joint-test"):
        make_model(checkpointing=True)


@pytest.mark.parametrize("lengths", [[1], [5], [3, 4], [1, 1]])
def test_no_chunk_of_one_slice_meets_maps_of_one_pixel(lengths):
    """At 32 px the last maps of the encoder are single pixels: one slice has no variance there."""
    model = JointModel(
        "joint-test_efficientnet",
        encoder={"name": "test_efficientnet", "num_classes": 6},
        sequence={"dim": 16, "num_layers": 1, "num_heads": 2, "num_networks": 1},
        chunk=2,
    ).train()
    assert not model.encoder.trains_on_one((32, 32))
    before = copy.deepcopy(model.encoder.state_dict())
    outputs = model(padded_series(random_series(lengths)))
    outputs["logits"].sum().backward()
    changed = [n for n, v in model.encoder.state_dict().items() if not torch.equal(v, before[n])]
    assert bool(changed) == (sum(lengths) > 1)
    assert all(m.training for m in model.modules())


@pytest.mark.parametrize(
    ("num", "chunk", "sizes"),
    [(7, 0, [7]), (0, 3, [0]), (7, 3, [3, 4]), (8, 3, [3, 3, 2]), (3, 3, [3]), (1, 3, [1])],
)
def test_a_last_chunk_of_one_joins_the_one_before(num, chunk, sizes):
    assert _chunk_sizes(num, chunk) == sizes
