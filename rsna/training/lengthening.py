"""Go on with a training beyond the iterations that it was started with."""

from pathlib import Path

from common.errors import InputError
from common.experiment import Experiment
from common.files import write_text
from config import Config, recorded_config
from rsna.build import build_schedule


def require_lengthenable(folder: Path, config: Config) -> None:
    """Raise InputError where more iterations would have changed those that are done."""
    recorded = recorded_config(folder)
    before, now = recorded.training.tr_iteration_num, config.training.tr_iteration_num
    if recorded.flags() | _lengthened(config) == recorded.flags():
        return
    start = f"--tr_iteration_num {now}: experiment {config.general.experiment_id} was started with"
    if now <= before:
        raise InputError(f"{start} {before}, and can only be lengthened: give more")
    reason = _reason(recorded, config)
    if reason is not None:
        raise InputError(
            f"{start} {before}, and {reason}: leave the flag out, or start a new experiment from "
            f"its weights (--net_weight_file)"
        )


def record_length(experiment: Experiment, config: Config) -> None:
    """Write the length of the training from now on to its config.yaml, if that is another."""
    recorded = recorded_config(experiment.folder)
    lengthened = recorded.with_flags(**_lengthened(config))
    if lengthened.flags() != recorded.flags():
        write_text(experiment.config_file, lengthened.to_yaml())


def _lengthened(config: Config) -> dict[str, int]:
    return {
        "tr_iteration_num": config.training.tr_iteration_num,
        "optim_scheduler_num_cycles": config.optimizer.optim_scheduler_num_cycles,
    }


def _reason(before: Config, now: Config) -> str | None:
    """Return why the training can't be lengthened; None where it can."""
    if now.data.data_fold == "all" or now.is_one_of_all_folds:
        return "all folds of an experiment are trained alike"
    if now.data.data_sampler == "pos_range":
        return "--data_sampler pos_range spreads its shares over the whole training"
    if now.training.tr_any_weight_schedule:
        return "--tr_any_weight_schedule 1 changes the loss by fifths of the training"
    if before.swa_start != now.swa_start:
        return "weights are averaged from a share of the training on (no --optim_swa_start)"
    plans = build_schedule(before), build_schedule(now)
    if any(plans[0](step) != plans[1](step) for step in range(before.iteration_num)):
        name, hint = now.optimizer.optim_scheduler, ""
        if before.swa_start is not None:
            name = f"{name} with --optim_swa_enabled 1"
        elif name == "cosine_restarts":
            hint = " (unless --optim_scheduler_num_cycles adds whole cycles)"
        return f"the learning rate of --optim_scheduler {name} ends with the training{hint}"
    return None
