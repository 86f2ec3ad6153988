import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.metrics import log_loss, roc_auc_score
from torch import nn

from common.networks import FitSettings
from common.networks.losses import weighted_bce_sum, weighted_focal_sum
from config import Config
from rsna.build import build_averages, build_network, build_schedule
from rsna_model import RSNAModel
from rsna_network import RSNANetwork
from rsna_task import CHALLENGE, LABEL_WEIGHTS, LABELS, validation_metrics


def _batch(num_rows: int = 5) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    labels = torch.tensor(rng.integers(0, 2, (num_rows, 6)), dtype=torch.float32)
    labels[2, 3] = torch.nan
    image = torch.tensor(rng.normal(size=(num_rows, 6)), dtype=torch.float32)
    return {"image": image, "labels": labels, "index": torch.arange(num_rows)}


def _network(num_steps: int = 10, **options) -> RSNANetwork:
    return RSNANetwork(nn.Identity(), FitSettings(iteration_num=num_steps), **options)


def test_the_weight_of_any_falls_by_fifths_of_the_training():
    network = _network(10, any_weight_schedule=True)
    weights = []
    for iteration in range(11):
        network.state.iteration = iteration
        values = network.loss_weights().tolist()
        assert values[:5] == [1.0] * 5
        weights.append(round(values[5], 6))
    assert weights == [2.6, 2.6, 2.4, 2.4, 2.2, 2.2, 2.0, 2.0, 1.0, 1.0, 1.0]
    assert _network().loss_weights().tolist() == list(LABEL_WEIGHTS)


def test_the_loss_follows_the_schedule_and_the_metric_does_not():
    network, batch = _network(10, any_weight_schedule=True), _batch()
    seen = []
    for iteration in (0, 9):
        network.state.iteration = iteration
        step = network.validation_step(batch)
        weights = torch.tensor([1.0, 1, 1, 1, 1, 2.6 if iteration == 0 else 1.0])
        expected = weighted_bce_sum(batch["image"], batch["labels"], weights)
        torch.testing.assert_close((step.loss_sum, step.num_terms), expected)
        outputs = {name: value.numpy() for name, value in step.outputs.items()}
        seen.append((float(step.loss_sum), network.compute_metrics(outputs)["weighted_log_loss"]))
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] == seen[1][1]


def test_metrics_are_of_all_slices_and_of_each_label():
    network = _network()
    step = network.validation_step(_batch(40))
    outputs = {name: value.numpy() for name, value in step.outputs.items()}
    metrics = network.compute_metrics(outputs)
    assert {"loss", *metrics} == set(validation_metrics(CHALLENGE, has_rates=False))
    for column, name in enumerate(LABELS):
        known = ~np.isnan(outputs["labels"][:, column])
        y, p = outputs["labels"][known, column], expit(outputs["logits"][known, column])
        assert metrics[f"auc.{name}"] == pytest.approx(roc_auc_score(y, p))
        assert metrics[f"log_loss.{name}"] == pytest.approx(log_loss(y, p), rel=1e-6)


def test_focal_loss_is_trained_with_smoothed_labels_and_validated_with_true_ones():
    network, batch = _network(focal_gamma=1.5, label_smoothing=0.1), _batch()
    weights = torch.tensor(LABEL_WEIGHTS)
    for step, labels in [
        (network.training_step(batch), batch["labels"] * 0.9 + 0.05),
        (network.validation_step(batch), batch["labels"]),
    ]:
        expected = weighted_focal_sum(batch["image"], labels, weights, 1.5)
        torch.testing.assert_close((step.loss_sum, step.num_terms), expected)


FLAGS = {"data_dataset": "tiny", "net_model": "test_efficientnet"}


def test_flags_make_the_optimizer_and_its_schedule():
    config = Config().with_flags(
        optim="lars",
        optim_lookahead_enabled=1,
        optim_layer_decay=0.5,
        optim_momentum=0.8,
        optim_lr=2.0,
        optim_scheduler="multistep",
        optim_scheduler_milestones=[30, 60],
        optim_scheduler_gamma=0.5,
        tr_iteration_num=100,
        tr_loss="focal",
        tr_focal_gamma=3.0,
    )
    model = RSNAModel("test_efficientnet")
    network = build_network(config, model, FitSettings(iteration_num=100), (), ())
    assert type(network.optimizer).__name__ == "Lookahead"
    groups = network.optimizer.param_groups
    assert {group["momentum"] for group in groups} == {0.8}
    depth = 0.5 ** max(model.parameter_depths().values())
    assert (groups[0]["lr"], groups[-1]["lr"]) == (2.0 * depth, 2.0)
    assert network.focal_gamma == 3.0
    schedule = build_schedule(config)
    assert [schedule(step) for step in (0, 29, 30, 60, 99)] == [2.0, 2.0, 1.0, 0.5, 0.5]


def test_dev_mode_passes_every_stage_of_the_schedule():
    flags = {"optim_swa_enabled": 1, "optim_swa_start": 195, "dev_enabled": 1}
    config = Config().with_flags(
        **flags, optim_scheduler="multistep", optim_scheduler_milestones=[130, 221]
    )
    schedule = build_schedule(config)
    assert (schedule.num_steps, schedule.milestones, schedule.swa_start) == (20, [10, 17], 15)


@pytest.mark.parametrize(
    ("flags", "labels"),
    [
        ({"optim_ema_decay": 0.0}, []),
        ({}, ["ema"]),
        ({"optim_swa_enabled": 1}, ["swa", "ema"]),
        ({"optim_swa_enabled": 1, "optim_ema_decay": 0.0}, ["swa"]),
    ],
)
def test_flags_make_the_averages_the_leading_one_first(flags, labels):
    averages = build_averages(Config().with_flags(**flags), nn.Linear(2, 2), lambda: None)
    assert [average.label for average in averages] == labels
