"""Layers between pooled features and the last layer, by the name of the head."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

# Width of the hidden layer of fastai's head.
MLP_DIM = 512


class BatchNorm(nn.BatchNorm1d):
    """Batch norm that takes a batch of one sample while training, as the last one can be.

    Such a batch has no variance: it is normalised with the running statistics, and leaves them.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and len(input) == 1:
            mean, variance = self.running_mean, self.running_var
            return functional.batch_norm(input, mean, variance, self.weight, self.bias)
        return super().forward(input)


def _linear(dim: int, drop_rate: float) -> tuple[nn.Module, int]:
    return nn.Identity(), dim


def _mlp(dim: int, drop_rate: float) -> tuple[nn.Module, int]:
    layers = nn.Sequential(
        BatchNorm(dim),
        nn.Dropout(drop_rate / 2),
        nn.Linear(dim, MLP_DIM),
        nn.ReLU(inplace=True),
        BatchNorm(MLP_DIM),
    )
    return layers, MLP_DIM


def _narrow(dim: int, drop_rate: float) -> tuple[nn.Module, int]:
    layers = nn.Sequential(
        nn.Linear(dim, 128), nn.ReLU(inplace=True), nn.Linear(128, 32), nn.ReLU(inplace=True)
    )
    return layers, 32


# (width of the features, dropout) to the layers before the last dropout and the last layer, and the
# width of what they give. linear: most systems; mlp: `create_head` of fastai 1, which the fastai
# notebooks of 2019 use; narrow: the ResNet of hkristof03/RSNAHemorrhage.
HEADS: dict[str, Callable[[int, float], tuple[nn.Module, int]]] = {
    "linear": _linear,
    "mlp": _mlp,
    "narrow": _narrow,
}
