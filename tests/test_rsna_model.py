import pytest
import timm
import torch

from common.errors import InputError
from common.models import timm_factory
from rsna_model import ALIASES, RSNAModel, build_model


def test_every_alias_is_a_timm_model():
    known = set(timm.list_models()) | set(timm.list_pretrained())
    assert {name for name in ALIASES.values() if name not in known} == set()


def test_logits_and_features_have_their_shapes():
    model = RSNAModel("test_efficientnet", in_chans=9).eval()
    images = torch.zeros(2, 9, 32, 32)
    features = model.forward_features(images)
    assert features.shape == (2, model.classifier.in_features)
    assert torch.equal(model(images), model.forward_head(features))
    assert model(images).shape == (2, 6)


def test_specification_makes_the_same_architecture():
    model = RSNAModel("test_vit", in_chans=3)
    again = build_model(model.specification)
    again.load_state_dict(model.state_dict())


def test_training_starts_at_the_prior():
    model = RSNAModel("test_efficientnet").eval()
    prevalence = [0.01, 0.05, 0.04, 0.05, 0.06, 0.14]
    model.start_from_prevalence(prevalence)
    model.classifier.weight.data.zero_()
    torch.testing.assert_close(
        torch.sigmoid(model(torch.randn(1, 3, 32, 32)))[0], torch.tensor(prevalence)
    )
    model.start_from_prevalence([0, 1, 0, 1, 0, 1])
    assert torch.isfinite(model.classifier.bias).all()


def test_packaged_imagenet_weights_are_loaded_in_order():
    model = timm_factory.create_backbone("tf_efficientnet_lite0", 3, pretrained=True)
    source = torch.load(
        timm_factory._packaged_file("tf_efficientnet_lite0"), map_location="cpu", weights_only=True
    )
    state = model.state_dict()
    assert torch.equal(state["conv_stem.weight"], next(iter(source.values())))
    # Running variances of trained batch norms are far from their initial 1.
    assert (state["bn2.running_var"] - 1).abs().mean() > 0.1
    # A stem for more channels keeps the answer to the same slice in every triple.
    wide = timm_factory.create_backbone("tf_efficientnet_lite0", 9, pretrained=True)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            model.eval()(image), wide.eval()(image.repeat(1, 3, 1, 1)), rtol=1e-3, atol=1e-3
        )


def test_unknown_name_suggests_and_unfetchable_weights_tell_what_to_do(monkeypatch):
    with pytest.raises(InputError, match=r"--net_model seresnxt.*did you mean"):
        RSNAModel("seresnxt")

    def offline(*arguments, **options):
        raise OSError("no connection")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(InputError, match=r"resnet18.*no connection.*--net_weight_file"):
        RSNAModel("resnet18", pretrained=True)


def test_no_stochastic_depth_is_said():
    with pytest.raises(InputError, match="no stochastic depth"):
        RSNAModel("rsna-seresnext-50.32.4d", drop_path_rate=0.1)
