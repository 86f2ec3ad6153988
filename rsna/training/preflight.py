"""Refuse, before any work, what the flags and the data of a training do not allow."""

import logging
from importlib.util import find_spec
from pathlib import Path

from common.checkpoint import newest_sound
from common.errors import InputError
from common.experiment import Experiment, results_folder, weights_file
from common.precision import require_compiler
from common.requirements import install_command
from common.slices.folds import ALWAYS_TRAINING, FOLDS_FILE, folds_path, read_folds
from common.slices.leakage import (
    folds_digest,
    origins_of_weights,
    require_unseen_start,
    saw_source,
)
from config import Config, resumed_config
from rsna.build import find_device, transforms_on_device
from rsna.training.lengthening import require_lengthenable

logger = logging.getLogger(__name__)

FOLD_PLACE = "{fold}"
"""In --net_weight_file: the number of the fold."""

# Clients that not every training needs: flag -> (module, extra).
CLIENTS = {
    "tensorboard_enabled": ("tensorboard", "tensorboard"),
    "nml_enabled": ("neptune", "neptune"),
}


def preflight(config: Config, results: Path | None = None) -> Config:
    """Return the flags of the training, resolved; those of a resumed run as it recorded them.

    Everything that can be refused before work begins is refused here, except what needs the model
    or the slices: `rsna.training.kinds.build_parts` refuses that, also before a folder is made.

    Args:
        results: the folder of new experiments; that of the flags where none is given.

    Raises:
        InputError: flags that can't be used here.
    """
    is_resumed = bool(config.training.tr_resume)
    results = results or results_folder(config.general.output_dir)
    config = resumed_config(config) if is_resumed else config
    experiment_id = config.general.experiment_id
    if is_resumed:
        _require_checkpoint(config, Experiment(results / str(experiment_id)))
        require_lengthenable(results / str(experiment_id), config)
    elif experiment_id is not None:
        Experiment.refuse_existing(results, experiment_id)
    require_clients(config)
    device = find_device(config)
    config = config.resolved("training")
    transforms_on_device(config, device)
    if config.training.tr_compile:
        require_compiler(device)
    if not is_resumed:
        folds = trained_folds(config) if config.data.data_fold == "all" else [config.data.data_fold]
        for fold in folds:
            assert isinstance(fold, int)
            require_unseen_weights(config.with_flags(**fold_flags(config, fold)))
    return config


def refuse_single_fold(config: Config) -> None:
    """Raise InputError where a single fold of an experiment of all folds is to be trained anew."""
    if config.is_one_of_all_folds and not config.training.tr_resume:
        parent = str(config.general.experiment_id).partition("/")[0]
        raise InputError(
            f"--experiment_id {config.general.experiment_id}: folds are trained by their "
            f"experiment: --experiment_id {parent} --tr_resume 1"
        )


def require_clients(config: Config) -> None:
    """Raise InputError where a tracker is asked for whose client is not installed."""
    flags = config.flags()
    for flag, (module, extra) in CLIENTS.items():
        if flags[flag] and find_spec(module) is None:
            raise InputError(
                f"--{flag} 1: the package {module} is not installed: "
                f"{install_command(extra)}, or leave the flag out"
            )


def digest_of_folds(config: Config) -> str:
    """Return the digest of the fold table that the rows of one fold are split by."""
    fold = config.data.data_fold
    assert isinstance(fold, int)
    return folds_digest(read_folds(folds_path(config.dataset_folder, fold)))


def require_unseen_weights(config: Config) -> None:
    """Raise InputError where --net_weight_file is missing, or saw patients of the validated fold.

    Only what the experiment of the file recorded is known; see `require_unseen_start`.
    """
    name, fold = config.network.net_weight_file, config.data.data_fold
    if name is None or not isinstance(fold, int):
        return
    if not weights_file(Path(name)).is_file():
        raise InputError(f"--net_weight_file {name}: no such file")
    origins, dataset = origins_of_weights(Path(name)), config.data.data_dataset
    if any(saw_source(origin, config.dataset_folder) for origin in origins):
        logger.warning(
            "--net_weight_file %s: its training, published by others, may have seen the patients "
            "that are validated, and scores may be too good",
            name,
        )
    if origins:
        require_unseen_start(name, origins, dataset, digest_of_folds(config), fold)


def fold_flags(config: Config, fold: int) -> dict[str, int | str]:
    """Return the flags in which the training of one fold differs from that of all."""
    flags: dict[str, int | str] = {"data_fold": fold}
    weights = config.network.net_weight_file
    if weights is not None and config.data.data_fold == "all":
        flags["net_weight_file"] = weights.replace(FOLD_PLACE, str(fold))
    return flags


def trained_folds(config: Config) -> list[int]:
    """Return the folds that --data_fold all trains, ascending.

    Raises:
        InputError: it is not known for every patient which fold validates it.
    """
    dataset_folder = config.dataset_folder
    given = sorted(dataset_folder.glob(f"dataset_{dataset_folder.name}_fold_*.csv"))
    if given:
        raise InputError(
            f"--data_fold all: {given[0].name} gives the split of one fold, and which fold "
            f"validates a patient has to be known of all: give the number of the fold, or remove "
            f"the file to split by {FOLDS_FILE}"
        )
    folds = read_folds(dataset_folder / FOLDS_FILE)
    known = sorted(set(folds.get("fold", [])) - {ALWAYS_TRAINING})
    if len(known) < 2:
        raise InputError(
            f"--data_fold all: {FOLDS_FILE} splits off one part (--pre_valid_fraction): give "
            f"--data_fold 0, or make folds with preprocessing.py --pre_num_folds"
        )
    return [int(fold) for fold in known if fold != config.data.data_leave_out_fold]


def _require_checkpoint(config: Config, experiment: Experiment) -> None:
    """Raise InputError where a training of one fold has nothing to go on from."""
    last = experiment.last_checkpoint
    if config.data.data_fold == "all" or last.is_file():
        return
    sound = newest_sound(last.parent, besides=last.name)
    if sound is None:
        raise InputError(
            f"--tr_resume 1: experiment {experiment.id} has no checkpoint yet: start a new one"
        )
    raise InputError(
        f"--tr_resume 1: {last} is missing: copy {sound[1]}, of iteration {sound[0]} and the "
        f"newest sound one there, to that name and run the same command again"
    )
