"""Members for nested stacking: predictions of networks that saw neither of two folds.

For each scored fold i a member needs out-of-fold rows of all other folds from networks that were
trained without fold i as well: the experiment `<id>-without-<i>`, trained with the member's flags
and `--data_leave_out_fold i`. With k folds these are k (k - 1) trainings a member.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from common.cli import script_command
from common.ensembling.blending import Floats
from common.errors import InputError
from common.experiment import Experiment
from common.scoring.predictions import read_predictions
from common.slices.folds import FOLDS_FILE, read_folds
from common.slices.leakage import require_same_folds
from config import FREE_ON_RESUME, Config
from rsna.ensembling.members import EnsembleData, Member

# What may differ between a member and its training without a fold.
_FREE = FREE_ON_RESUME | {"data_leave_out_fold", "data_dataset", "tr_features"}


def nested_id(experiment_id: str, fold: int) -> str:
    """Return the id of the experiment that is trained without a fold."""
    return f"{experiment_id}-without-{fold}"


def nested_members(config: Config, data: EnsembleData) -> Mapping[int, Floats]:
    """Return by scored fold the members' probabilities (m, n, k) of rows of the other folds.

    Rows of the scored fold itself are 0.5: nothing looks at them.

    Raises:
        InputError: members that have no folds; trainings that are missing, each with its command;
            or one that is of other flags.
    """
    if data.by_patients or any(member.experiment is None for member in data.members):
        raise InputError(
            "--stack_nested 1 needs experiments of all folds (train.py --data_fold all) as members"
        )
    for member in data.members:
        info = member.info or {}
        name = str((info.get("model") or {}).get("name", ""))
        if info.get("kind") in ("blend", "second_level", "study") or name.startswith("study-"):
            raise InputError(
                f"--stack_nested 1: {member.name} is made of other experiments, and can't be "
                f"trained without a fold: blend experiments that see images"
            )
    folds = [int(fold) for fold in np.unique(data.rows.groups)]
    missing = [
        _command(config, member, fold)
        for member in data.members
        for fold in folds
        if not _inner(config, member, fold).predictions_file("oof").is_file()
    ]
    if missing:
        raise InputError(
            f"--stack_nested 1: {len(missing)} trainings are missing, of all folds but one each: "
            + " ; ".join(missing)
        )
    return {
        fold: np.stack([_read(config, data, member, fold) for member in data.members])
        for fold in folds
    }


def _inner(config: Config, member: Member, fold: int) -> Experiment:
    return Experiment(config.experiment_folder(nested_id(member.name, fold)))


def _command(config: Config, member: Member, fold: int) -> str:
    name, output = nested_id(member.name, fold), config.general.output_dir
    flags = ["--output_dir", output, "--experiment_id", name]
    if config.experiment_folder(name).exists():
        return script_command(*flags, "--tr_resume", "1", script="train.py")
    assert member.experiment is not None
    given = ["--config", str(member.experiment.config_file), *flags, "--tr_features", "0"]
    return script_command(*given, "--data_leave_out_fold", str(fold), script="train.py")


def _read(config: Config, data: EnsembleData, member: Member, fold: int) -> Floats:
    """Return the (n, k) probabilities of a member that was trained without `fold`."""
    name, experiment = nested_id(member.name, fold), _inner(config, member, fold)
    inner = Member(name, experiment.predictions_file("oof"), Path(), experiment)
    assert inner.config is not None and member.config is not None
    flags, wanted = inner.config.flags(), member.config.flags()
    unlike = sorted(key for key in flags if key not in _FREE and flags[key] != wanted[key])
    if unlike or flags["data_leave_out_fold"] != fold:
        what = ", ".join(f"--{key}" for key in unlike) or "--data_leave_out_fold"
        raise InputError(
            f"--stack_nested 1: experiment {name} was trained with another {what} than it should "
            f"be: remove it, and train it by {_command(config, member, fold)}"
        )
    if inner.folds_sha256 is not None:
        folds = read_folds(config.dataset_folder / FOLDS_FILE)
        require_same_folds(f"predictions of {name}", inner.folds_sha256, folds)
    names = data.task.label_names
    frame = read_predictions(inner.oof, names).set_index("image_id")
    wanted_rows = data.rows.groups != fold
    rows = frame.index.get_indexer(pd.Index(data.tables.frame["image_id"]))
    made_by = frame["fold"].to_numpy(dtype=np.int64)
    if (rows[wanted_rows] < 0).any() or (rows[~wanted_rows] >= 0).any():
        raise InputError(
            f"--stack_nested 1: experiment {name} does not predict the rows of all folds but {fold}"
        )
    if (made_by[rows[wanted_rows]] != data.rows.groups[wanted_rows]).any():
        raise InputError(f"--stack_nested 1: experiment {name} has rows of other folds")
    told = np.full((len(rows), len(names)), 0.5)
    told[wanted_rows] = frame[list(names)].to_numpy(np.float64)[rows[wanted_rows]]
    return told
