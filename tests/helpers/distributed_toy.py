"""One process of a toy training; torchrun starts several. Prints nothing, writes what it found.

    torchrun --nproc_per_node 2 tests/helpers/distributed_toy.py <folder> <what> <dropout>

`what` is `fit` (to the end), `stop` (torchrun gets SIGTERM at iteration 4), `resume` (from last.pt)
`fail` (the last process meets a NaN) or `late` (it does, and steps are read late, as on GPUs).
"""

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from toy import ToyDataset, ToyNetwork, make_toy, toy_loader

from common.callbacks import Callback, CheckpointSaver, WeightAverage
from common.checkpoint import load_checkpoint
from common.cli import run_script
from common.datasets.loading import make_loader
from common.distributed import Processes, connected
from common.networks import FitSettings
from common.networks.network import STEPS_AHEAD
from common.seeding import seed_everything

NUM_SAMPLES, NUM_VALID, GLOBAL_BATCH, NUM_ITERATIONS = 21, 11, 8, 9


class Trouble(Callback):
    """The last process stops torchrun, or spoils its own weights."""

    def __init__(self, what: str, processes: Processes) -> None:
        self.what = what
        self.is_last = processes.rank == processes.num - 1

    def on_iteration_end(self, network: ToyNetwork) -> None:
        if network.state.iteration != 4:
            return
        if self.what == "stop":
            if self.is_last:
                os.kill(os.getppid(), signal.SIGTERM)
            # torchrun passes it on to one process after the other: the first to hear of it goes on.
            while not network._stop_request.signal_number:
                time.sleep(0.01)
        if self.what in ("fail", "late") and self.is_last:
            with torch.no_grad():
                next(network.model.parameters()).fill_(torch.nan)


class Gathering(ToyNetwork):
    """Remembers what a validation gathered."""

    def compute_metrics(self, outputs):
        self.gathered = {name: values.tolist() for name, values in outputs.items()}
        return {"mean_index": float(np.mean(outputs["index"]))}


def main() -> None:
    train(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), Processes.from_environment())


def train(folder: Path, what: str, dropout: float, processes: Processes) -> None:
    settings = FitSettings(
        iteration_num=NUM_ITERATIONS,
        accumulation_step=2,
        clip_norm=0.5,
        iteration_valid=4,
        processes=processes,
    )
    with connected(processes, settings.device):
        torch.manual_seed(3)
        model = torch.nn.Sequential(
            torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Dropout(dropout), torch.nn.Linear(8, 1)
        ).double()
        toy = make_toy(settings, model=model)
        saver = CheckpointSaver(folder, every=100)
        network = Gathering(
            model,
            settings,
            toy.optimizer,
            callbacks=[WeightAverage(model, 0.9), Trouble(what, processes), saver],
        )
        network.steps_ahead = STEPS_AHEAD if what == "late" else 0
        if what == "resume":
            network.load_state_dict(processes.from_main(lambda: load_checkpoint(saver.last_path)))
        else:
            seed_everything(processes.rank)
        dataset = ToyDataset(NUM_SAMPLES)
        loader = toy_loader(dataset, GLOBAL_BATCH // processes.num)
        valid = make_loader(ToyDataset(NUM_VALID), 3, 0, processes=processes)
        network.fit(loader, valid)
        metrics = network.validate(valid)
        predictions = network.predict(valid)["prediction"]
        torch.save(
            {
                "model": model.state_dict(),
                "averages": network.callbacks[0].state_dict(),
                "metrics": metrics,
                "gathered": network.gathered,
                "predictions": torch.from_numpy(predictions),
                "loss": network.step_values["loss"],
            },
            folder / f"result{processes.rank}.pt",
        )


if __name__ == "__main__":
    run_script(main)
