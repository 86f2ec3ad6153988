"""Every flag of every script: one typed dataclass per group, whose field names are the flags.

A flag is declared once, here: its type and rule are checked when a script starts, its docstring is
its help. Importing this module parses nothing and makes nothing.
"""

import logging
import sys
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

import yaml

from common.errors import InputError
from common.experiment import Experiment, PredictorHome, find_predictor, results_folder
from common.files import parse_yaml
from common.machine import Machine
from flags.automatic import Work, choose, describe
from flags.combinations import refuse_unusable, warn_about_flags
from flags.comparison import ComparisonConfig, DriftConfig, ReviewConfig
from flags.data import DataConfig
from flags.delivery import DeliveryConfig
from flags.ensemble import EnsembleConfig, PseudoLabelConfig, SecondLevelConfig
from flags.evaluation import EvaluationConfig
from flags.general import GeneralConfig, MonitorConfig, MonitorPageConfig
from flags.network import NetworkConfig
from flags.optimizer import LRFinderConfig, OptimizerConfig
from flags.parsing import AUTO, parse_flags
from flags.prediction import (
    CalibrationConfig,
    EngineConfig,
    PredictionConfig,
    PredictorConfig,
    ReleaseConfig,
    SelectConfig,
    ValidationConfig,
    ViewsConfig,
)
from flags.preprocessing import PreprocessingConfig
from flags.sources import command_line_names, naming_file
from flags.training import CallbackConfig, TrainingConfig
from flags.worker import WorkerConfig

logger = logging.getLogger(__name__)

# A resumed run may change these; all others stay as they were recorded.
FREE_ON_RESUME = {
    *("experiment_id", "tr_resume", "tr_max_hours", "output_dir", "data_input_folder"),
    *("n_jobs", "device", "data_transform_device", "tr_compile", "tr_pin_memory"),
}
FREE_ON_RESUME |= {field.name for field in fields(MonitorConfig)}
FREE_ON_RESUME |= {name for name in GeneralConfig.__dataclass_fields__ if name.startswith("dev_")}
# These too, where what is done stays as it is (`rsna.training.lengthening`).
LENGTHENING = {"tr_iteration_num", "optim_scheduler_num_cycles"}
# Evaluations take these from their own flags alone, not from the machine that trained.
OF_THE_MACHINE = {"n_jobs", "tr_batch_size_valid"}


@dataclass(frozen=True)
class Config:
    """The flags of one script run, by group."""

    general: GeneralConfig = field(default_factory=GeneralConfig)
    data: DataConfig = field(default_factory=DataConfig)
    preprocessing: PreprocessingConfig = field(default_factory=PreprocessingConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    prediction: PredictionConfig = field(default_factory=PredictionConfig)
    delivery: DeliveryConfig = field(default_factory=DeliveryConfig)
    worker: WorkerConfig = field(default_factory=WorkerConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    releases: ReleaseConfig = field(default_factory=ReleaseConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    comparison: ComparisonConfig = field(default_factory=ComparisonConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)
    review: ReviewConfig = field(default_factory=ReviewConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    pseudo_labels: PseudoLabelConfig = field(default_factory=PseudoLabelConfig)
    lr_finder: LRFinderConfig = field(default_factory=LRFinderConfig)
    second_level: SecondLevelConfig = field(default_factory=SecondLevelConfig)
    callbacks: CallbackConfig = field(default_factory=CallbackConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    monitor_page: MonitorPageConfig = field(default_factory=MonitorPageConfig)
    given: frozenset[str] = frozenset()
    chosen: str = ""
    """What `resolved` chose, and why; empty where nothing was left to it."""

    @property
    def dataset_folder(self) -> Path:
        return self.named_dataset_folder(self.data.data_dataset)

    def named_dataset_folder(self, name: str) -> Path:
        return Path(self.data.data_input_folder) / "datasets" / name

    def experiment_folder(self, experiment_id: str) -> Path:
        return results_folder(self.general.output_dir) / experiment_id

    def existing_experiment_folder(self) -> Path:
        """The folder named by --experiment_id; InputError where there is none."""
        if self.general.experiment_id is None:
            raise InputError("--experiment_id is missing: say which experiment, such as 0001")
        folder = self.experiment_folder(self.general.experiment_id)
        if not Experiment(folder).exists:
            raise InputError(
                f"--experiment_id {self.general.experiment_id}: no experiment at {folder}; "
                f"train one, or say where it is with --output_dir"
            )
        return folder

    def predictor_home(self, *, recorded: bool = True) -> PredictorHome:
        """What --experiment_id or --pr_predictor names.

        Args:
            recorded: whether an experiment must have its config.yaml.

        Raises:
            InputError: none or both are given, or there is nothing there.
        """
        folder, name = self.predictor.pr_predictor, self.general.experiment_id
        if folder is None:
            if name is None:
                raise InputError(
                    "--experiment_id is missing: say which experiment, such as 0001, or which "
                    "predictor by --pr_predictor <folder>"
                )
            return Experiment(
                self.existing_experiment_folder() if recorded else self.experiment_folder(name)
            )
        if name is not None:
            raise InputError(
                f"--pr_predictor {folder} and --experiment_id {name}: give one of the two"
            )
        return find_predictor(Path(folder))

    @property
    def is_one_of_all_folds(self) -> bool:
        """Whether the experiment is a fold of one with --data_fold all."""
        return "/" in (self.general.experiment_id or "")

    @property
    def iteration_num(self) -> int:
        """Iterations to train, dev mode considered."""
        if self.general.dev_enabled:
            return min(self.training.tr_iteration_num, self.general.dev_iteration_num)
        return self.training.tr_iteration_num

    def dev_scaled(self, iteration: int) -> int:
        """An iteration of the whole training, as that of dev mode's shorter one if it is on."""
        return iteration * self.iteration_num // self.training.tr_iteration_num

    @property
    def swa_start(self) -> int | None:
        """Iterations before stochastic weight averaging, dev mode considered; None without it."""
        if not self.optimizer.optim_swa_enabled:
            return None
        start = self.optimizer.optim_swa_start
        return self.iteration_num * 3 // 4 if start is None else self.dev_scaled(start)

    @property
    def base_lr(self) -> float:
        """The learning rate that the schedule begins or peaks at."""
        optim = self.optimizer
        if optim.optim_scheduler in ("constant", "multistep"):
            return optim.optim_lr
        return optim.optim_scheduler_max_lr

    def flags(self) -> dict[str, Any]:
        """All flags and their values in one flat dict of plain types."""
        return {
            name: value for group in GROUPS for name, value in asdict(getattr(self, group)).items()
        }

    def to_yaml(self) -> str:
        """The flags as YAML, in the form that --config reads."""
        return yaml.safe_dump(self.flags(), sort_keys=False)

    def resolved(self, work: Work) -> "Config":
        """Return the flags with what this machine makes of `auto`, as far as `work` needs them."""
        on_cpu = work == "preparation" or self.engine.precision
        machine = Machine.here("cpu" if on_cpu else self.general.device)
        if not (choices := choose(self.flags(), machine, work)):
            return self
        values = {name: choice.value for name, choice in choices.items()}
        return replace(self.with_flags(**values), chosen=describe(choices, machine))

    def with_flags(self, **changes: Any) -> "Config":
        groups = {}
        for group, kind in GROUPS.items():
            names = {item.name for item in fields(kind)} & changes.keys()
            if names:
                own = {name: changes[name] for name in names}
                groups[group] = replace(getattr(self, group), **own)
        return replace(self, **groups)


GROUPS: dict[str, type] = {
    item.name: cast(type, item.default_factory)
    for item in fields(Config)
    if item.name not in ("given", "chosen")
}


def parse_config(
    description: str, groups: Sequence[str], argv: Sequence[str] | None = None
) -> Config:
    """Read the flags of a script.

    Raises:
        InputError: an unknown flag, or a value that breaks its rule.
    """
    own = [GROUPS[group] for group in groups]
    # One file serves all scripts: the flags of other scripts in it are passed over.
    others = Config().flags().keys() - {item.name for kind in own for item in fields(kind)}
    argv = sys.argv[1:] if argv is None else argv
    with naming_file(argv, Config().flags().keys() | {"config"}):
        plain = [word for word in argv if word.partition("=")[0] != "--print_config"]
        values, given = parse_flags(description, own, plain, others)
        config = _build_config(values, groups, given)
        if len(plain) < len(argv):  # prints and exits
            parse_flags(description, own, [*argv, *_choices(config, groups)], others)
        refuse_unusable(config.flags())
    config = _with_dev_mode(config, given & command_line_names(argv))
    warn_about_flags(config.flags(), given, groups, config.base_lr)
    return config


def _choices(config: Config, groups: Sequence[str]) -> list[str]:
    """Return, as arguments, what this machine makes of the flags of a script that are `auto`."""
    work: Work = "preparation" if "preprocessing" in groups else "prediction"
    work = "training" if "training" in groups else work
    before, after = config.flags(), config.resolved(work).flags()
    return [f"--{name}={value}" for name, value in after.items() if value != before[name]]


def _with_dev_mode(config: Config, asked: Set[str]) -> Config:
    """Return the flags with the lengths of dev mode, which do not shorten what is `asked` for."""
    general, training = config.general, config.training
    if not general.dev_enabled or "dev_iteration_num" in config.given:
        return config
    for name in sorted(asked & {"tr_iteration_num", "lrf_iteration_num"}):
        return config.with_flags(dev_iteration_num=config.flags()[name])
    if "tr_iteration_num" in config.given and training.tr_iteration_num > config.iteration_num:
        logger.warning(
            "--dev_enabled 1 trains %d iterations, not the %d of the --config file",
            config.iteration_num,
            training.tr_iteration_num,
        )
    return config


def recorded_config(folder: Path) -> Config:
    """The configuration that an experiment folder recorded in its config.yaml."""
    path = Experiment(folder).config_file
    try:
        flags = parse_yaml(path.read_text(encoding="utf-8"))
        if not isinstance(flags, dict):
            raise ValueError("it holds no lines of `flag: value`")
        known = Config().flags()
        if unknown := sorted(set(flags) - set(known)):
            raise InputError(f"{path}: unknown flags {', '.join(unknown)}: made by another version")
        return _build_config({**known, **flags}, list(GROUPS), frozenset())
    except InputError:
        raise
    except (OSError, ValueError, yaml.YAMLError, AttributeError, TypeError) as error:
        raise InputError(f"{path} can't be read as flags ({error}): restore it") from error


def resumed_config(config: Config) -> Config:
    """The recorded configuration of the experiment that `config` asks to go on with.

    Raises:
        InputError: a flag is given with another value than the recorded one.
    """
    recorded = recorded_config(config.existing_experiment_folder())
    before, now = recorded.flags(), config.flags()
    for name in sorted(config.given - FREE_ON_RESUME - LENGTHENING):
        if now[name] not in (before[name], AUTO):
            raise InputError(
                f"--{name} {now[name]}: experiment {config.general.experiment_id} was started "
                f"with {before[name]}; leave the flag out, or start a new experiment"
            )
    free = {name: now[name] for name in config.given & (FREE_ON_RESUME | LENGTHENING)}
    free |= {"experiment_id": now["experiment_id"], "output_dir": now["output_dir"], "tr_resume": 1}
    return replace(recorded.with_flags(**free), given=config.given)


def _build_config(values: dict[str, Any], groups: Sequence[str], given: frozenset[str]) -> Config:
    parts: dict[str, Any] = {}
    for group in groups:
        names = values.keys() & {item.name for item in fields(GROUPS[group])}
        parts[group] = GROUPS[group](**{name: values[name] for name in names})
    return Config(**parts, given=given)
