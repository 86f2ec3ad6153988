"""Pooling of slice logits to logits of series, against plain loops."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from series_batches import assert_padding_changes_nothing, padded_series, random_series

from common.models.bag import LSE_SHARPNESS, POOLS, BagModel, SlicePool
from rsna_model import build_model

LENGTHS = (4, 1, 3)


def make_model(pooling: str, **options) -> BagModel:
    torch.manual_seed(1)
    encoder = {"name": "test_resnet", "num_classes": 6}
    model = BagModel("bag-test_resnet", encoder=encoder, pooling=pooling, **options)
    if pooling == "attention":
        torch.nn.init.normal_(model.pool.scores.weight)
    return model


def expected(pool: SlicePool, h: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Of one series: features (slices, dim), logits (slices, labels)."""
    if pool.pooling == "max":
        return z.max(axis=0)
    if pool.pooling == "lse":
        return logsumexp(LSE_SHARPNESS * z, axis=0, b=1 / len(z)) / LSE_SHARPNESS
    content, gate = (
        h @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        for layer in (pool.content, pool.gate)
    )
    scores = (np.tanh(content) / (1 + np.exp(-gate))) @ pool.scores.weight.detach().numpy().T
    return (softmax(scores, axis=0) * z).sum(axis=0)


@pytest.mark.parametrize("pooling", POOLS)
def test_pool_is_that_of_each_series_alone(pooling):
    torch.manual_seed(0)
    pool = SlicePool(pooling, 5, 2)
    if pooling == "attention":
        torch.nn.init.normal_(pool.scores.weight)
    rng = np.random.default_rng(0)
    h, z = (rng.normal(size=(3, 4, n)).astype(np.float32) * 3 for n in (5, 2))
    mask = np.arange(4) < np.array(LENGTHS)[:, None]
    found = pool(torch.from_numpy(h), torch.from_numpy(z), torch.from_numpy(mask))
    wanted = [expected(pool, h[i, :n], z[i, :n]) for i, n in enumerate(LENGTHS)]
    np.testing.assert_allclose(found.detach(), wanted, rtol=1e-5, atol=1e-5)


def test_lse_lies_between_the_mean_and_the_largest():
    z = torch.randn(2, 6, 3)
    mask = torch.ones(2, 6, dtype=torch.bool)
    found = SlicePool("lse", 4, 3)(torch.zeros(2, 6, 4), z, mask)
    assert bool((found <= z.amax(1)).all()) and bool((found >= z.mean(1)).all())


def test_untrained_attention_is_the_mean():
    z = torch.randn(2, 6, 3)
    mask = torch.ones(2, 6, dtype=torch.bool)
    pool = SlicePool("attention", 4, 3)
    torch.testing.assert_close(pool(torch.randn(2, 6, 4), z, mask), z.mean(1))


@pytest.mark.parametrize("pooling", POOLS)
def test_padding_changes_nothing(pooling):
    model = make_model(pooling)
    assert_padding_changes_nothing(model)
    series = random_series([5, 1, 3])
    with torch.no_grad():
        together = model(padded_series(series))["series_logits"]
        alone = torch.cat([model(single)["series_logits"] for single in series])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", POOLS)
def test_a_label_of_a_series_reaches_its_slices(pooling):
    """Gradients are those of the slices alone, padded ones have none."""
    z = torch.randn(2, 4, 1, requires_grad=True)
    mask = torch.arange(4) < torch.tensor([[4], [2]])
    SlicePool(pooling, 3, 1)(torch.zeros(2, 4, 3), z, mask).sum().backward()
    assert z.grad is not None and z.grad[~mask].abs().sum() == 0
    torch.testing.assert_close(z.grad.sum(dim=1), torch.ones(2, 1))


def test_specification_makes_the_same_architecture():
    model = make_model("attention", chunk=2)
    again = build_model(model.specification)
    again.load_state_dict(model.state_dict())
    batch = padded_series(random_series([5, 2]))
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(batch), model.eval()(batch))
