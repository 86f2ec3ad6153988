"""LayerCAM against the grad-cam package."""

import warnings

import numpy as np
import pytest
import torch
from pytorch_grad_cam import LayerCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from common.errors import InputError
from common.models import TimmClassifier
from common.models.layer_cam import layer_cam, require_layer

# Maps with channels first, with channels last, and of blocks with attention.
NAMES = ("test_efficientnet", "test_resnet", "test_convnext", "test_mambaout", "test_maxvit")


def make_network(name: str, **options: object) -> TimmClassifier:
    torch.manual_seed(3)
    network = TimmClassifier(name, 6, image_size=(160, 160), **options).eval()  # type: ignore[arg-type]
    nn.init.normal_(network.classifier.weight)
    return network


def images(num: int = 3, num_channels: int = 3) -> Tensor:
    return torch.randn(num, num_channels, 160, 160, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_package(name: str) -> None:
    network = make_network(name)
    layer, num_channels = require_layer(network)

    def channels_first(output: Tensor) -> Tensor:
        return output if output.shape[1] == num_channels else output.permute(0, 3, 1, 2)

    own = layer_cam(network, images(), 5)
    assert own.shape == (3, 10, 10) and own.dtype == torch.float32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with LayerCAM(network, [layer], reshape_transform=channels_first) as reference:
            expected = reference(images(), [ClassifierOutputTarget(5)] * 3)
    # The package scales each slice to 0..1 and resizes it to the image.
    scaled = scale_cam_image(scale_cam_image(own.numpy(), (160, 160)))
    assert np.abs(scaled - expected).max() < 1e-3
    assert len({round(float(largest), 4) for largest in own.amax(dim=(1, 2))}) == 3


def test_leaves_the_network_and_the_grad_mode_alone() -> None:
    network = make_network("test_resnet")
    before = network(images()).detach()
    with torch.no_grad():
        layer_cam(network, images(), 0)
        assert not torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())
    assert torch.equal(network(images()).detach(), before)


def test_slices_of_a_batch_do_not_matter_to_each_other() -> None:
    network = make_network("test_efficientnet", in_chans=9)
    together = layer_cam(network, images(4, 9), 2)
    alone = torch.cat([layer_cam(network, image[None], 2) for image in images(4, 9)])
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(together, layer_cam(network, images(4, 9), 3), rtol=1e-2)


def test_nothing_before_the_layer_is_kept_for_gradients() -> None:
    kept: list[tuple[int, ...]] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    network = make_network("test_resnet")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer_cam(network, images(7), 0)
    maps = [shape for shape in kept if len(shape) == 4 and shape[0] == 7]
    assert maps and max(shape[2] for shape in maps) == 10


def test_tokens_without_a_grid_are_refused() -> None:
    with pytest.raises(InputError, match=r"^no heat map: .*test_vit are tokens without a grid"):
        layer_cam(make_network("test_vit"), images(), 0)


def test_networks_that_say_nothing_or_are_none_of_timm_are_refused() -> None:
    network = make_network("test_resnet")
    for parameter in network.classifier.parameters():
        nn.init.zeros_(parameter)
    with pytest.raises(InputError, match=r"test_resnet.* is a frozen encoder"):
        layer_cam(network, images(), 0)
    with pytest.raises(InputError, match="Sequential has no layer of stride 16"):
        layer_cam(nn.Sequential(nn.Flatten(), nn.Linear(9, 6)), torch.zeros(1, 1, 3, 3), 0)
