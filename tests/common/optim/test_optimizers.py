"""Each optimizer against the update of its paper, its groups, and Lookahead."""

import copy

import pytest
import torch
from torch import nn

from common.errors import InputError
from common.models import AbstractModel, TimmClassifier
from common.optim import OPTIMIZERS, groups, make_optimizer, parameter_groups, state_in_groups

LR, DECAY, MOMENTUM = 0.1, 0.01, 0.9


def model_of(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 2)).double()


def gradients(model: nn.Module, step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [
        torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in model.parameters()
    ]


def run(model: nn.Module, optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        for parameter, gradient in zip(model.parameters(), gradients(model, step)):
            parameter.grad = gradient
        optimizer.step()


def formula(name: str, weight, grads, decays: bool):
    """The papers' updates of one tensor, step by step; norms and biases have `decays` False."""
    w = weight.clone()
    m = v = torch.zeros_like(w)
    decay = DECAY if decays else 0.0
    for t, g in enumerate(grads, start=1):
        if name in ("sgd", "adam"):
            g = g + decay * w
        if name in ("sgd", "lars"):
            if name == "lars" and decays:
                trust = 0.001 * w.norm() / (g.norm() + decay * w.norm())
                g = trust * (g + decay * w)
            m = MOMENTUM * m + g
            w = w - LR * m
            continue
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.999**t)
        if name == "lamb":
            update = m_hat / (v_hat.sqrt() + 1e-6) + decay * w
            w = w - LR * update * (w.norm() / update.norm() if decays else 1)
            continue
        if name in ("adamw", "radam"):
            w = w * (1 - LR * decay)
        if name == "radam":
            rho_inf = 2 / (1 - 0.999) - 1
            rho = rho_inf - 2 * t * 0.999**t / (1 - 0.999**t)
            if rho <= 5:
                w = w - LR * m_hat
                continue
            r = ((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)) ** 0.5
            w = w - LR * r * m_hat / (v_hat.sqrt() + 1e-8)
            continue
        w = w - LR * m_hat / (v_hat.sqrt() + 1e-8)
    return w


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_are_those_of_the_papers(name):
    model = model_of()
    start = copy.deepcopy(model)
    run(model, make_optimizer(name, model, LR, DECAY, MOMENTUM), 0, 9)
    steps = [gradients(model, step) for step in range(9)]
    for index, (weight, trained) in enumerate(zip(start.parameters(), model.parameters())):
        expected = formula(name, weight.detach(), [g[index] for g in steps], weight.ndim > 1)
        torch.testing.assert_close(trained.detach(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["lamb", "lars"])
def test_trust_ratio_does_not_hang_on_weight_decay(name):
    model = model_of()
    before = [p.detach().clone() for p in model.parameters()]
    run(model, make_optimizer(name, model, LR, 0.0, 0.0), 0, 1)
    share = {"lamb": LR, "lars": LR * 0.001}[name]
    for old, new in zip(before, model.parameters()):
        new = new.detach()
        if old.ndim > 1:
            assert float((new - old).norm() / old.norm()) == pytest.approx(share, rel=1e-3)


@pytest.mark.parametrize("lookahead", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_loaded_state_goes_on_bit_for_bit(name, lookahead, tmp_path):
    options = {"lookahead": lookahead, "nesterov": True}
    whole = model_of()
    run(whole, make_optimizer(name, whole, LR, DECAY, MOMENTUM, **options), 0, 18)
    for stop in (3, 5, 9):
        model = model_of()
        optimizer = make_optimizer(name, model, LR, DECAY, MOMENTUM, **options)
        run(model, optimizer, 0, stop)
        torch.save([model.state_dict(), optimizer.state_dict()], tmp_path / "state.pt")
        weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
        resumed = model_of(seed=1)
        resumed.load_state_dict(weights)
        optimizer = make_optimizer(name, resumed, LR, DECAY, MOMENTUM, **options)
        optimizer.load_state_dict(state)
        run(resumed, optimizer, stop, 18)
        for one, other in zip(whole.parameters(), resumed.parameters()):
            assert torch.equal(one, other)


@pytest.mark.parametrize("lookahead", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_that_is_not_finite_is_skipped_whole_with_scaled_losses(name, lookahead):
    """As with fp16; the fused kernels are those of the CPU here."""
    model = model_of().float()
    optimizer = make_optimizer(name, model, LR, DECAY, MOMENTUM, lookahead=lookahead, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    for step in range(12):
        before = [p.detach().clone() for p in model.parameters()]
        for parameter, gradient in zip(model.parameters(), gradients(model, step)):
            parameter.grad = gradient.float() * (float("inf") if step == 4 else scaler.get_scale())
        scaler.scale(torch.zeros(1))
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        kept = all(torch.equal(old, new) for old, new in zip(before, model.parameters()))
        assert kept == (step == 4)


def test_lookahead_goes_half_way_back_every_five_steps():
    model, plain = model_of(), model_of()
    optimizer = make_optimizer("sgd", model, LR, lookahead=True)
    reference = make_optimizer("sgd", plain, LR)
    run(model, optimizer, 0, 5)
    run(plain, reference, 0, 5)
    slow = [p.detach().clone() for p in plain.parameters()]  # they begin where five steps led
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters()))
    run(model, optimizer, 5, 10)
    run(plain, reference, 5, 10)
    for ours, fast, before in zip(model.parameters(), plain.parameters(), slow):
        torch.testing.assert_close(ours.detach(), (before + fast.detach()) / 2)


def test_groups_without_layer_decay():
    groups = parameter_groups(model_of(), DECAY, LR)
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [
        (DECAY, 2),
        (0.0, 4),
    ]


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_vit", "test_convnext"])
def test_layers_learn_the_slower_the_deeper_they_lie(name):
    model = TimmClassifier(name, 6)
    groups = parameter_groups(model, DECAY, LR, layer_decay=0.5)
    names = {id(p): parameter for parameter, p in model.named_parameters()}
    scale_of = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    decay_of = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    assert scale_of.keys() == dict(model.named_parameters()).keys()
    assert scale_of["classifier.weight"] == scale_of["classifier.bias"] == 1
    stem = next(iter(dict(model.named_parameters())))
    depth = len(set(scale_of.values()))
    assert depth > 3
    assert scale_of[stem] == min(scale_of.values()) == 0.5 ** (depth - 1)
    spared = {"backbone.cls_token", "backbone.pos_embed"} if name == "test_vit" else set()
    assert spared <= decay_of.keys()
    for parameter, weights in model.named_parameters():
        decays = weights.ndim > 1 and parameter not in spared
        assert decay_of[parameter] == (DECAY if decays else 0)
    assert all(group["lr"] == LR * group["lr_scale"] for group in groups)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "levit_128s"]
)
def test_what_timm_lists_has_no_weight_decay(name):
    """timm's own groups are the reference; biases of more than one axis are ours to spare."""
    from timm.optim import param_groups_weight_decay

    model = TimmClassifier(name, 6, image_size=(224, 224))
    names = {id(p): parameter for parameter, p in model.named_parameters()}
    made = parameter_groups(model, DECAY, LR)
    ours = {names[id(p)] for g in made if not g["weight_decay"] for p in g["params"]}
    backbone = model.backbone
    listed = backbone.no_weight_decay()
    spared, _ = param_groups_weight_decay(backbone, DECAY, no_weight_decay_list=listed)
    theirs = {names[id(p)] for p in spared["params"]}
    assert {n for n in ours if n.startswith("backbone.")} == theirs
    assert any(dict(model.named_parameters())[n].ndim > 1 for n in ours)


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_a_state_from_before_weights_were_spared_goes_on(name, layer_decay, monkeypatch):
    """Without decay the groups make no difference, so that the old and the new training agree."""

    def made(seed):
        torch.manual_seed(seed)
        model = TimmClassifier("test_vit", 6).double()
        return model, make_optimizer(name, model, LR, 0.0, layer_decay=layer_decay)

    whole, optimizer = made(0)
    run(whole, optimizer, 0, 6)
    with monkeypatch.context() as patch:
        patch.setattr(groups, "_spared_names", lambda model: set())
        old, old_optimizer = made(0)
    run(old, old_optimizer, 0, 3)
    model, resumed = made(1)
    assert len(old_optimizer.param_groups) < len(resumed.param_groups)
    model.load_state_dict(old.state_dict())
    resumed.load_state_dict(state_in_groups(old_optimizer.state_dict(), resumed, model))
    run(model, resumed, 3, 6)
    for one, other in zip(whole.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    own = resumed.state_dict()
    assert state_in_groups(own, resumed, model) is own


def test_a_model_that_does_not_name_its_layers_is_refused():
    class Flat(AbstractModel):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward_features(self, images):
            return images

        def forward_head(self, features):
            return self.linear(features)

    with pytest.raises(InputError, match="--optim_layer_decay: Flat"):
        parameter_groups(Flat(), DECAY, LR, layer_decay=0.5)


def test_a_timm_network_that_does_not_number_its_layers_is_refused_by_name(monkeypatch):
    model = TimmClassifier("test_resnet", 6)
    monkeypatch.delattr(type(model.backbone), "group_matcher")
    with pytest.raises(InputError, match="--optim_layer_decay: test_resnet does not say"):
        parameter_groups(model, DECAY, LR, layer_decay=0.5)
