"""--data_transform_device: who makes the training images, and that nothing else changes."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_dataset import make_tiny_dataset
from torch import nn
from toy import weights_of
from train_script import FLAGS

import rsna.training.parts
from common.callbacks import CheckpointSaver
from common.checkpoint import load_checkpoint
from common.datasets.loading import make_loader
from common.datasets.samplers import EpochSampler
from common.errors import InputError
from common.networks import FitSettings
from common.slices.table import SliceTable
from config import parse_config
from rsna.training.training import RSNATraining
from rsna_dataset import RSNADataset, find_transform
from rsna_network import RSNANetwork

GROUPS = ("general", "data", "network", "optimizer", "training", "monitor", "callbacks")
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device")
    make_tiny_dataset(folder / "input" / "datasets" / "tiny", size=48)
    return folder


def training(place: Path, *flags: str) -> RSNATraining:
    places = ["--data_input_folder", str(place / "input"), "--output_dir", str(place / "output")]
    argv = [*FLAGS, *places, "--n_jobs", "0", "--mlflow_enabled", "0", *flags]
    return RSNATraining(parse_config("Test.", GROUPS, argv))


@needs_no_gpu
def test_cuda_without_a_gpu_is_refused(place):
    with pytest.raises(InputError, match=r"--data_transform_device cuda: the network runs on the"):
        training(place, "--data_transform_device", "cuda")
    assert not (place / "output").exists()


@needs_no_gpu
def test_auto_without_a_gpu_stays_on_the_cpu(place, caplog):
    automatic = training(place, "--data_transform_device", "auto")
    assert automatic.parts.device_transform is None
    assert automatic.parts.data.train.host_transform is None
    with caplog.at_level(logging.WARNING):
        training(place, "--data_transform_device", "auto", "--device", "cpu")
    assert "--data_transform_device has no effect without a GPU" in caplog.text


def test_a_training_with_the_images_made_on_the_device(place, monkeypatch, caplog):
    monkeypatch.setattr(rsna.training.parts, "are_transforms_on_device", lambda *_: True)
    flags = ("--data_train_transform", "train_complex_512", "--experiment_id", "device")
    flags += ("--tr_iteration_num", "2", "--optim_ema_decay", "0")
    with caplog.at_level(logging.INFO):
        experiment = training(place, *flags).run()
    assert (
        "training transforms: on the CPU: none; on the device: RandomResizedCrop, HorizontalFlip, "
        "Affine, Rotate, GridDistortion, DicomWindowShift, CoarseDropout, GaussNoise, Normalize"
    ) in caplog.text
    assert load_checkpoint(experiment.checkpoints / "last.pt")["iteration"] == 2
    assert (experiment.predictions / "valid.parquet").is_file()


class Probe(nn.Module):
    """A classifier that keeps the images it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 8 * 8, 6)
        self.images: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.images.append(images)
        return self.head(nn.functional.adaptive_avg_pool2d(images, 8).flatten(1))


def network_of(
    place: Path, is_on_device: bool, name: str, num_steps: int, saves: str = ""
) -> tuple[RSNANetwork, RSNADataset]:
    """A network and the dataset of its training images."""
    table = SliceTable.load(place / "input" / "datasets" / "tiny")
    transform = find_transform("data_train_transform", name, 40, 0.4, 0.5)
    dataset = RSNADataset(table, np.arange(len(table)), transform, seed=3)
    torch.manual_seed(0)
    model = Probe()
    options = {}
    if is_on_device:
        dataset.host_transform = transform.host_part()
        options["batch_transform"] = transform.device_part()
    if saves:
        options["callbacks"] = [CheckpointSaver(place / saves, 4, "weighted_log_loss", 1, {})]
        (place / saves).mkdir(exist_ok=True)
    optimizer = torch.optim.AdamW(model.parameters())
    settings = FitSettings(num_steps, amp_dtype="bf16")
    return RSNANetwork(model, settings, optimizer=optimizer, **options), dataset


def loader_of(dataset: RSNADataset, num_workers: int):
    return make_loader(dataset, 5, num_workers, EpochSampler(len(dataset), seed=1))


def test_the_network_sees_the_same_images(place):
    seen = []
    for is_on_device in (False, True):
        network, dataset = network_of(place, is_on_device, "tta_small", 6)
        network.fit(loader_of(dataset, 0))
        seen.append(torch.cat(network.model.images))
    assert seen[0].shape == seen[1].shape == (29, 3, 40, 40)  # 24 slices, the first 5 again
    assert seen[1].dtype == torch.float32
    # Of normalised images; some are all alike but for the last bits.
    assert (seen[0] - seen[1]).abs().max() < 5e-3


def test_resume_is_bit_identical_for_any_number_of_workers(place):
    weights = []
    for num_workers in (0, 2):
        network, dataset = network_of(place, True, "train_complex_512", 9)
        network.fit(loader_of(dataset, num_workers))
        weights.append(weights_of(network))
    network, dataset = network_of(place, True, "train_complex_512", 4, "resumed")
    network.fit(loader_of(dataset, 2))
    again, dataset = network_of(place, True, "train_complex_512", 9)
    state = load_checkpoint(place / "resumed" / "last.pt")
    again.load_state_dict(state)
    again.fit(loader_of(dataset, 0))
    weights.append(weights_of(again))
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])


def test_batches_with_draws_need_the_device_part(place):
    network, dataset = network_of(place, True, "train_small", 1)
    network.batch_transform = None
    with pytest.raises(TypeError, match="need a batch_transform"):
        network.fit(loader_of(dataset, 0))


def test_slices_of_different_sizes_make_a_batch(place, tmp_path):
    _, dataset = network_of(place, True, "tta_small", 1)
    samples = [dataset[0], dataset[1], dataset[2]]
    sizes = [samples[0]["image"].shape]
    samples[1]["image"] = samples[1]["image"][:, :30]
    samples[2]["image"] = samples[2]["image"][:, :, :20]
    batch = dataset.collate(samples)
    assert batch["image"].shape == (3, *sizes[0]) and batch["image"].dtype == torch.int16
    assert (batch["image"][1, :, 30:] == -1024).all() and isinstance(batch["draws"], np.ndarray)
