"""A task that has nothing to do with CT: which of ten digits is it? See docs/how_to/new_task.md."""

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn, optim

from common.callbacks import CheckpointSaver, TrainingMonitor, WeightAverage
from common.checkpoint import load_checkpoint
from common.cli import log_to_console
from common.datasets.base import AbstractDataset
from common.datasets.loading import make_loader
from common.datasets.samplers import EpochSampler
from common.models import ImageModel
from common.networks import AbstractNetwork, FitSettings, StepOutput


class DigitDataset(AbstractDataset):  # images of 8 x 8 pixels, shifted by up to one in training
    def __init__(self, images: Tensor, digits: Tensor, most_shift: int) -> None:
        super().__init__(seed=1)
        self.images, self.digits, self.most_shift = images, digits, most_shift

    def __len__(self) -> int:
        return len(self.images)

    def make_sample(self, index: int, seed: int) -> dict:
        draw, most = torch.Generator().manual_seed(seed), self.most_shift
        shift = torch.randint(-most, most + 1, (2,), generator=draw).tolist()
        return {"image": self.images[index].roll(shift, (1, 2)), "digit": self.digits[index]}


class DigitModel(ImageModel):
    def __init__(self, width: int = 32) -> None:
        super().__init__(width=width)
        self.body = nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(width * 36, 10)

    def forward_features(self, images: Tensor) -> Tensor:
        return self.body(images)

    def forward_head(self, features: Tensor) -> Tensor:
        return self.head(features)


class DigitNetwork(AbstractNetwork):
    def training_step(self, batch: dict) -> StepOutput:
        logits, digit = self.forward(batch["image"]), batch["digit"]
        loss_sum = nn.functional.cross_entropy(logits, digit, reduction="sum")
        return StepOutput(loss_sum, len(digit), {"logits": logits.detach(), "digit": digit})

    validation_step = training_step

    def prediction_step(self, batch: dict) -> dict:
        return {"logits": self.forward(batch["image"])}

    def compute_metrics(self, outputs: dict) -> dict:
        return {"accuracy": float((outputs["logits"].argmax(1) == outputs["digit"]).mean())}


def main(folder: str = "output/digits", iteration_num: int = 150) -> None:
    torch.manual_seed(1)
    images, digits = map(torch.tensor, load_digits(return_X_y=True))
    images = images.float().reshape(-1, 1, 8, 8) / 16
    train = DigitDataset(images[360:], digits[360:], most_shift=1)
    valid = DigitDataset(images[:360], digits[:360], most_shift=0)
    model, saver = DigitModel(), CheckpointSaver(Path(folder), every=50)
    monitor = TrainingMonitor(Path(folder) / "metrics.jsonl", shown=("loss", "accuracy"))
    settings = FitSettings(iteration_num, iteration_valid=50, clip_norm=1.0)
    callbacks = [WeightAverage(model, decay=0.98), monitor, saver]
    net = DigitNetwork(model, settings, optim.AdamW(model.parameters(), 0.003), callbacks=callbacks)
    if saver.last_path.is_file():  # go on where it stopped, bit for bit
        net.load_state_dict(load_checkpoint(saver.last_path))
    net.fit(make_loader(train, 32, 0, EpochSampler(len(train), 1)), make_loader(valid, 64, 0))


if __name__ == "__main__":
    log_to_console()
    main()
