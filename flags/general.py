"""Flags that scripts share, and those of the run monitors."""

from dataclasses import dataclass
from typing import Literal

from flags.parsing import AUTO, AutoCount, Switch, at_least, between, matches


@dataclass(frozen=True)
class GeneralConfig:
    """What every script shares."""

    experiment_id: str | None = None
    """Experiment to go on with, evaluate or predict with; a new training takes a free one."""
    seed: int = 4667
    """Seed of everything random: sampling, augmentation, initial weights."""
    dev_enabled: Switch = 0
    """1: a quick round for debugging: few studies and iterations, no monitor but the local log."""
    dev_num_studies: int = 12
    """Dev mode: the most studies that are used."""
    dev_iteration_num: int = 20
    """Dev mode: the most iterations that are trained; a --tr_iteration_num on the command line is
    kept, where this flag is not given."""
    n_jobs: AutoCount = AUTO
    """Processes for preprocessing and for loading data (0: load in the main process). auto: by
    cores and memory of machine, container or Slurm task."""
    tr_batch_size_valid: AutoCount = AUTO
    """Slices in a batch of validation and prediction. auto: 64 on a CPU, by its memory on a GPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs; auto takes a GPU when there is one."""
    output_dir: str = "output"
    """Folder of all results: <output_dir>/results/<experiment_id>."""

    def __post_init__(self) -> None:
        between(self, 0, 2**63 - 1, "seed")
        at_least(self, 0, "n_jobs")
        at_least(self, 1, "tr_batch_size_valid")
        at_least(self, 1, "dev_num_studies", "dev_iteration_num")
        rule = "letters, digits, _ and - only, such as 0001, or 0001/fold_2 for one of all folds"
        matches(self, r"[A-Za-z0-9_-]+(/fold_\d+)?", rule, "experiment_id")


@dataclass(frozen=True)
class MonitorConfig:
    """Where a run is shown, beside its own metrics.jsonl."""

    mlflow_enabled: Switch = 1
    """1: show the run in MLflow."""
    mlflow_uri: str | None = None
    """MLflow server or store (default: the SQLite file <output_dir>/mlflow.db)."""
    tensorboard_enabled: Switch = 0
    """1: write TensorBoard event files into the experiment folder."""
    nml_enabled: Switch = 0
    """1: show the run in Neptune: on the self-hosted server that made the token in
    NEPTUNE_API_TOKEN, else offline (the hosted service closed in March 2026)."""
    nml_project: str | None = None
    """Project on that server: workspace/name."""


@dataclass(frozen=True)
class MonitorPageConfig:
    """Where scripts/monitor.py serves the run monitor."""

    mon_port: int = 0
    """Port on this machine's loopback address (0: a free one)."""

    def __post_init__(self) -> None:
        between(self, 0, 65535, "mon_port")
