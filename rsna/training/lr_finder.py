"""The learning-rate range test from its flags: over the training data, as training would begin."""

import contextlib
import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from common.errors import InputError
from common.experiment import Experiment
from common.files import replacing, write_json, write_text
from common.networks.lr_range_test import LearningRateRange, find_learning_rate, range_figure
from common.precision import keep_freed_memory
from config import Config
from rsna.training.kinds import build_parts
from rsna.training.preflight import preflight

logger = logging.getLogger(__name__)

FOLDER = "lr_finder"


@dataclass(frozen=True)
class RangeTestResult:
    """The result of a range test, and the folder of its lr_finder.png, .json and .csv."""

    found: LearningRateRange
    folder: Path

    @property
    def plot(self) -> Path:
        return self.folder / "lr_finder.png"


class RSNALearningRateFinder:
    """A range test over the training data, in a folder of its own; it leaves no weights."""

    def __init__(self, config: Config) -> None:
        given, folder = config.general.experiment_id, _folder(config)
        if config.training.tr_resume:
            raise InputError("--tr_resume 1: a range test begins a training; leave the flag out")
        if given is not None and (folder / given).exists():
            raise InputError(f"--experiment_id {given}: {folder / given} exists")
        self.config = preflight(config, results=folder)
        self.parts = build_parts(self.config)
        if self.parts.settings.processes.are_many:
            raise InputError("lr_finder.py is of one process: start it without torchrun")

    def find(self) -> RangeTestResult:
        keep_freed_memory()
        flags, general = self.config.lr_finder, self.config.general
        num_iterations = flags.lrf_iteration_num
        if general.dev_enabled:
            num_iterations = min(num_iterations, max(3, general.dev_iteration_num))
        folder, config_yaml = _folder(self.config), self.config.to_yaml()
        experiment = Experiment.create(folder, general.experiment_id, config_yaml)
        with experiment.running():
            if self.config.chosen:
                logger.info(self.config.chosen)
            self.parts.data.log_sizes()
            network = self.parts.make_network([])
            span = flags.lrf_start_lr, flags.lrf_end_lr
            with contextlib.closing(self.parts.train_loader()) as train_data:
                found = find_learning_rate(network, train_data, *span, num_iterations)
            result = RangeTestResult(found, experiment.folder)
            _write(result)
        return result


def suggestion(result: RangeTestResult, config: Config) -> str:
    """Return the suggestion of the test, in a few lines."""
    found, optim = result.found, config.optimizer
    lines = [f"{len(found.losses)} iterations, plot: {result.plot}"]
    if found.suggestion is None or found.lowest is None:
        lines.append("The loss never falls: no suggestion. Try a wider range, or more iterations.")
        return "\n".join(lines)
    is_flat = optim.optim_scheduler in ("constant", "multistep")
    flag = "--optim_lr" if is_flat else "--optim_scheduler_max_lr"
    lines += [
        f"The loss is lowest at {found.lowest:.2g}; a tenth of that is well below divergence.",
        f"suggestion: --optim {optim.optim} {flag} {found.suggestion:.2g}",
    ]
    if not found.is_clear:
        lines.append(
            "But that fall is within the noise of the batches: larger ones "
            "(--tr_batch_size, --tr_accumulation_step) or more --lrf_iteration_num tell more."
        )
    return "\n".join(lines)


def _folder(config: Config) -> Path:
    return Path(config.general.output_dir) / FOLDER


def _write(result: RangeTestResult) -> None:
    found, folder = result.found, result.folder
    write_json(folder / "lr_finder.json", dataclasses.asdict(found))
    columns = {
        "learning_rate": found.learning_rates,
        "loss": found.losses,
        "start_loss": found.start_losses,
        "smoothed": found.smoothed,
    }
    write_text(folder / "lr_finder.csv", pd.DataFrame(columns).to_csv(index=False))
    with replacing(result.plot) as temporary:
        range_figure(found).savefig(temporary, format="png", dpi=120)
