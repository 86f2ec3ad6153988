"""Study networks in the fit loop: masked loss, and labels that only neighbours tell."""

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from study_inputs import LABELS, make_table, neighbour_task

from common.datasets.loading import make_loader
from common.datasets.samplers import EpochSampler
from common.datasets.sequence import SequenceDataset
from common.datasets.series import SeriesAugmentation
from common.features.slice_outputs import SliceOutputs
from common.models import build_sequence_model
from common.models.study import SEQUENCE_MODELS
from common.networks import FitSettings, SequenceClassifierNetwork
from common.optim import make_optimizer
from common.scoring.metrics import weighted_log_loss

WEIGHTS = (1.0, 2.0)


def make_network(name="study-bigru", settings=None, lr=1e-2, feature_dims=(), **options):
    torch.manual_seed(0)
    model = build_sequence_model(
        {
            "name": name,
            "num_labels": 2,
            "dim": 16,
            "hidden": 8,
            "num_layers": 1,
            "feature_dims": feature_dims,
            **options,
        }
    )
    optimizer = make_optimizer("adamw", model, lr)
    settings = settings or FitSettings(iteration_num=0)
    return SequenceClassifierNetwork(model, settings, WEIGHTS, optimizer=optimizer)


def random_dataset(folder, lengths, seed=0, **options):
    rng = np.random.default_rng(seed)
    num = sum(lengths)
    labels = rng.integers(0, 2, (num, 2)).astype(float)
    labels[rng.random((num, 2)) < 0.2] = np.nan
    table = make_table(folder, lengths, labels)
    logits = rng.normal(size=(num, 2)).astype(np.float32)
    outputs = SliceOutputs("0001", logits, np.zeros(num, np.int64))
    rows = np.flatnonzero(rng.random(num) < 0.8)
    return SequenceDataset(table, rows, [outputs], LABELS, **options)


# study-linear has nothing to learn from without features, and sees no neighbours.
NEIGHBOURLY = [name for name in SEQUENCE_MODELS if name != "study-linear"]


@pytest.mark.parametrize("name", NEIGHBOURLY)
def test_loss_is_that_of_the_slices_whatever_the_batches(name, tmp_path):
    dataset = random_dataset(tmp_path, [9, 3, 14, 1, 6])
    network = make_network(name)
    with torch.no_grad():
        for parameter in network.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    found = {size: network.validate(make_loader(dataset, size, 0)) for size in (2, 5)}
    outputs = network.predict(make_loader(dataset, 3, 0))
    assert np.array_equal(outputs["index"], np.arange(len(dataset.rows)))
    is_known = ~np.isnan(dataset.labels)
    signs = 2 * np.nan_to_num(dataset.labels) - 1
    losses = np.logaddexp(0, -outputs["logits"].astype(np.float64) * signs)
    weights = np.broadcast_to(WEIGHTS, losses.shape)
    expected = (losses * weights)[is_known].sum() / weights[is_known].sum()
    for metrics in found.values():
        assert metrics["loss"] == pytest.approx(expected, abs=1e-6)


def test_accumulated_batches_of_series_equal_one_large_batch(tmp_path):
    dataset = random_dataset(tmp_path, [9, 3, 14, 1, 6, 11, 2, 8])
    weights = []
    for size, accumulation in ((8, 1), (3, 3)):
        settings = FitSettings(iteration_num=6, accumulation_step=accumulation, clip_norm=1.0)
        network = make_network(settings=settings)
        network.model.double()
        network.fit(_InDouble(make_loader(dataset, size, 0, EpochSampler(8, 1))))
        weights.append(torch.cat([p.detach().flatten() for p in network.model.parameters()]))
    torch.testing.assert_close(*weights, atol=1e-12, rtol=0)


class _InDouble:
    """A loader whose batches are in float64."""

    def __init__(self, loader):
        self.loader, self.sampler, self.batch_size = loader, loader.sampler, loader.batch_size

    def __iter__(self):
        for batch in self.loader:
            yield {
                name: value.double() if name in ("logits", "metadata", "labels") else value
                for name, value in batch.items()
            }


def trained_loss(table, outputs, name, augmentation, feature_dims=(), num_steps=30):
    """Loss on the last third of the series, of a network trained on the others."""
    series = table.frame["store_file"].str[1:-5].astype(int).to_numpy()
    is_train = series < series.max() * 2 / 3
    train = SequenceDataset(table, np.flatnonzero(is_train), [outputs], LABELS, augmentation)
    valid = SequenceDataset(table, np.flatnonzero(~is_train), [outputs], LABELS)
    network = make_network(
        name, FitSettings(iteration_num=num_steps, clip_norm=1.0), feature_dims=feature_dims
    )
    network.fit(make_loader(train, 16, 0, EpochSampler(len(train), 1)))
    logits = network.predict(make_loader(valid, 64, 0))["logits"]
    return weighted_log_loss(valid.labels, expit(logits.astype(np.float64)), WEIGHTS), valid


def best_single_slice_loss(table, outputs, valid):
    """Of the best calibration of the slice network's logits, fitted on the rows it is scored on."""
    x = outputs.logits[valid.rows][:, :1]
    fitted = LogisticRegression(C=1e6).fit(x, valid.labels[:, 0]).predict_proba(x)[:, 1]
    return weighted_log_loss(valid.labels, np.stack([fitted, fitted], 1), WEIGHTS)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "study-bigru" else pytest.mark.long)
        for name in NEIGHBOURLY
    ],
)
def test_neighbours_are_learnt_from_and_only_in_their_order(name, tmp_path):
    gains, num_steps = {}, 60 if name == "study-transformer" else 30
    for order in (False, True):
        table, outputs = neighbour_task(tmp_path, 40, seed=3, is_shuffled=order)
        augmentation = SeriesAugmentation(reverse=0.5)
        loss, valid = trained_loss(table, outputs, name, augmentation, num_steps=num_steps)
        gains[order] = 1 - loss / best_single_slice_loss(table, outputs, valid)
    assert gains[False] > 0.5, gains
    assert gains[True] < 0.2, gains


@pytest.mark.long
def test_features_serve_beside_logits(tmp_path):
    table, outputs = neighbour_task(tmp_path, 60, seed=3)
    loss, valid = trained_loss(table, outputs, "study-bigru", SeriesAugmentation(), [6])
    assert loss < 0.5 * best_single_slice_loss(table, outputs, valid)
