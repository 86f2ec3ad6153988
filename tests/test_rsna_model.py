import pytest
import timm
import torch

from common.errors import InputError
from common.models import timm_factory
from rsna_model import ALIASES, RSNAModel, build_model

# The nets of the five systems.
SYSTEMS = {
    "rsna-seresnext-50.32.4d",
    "rsna-seresnext-101.32.4d",
    "rsna-densenet-121",
    "rsna-densenet-169",
    "rsna-resnext-101.32.8d.wsl",
    "rsna-resnext-101.32.4d",
    "rsna-efficientnet-b0",
    "rsna-efficientnet-b2",
    "rsna-efficientnet-b5",
}
SMALL = ["rsna-resnet-18", "rsna-efficientnet-b0"]


def test_every_alias_is_a_timm_model_with_weights():
    known = set(timm.list_models()) | set(timm.list_pretrained())
    assert {name for name in ALIASES.values() if name not in known} == set()
    assert ALIASES.keys() >= SYSTEMS
    # The names of those with weights; a tag says which, and the default needs none.
    with_weights = {name.split(".")[0] for name in timm.list_pretrained()}
    assert {name for name in ALIASES.values() if name.split(".")[0] not in with_weights} == set()


def check_alias(name: str, pooling: str = "own") -> None:
    """Make logits of 3 and of 9 channels, without weights, and have a stem that can be adapted."""
    for in_chans in (3, 9):
        model = RSNAModel(name, in_chans=in_chans, image_size=(96, 96), pooling=pooling).eval()
        with torch.no_grad():
            assert model(torch.rand(2, in_chans, 96, 96)).shape == (2, 6)
        # timm leaves out a first layer that it can't adapt, without an error.
        stem = model.backbone.get_parameter(f"{model.backbone.pretrained_cfg['first_conv']}.weight")
        assert stem.ndim == 4 and stem.shape[1] == in_chans


@pytest.mark.parametrize("name", SMALL)
def test_small_aliases_take_three_and_nine_channels(name):
    check_alias(name)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(ALIASES.keys() - set(SMALL)))
def test_all_aliases_take_three_and_nine_channels(name):
    check_alias(name, "gem")


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
        timm_factory.packaged_file("tf_efficientnet_lite0"), map_location="cpu", weights_only=True
    )
    state = model.state_dict()
    assert torch.equal(state["conv_stem.weight"], next(iter(source.values())))
    # Running variances of trained batch norms are far from their initial 1.
    assert (state["bn2.running_var"] - 1).abs().mean() > 0.1


def test_stem_of_more_channels_answers_equal_slices_as_that_of_three():
    """Slice-major repeats of the filter, a third as strong; a grey slice is three equal colours."""
    narrow, wide, grey = (
        RSNAModel("tf_efficientnet_lite0", in_chans=count, pretrained=True, image_size=(96, 96))
        for count in (3, 9, 1)
    )
    for model in (narrow, wide, grey):
        model.eval()
    filters = narrow.backbone.conv_stem.weight
    torch.testing.assert_close(wide.backbone.conv_stem.weight, filters.repeat(1, 3, 1, 1) / 3)
    image = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        features = narrow.forward_features(image)
        same = wide.forward_features(image.repeat(1, 3, 1, 1))
        assert (same - features).abs().max() < 1e-4 * features.abs().max()
        one = image[:, :1]
        colours = narrow.forward_features(one.repeat(1, 3, 1, 1))
        assert (grey.forward_features(one) - colours).abs().max() < 1e-4 * colours.abs().max()


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
