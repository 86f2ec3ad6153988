"""Flags in combination: what is refused, and what earns a warning."""

import difflib
import logging
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from common.errors import InputError
from flags.parsing import AUTO
from rsna_task import TASKS, validation_metrics

logger = logging.getLogger(__name__)


def _needs(name: str, *values: Any) -> tuple[str, Callable[[dict[str, Any]], bool]]:
    """An entry of EFFECTIVE_WHEN: the flag `name` has to have one of the values."""
    words = " or ".join(str(value) for value in values)
    return f"--{name} {words}", lambda flags: flags[name] in values


def _needs_model(*prefixes: str) -> tuple[str, Callable[[dict[str, Any]], bool]]:
    """An entry of EFFECTIVE_WHEN: --net_model has to begin with one of the prefixes."""
    words = " or ".join(f"{prefix}..." for prefix in prefixes)
    return f"--net_model {words}", lambda flags: flags["net_model"].startswith(prefixes)


_STUDY, _LINEAR = "study-", "study-linear"


def _has_encoder(flags: Mapping[str, Any]) -> bool:
    return flags["net_model"].startswith(_STUDY) and flags["net_encoder"] is not None


_FROM_IMAGES = (
    f"a --net_model that sees images, not {_STUDY}..., or --net_encoder",
    lambda flags: not flags["net_model"].startswith(_STUDY) or _has_encoder(flags),
)
_JOINT, _BAG, _VOLUME = "joint-", "bag-", "volume-"
_FROM_BACKBONE = (
    f"a --net_model with a slice network, not {_STUDY}... or {_VOLUME}...",
    lambda flags: not flags["net_model"].startswith((_STUDY, _VOLUME)),
)
_FROM_ENCODER = (
    f"a --net_model with a slice network, not {_STUDY}... or {_VOLUME}..., or --net_encoder",
    lambda flags: not flags["net_model"].startswith((_STUDY, _VOLUME)) or _has_encoder(flags),
)
_FROM_OUTPUTS = (
    f"--net_model {_STUDY}... without --net_encoder",
    lambda flags: flags["net_model"].startswith(_STUDY) and flags["net_encoder"] is None,
)
_FROM_FEATURES = (
    f"--net_model {_JOINT}..., or {_STUDY}... and --net_study_inputs both or --net_encoder",
    lambda flags: (
        flags["net_model"].startswith(_JOINT)
        or _has_encoder(flags)
        or (flags["net_model"].startswith(_STUDY) and flags["net_study_inputs"] == "both")
    ),
)
_FROM_LAYERS = (
    f"--net_model {_STUDY}... or {_JOINT}..., but {_LINEAR}",
    lambda flags: flags["net_model"].startswith((_STUDY, _JOINT)) and flags["net_model"] != _LINEAR,
)
_IMAGE_FLAGS = (
    *("data_train_transform", "data_valid_transform", "data_test_transform", "data_img_size"),
)
_ENCODER_FLAGS = ("net_pretrained", "net_pooling", "data_neighbors")
_STUDY_FLAGS = ("data_features", "net_study_inputs")
_SERIES_FLAGS = ("data_study_thin", "data_study_reverse", "data_study_crop")
_SEQUENCE_FLAGS = ("net_study_dim", "net_study_layers", "net_study_metadata")
_WHOLE_FLAGS = ("net_encoder_frozen", "net_encoder_slices", "net_encoder_checkpoint")
_VOLUME_FLAGS = ("net_volume_width", "net_volume_mm", "data_volume_spacing")


def _makes_folds(flags: dict[str, Any]) -> bool:
    return flags["pre_fold_by"] == "patient" and flags["pre_check"] == 0


_OTHER_PROCESSES = (
    "--n_jobs or --pre_address: in one process nothing can be stopped",
    lambda flags: flags["n_jobs"] != 0 or flags["pre_address"] is not None,
)

# flag -> (what it needs, test): a flag that was given and does nothing earns a warning.
EFFECTIVE_WHEN = {
    "pre_brain_min": _needs("pre_source", "demo", "rsna", "ct_ich"),
    **{
        name: _needs("pre_check", 0)
        for name in (
            *("pre_source", "pre_folder", "pre_drop_overlap", "pre_labels", "pre_remove"),
            "pre_train_studies",
        )
    },
    "pre_fold_by": _needs("pre_check", 0),
    "pre_valid_fraction": _needs("pre_check", 0),
    "pre_num_folds": (
        "--pre_fold_by patient, --pre_valid_fraction 0 and --pre_check 0",
        lambda flags: _makes_folds(flags) and flags["pre_valid_fraction"] == 0,
    ),
    "pre_fold_seed": ("--pre_fold_by patient and --pre_check 0", lambda flags: _makes_folds(flags)),
    "pre_report": _needs("pre_check", 0),
    "pre_export": _needs("pre_check", 0),
    "pre_export_folder": _needs("pre_export", "npy", "png"),
    "pre_export_windows": _needs("pre_export", "png"),
    **dict.fromkeys(_IMAGE_FLAGS, _FROM_IMAGES),
    **dict.fromkeys(_ENCODER_FLAGS, _FROM_ENCODER),
    **dict.fromkeys(("net_head", "net_drop_path_rate", "tr_sync_bn"), _FROM_BACKBONE),
    **dict.fromkeys(_STUDY_FLAGS, _FROM_OUTPUTS),
    "net_encoder": _needs_model(_STUDY),
    **dict.fromkeys(_SERIES_FLAGS, _needs_model(_STUDY, _JOINT, _VOLUME)),
    **dict.fromkeys(_SEQUENCE_FLAGS, _FROM_LAYERS),
    **dict.fromkeys(_WHOLE_FLAGS, _needs_model(_JOINT, _BAG)),
    **dict.fromkeys(("net_bag_pooling", "data_bag_slices"), _needs_model(_BAG)),
    **dict.fromkeys(_VOLUME_FLAGS, _needs_model(_VOLUME)),
    "net_study_hidden": _needs_model("study-bigru", "study-lstm", "study-first_place"),
    "net_study_heads": _needs_model("study-transformer", _JOINT),
    "net_study_auxiliary": _needs_model("study-first_place"),
    "net_study_feature_drop": _FROM_FEATURES,
    "data_sampler_pos_start": _needs("data_sampler", "pos_range"),
    "data_sampler_pos_end": _needs("data_sampler", "pos_range"),
    "data_neighbor_mm": ("--data_neighbors", lambda flags: flags["data_neighbors"] > 0),
    "data_neighbor_end": (
        "--data_neighbors, and no --data_neighbor_mm",
        lambda flags: flags["data_neighbors"] > 0 and not flags["data_neighbor_mm"],
    ),
    "net_num_dropouts": (
        "--net_drop_rate and a --net_model for slices",
        lambda flags: (
            flags["net_drop_rate"] > 0
            and not flags["net_model"].startswith((_STUDY, _JOINT, _BAG, _VOLUME))
        ),
    ),
    "data_sampler_num_slices": _needs("data_sampler", "slices_per_study"),
    "optim_momentum": _needs("optim", "sgd", "lars"),
    "optim_nesterov": (
        "--optim sgd or lars with momentum",
        lambda flags: flags["optim"] in ("sgd", "lars") and flags["optim_momentum"] > 0,
    ),
    "optim_lr": _needs("optim_scheduler", "constant", "multistep"),
    "optim_scheduler_max_lr": _needs(
        "optim_scheduler", "one_cycle_lr", "warmup_cosine", "cosine_restarts"
    ),
    "optim_scheduler_min_lr": _needs("optim_scheduler", "warmup_cosine", "cosine_restarts"),
    "optim_scheduler_warmup": _needs("optim_scheduler", "warmup_cosine"),
    "optim_scheduler_pct_start": _needs("optim_scheduler", "one_cycle_lr"),
    "optim_scheduler_num_cycles": _needs("optim_scheduler", "cosine_restarts"),
    "optim_scheduler_cycle_factor": _needs("optim_scheduler", "cosine_restarts"),
    "optim_scheduler_gamma": _needs("optim_scheduler", "multistep"),
    "optim_scheduler_milestones": _needs("optim_scheduler", "multistep"),
    "optim_swa_start": _needs("optim_swa_enabled", 1),
    "optim_swa_lr": _needs("optim_swa_enabled", 1),
    "optim_ema_bn_samples": (
        "--optim_ema_decay or --optim_swa_enabled 1",
        lambda flags: flags["optim_ema_decay"] > 0 or flags["optim_swa_enabled"] == 1,
    ),
    "tr_valid_raw": (
        "--optim_ema_decay or --optim_swa_enabled 1",
        lambda flags: flags["optim_ema_decay"] > 0 or flags["optim_swa_enabled"] == 1,
    ),
    **{
        name: _needs("sl_method", "smooth")
        for name in ("sl_smooth_kernel", "sl_smooth_unit", "sl_smooth_space", "sl_smooth_widths")
    },
    **{
        name: _needs("sl_method", "boosting")
        for name in ("sl_neighbors", "sl_rounds", "sl_patience", "sl_learning_rate")
    },
    "sl_num_leaves": _needs("sl_method", "boosting"),
    "sl_min_leaf": _needs("sl_method", "boosting"),
    "tr_focal_gamma": _needs("tr_loss", "focal"),
    "tr_features": (
        "--data_fold all",
        lambda flags: flags["data_fold"] == "all" or flags["tr_resume"] == 1,
    ),
    "pr_tta_mean": (
        "--pr_tta, --pr_tta_views or --data_fold all",
        lambda flags: (
            flags["pr_tta"] > 0 or flags["pr_tta_views"] is not None or flags["data_fold"] == "all"
        ),
    ),
    "data_transform_device": (
        "a GPU for the network (--device is cpu)",
        lambda flags: flags["data_transform_device"] != "auto" or flags["device"] != "cpu",
    ),
    "ens_power": _needs("ens_method", "power"),
    "ens_space": _needs("ens_method", "weights"),
    "ens_weight_sum_min": _needs("ens_method", "weights"),
    "ens_stack_c": _needs("ens_method", "stacking"),
    "stack_nested": (
        "--ens_method weights or stacking, or --ens_calibration",
        lambda flags: (
            flags["ens_method"] in ("weights", "stacking") or flags["ens_calibration"] != "none"
        ),
    ),
    **{
        name: _needs("pl_labels", "hard", "soft")
        for name in ("pl_predictions", "pl_positive", "pl_negative", "pl_partial", "pl_use_studies")
    },
    "pl_num_patients": _needs("pl_labels", "given"),
    "pr_precision": _needs("pr_engine", "openvino"),
    "tr_amp_dtype": (
        "--tr_use_amp 1",
        lambda flags: (
            flags["tr_use_amp"] == 1
            or (flags["tr_use_amp"] == AUTO and flags["tr_amp_dtype"] == "bf16")
        ),
    ),
    "mlflow_uri": _needs("mlflow_enabled", 1),
    "mlflow_enabled": (
        "--dev_enabled 0",
        lambda flags: flags["dev_enabled"] == 0 or flags["mlflow_enabled"] == 0,
    ),
    "tensorboard_enabled": _needs("dev_enabled", 0),
    "nml_enabled": _needs("dev_enabled", 0),
    "nml_project": _needs("nml_enabled", 1),
    "tr_valid_subset": (
        "--tr_iteration_valid and --tr_iteration_valid_full",
        lambda flags: flags["tr_iteration_valid"] > 0 and flags["tr_iteration_valid_full"] > 0,
    ),
    "cb_metrics_threshold": _needs("cb_metrics_enabled", 1),
    "cb_early_stopping_metric": (
        "--cb_early_stopping_patience",
        lambda flags: flags["cb_early_stopping_patience"] > 0,
    ),
    "cb_early_stopping_min_delta": (
        "--cb_early_stopping_patience",
        lambda flags: flags["cb_early_stopping_patience"] > 0,
    ),
    "cb_telemetry_module_name": _needs("cb_telemetry_enabled", 1),
    "cb_telemetry_log_every": _needs("cb_telemetry_enabled", 1),
    "pre_series_timeout_s": _OTHER_PROCESSES,
    "pre_series_memory_mb": _OTHER_PROCESSES,
    "dev_num_studies": _needs("dev_enabled", 1),
    "dev_iteration_num": _needs("dev_enabled", 1),
}


def refuse_unusable(flags: Mapping[str, Any]) -> None:
    """Raise InputError where flags (name to value) contradict each other."""
    if flags["data_leave_out_fold"] is not None and flags["net_model"].startswith(_STUDY):
        raise InputError(
            "--data_leave_out_fold is of slice models: a sequence network reads features of "
            "networks that saw that fold"
        )
    if flags["tr_resume"] and flags["experiment_id"] is None:
        raise InputError("--tr_resume 1 needs --experiment_id: say which experiment goes on")
    if flags["pr_engine"] == "openvino" and flags["device"] == "cuda":
        raise InputError("--pr_engine openvino runs on the CPU: leave --device cuda out")
    _refuse_study(flags)
    if not flags["tr_resume"]:
        _refuse_metrics(flags)
    start, num_steps = flags["optim_swa_start"], flags["tr_iteration_num"]
    if flags["optim_swa_enabled"] and start is not None and start >= num_steps:
        raise InputError(
            f"--optim_swa_start {start}: must be less than --tr_iteration_num {num_steps}, or "
            f"nothing is averaged"
        )


def _refuse_study(flags: Mapping[str, Any]) -> None:
    name = flags["net_model"]
    if not name.startswith((_STUDY, _JOINT, _BAG, _VOLUME)) or flags["tr_resume"]:
        return
    if name.startswith(_STUDY):
        if (flags["data_features"] is None) == (flags["net_encoder"] is None):
            raise InputError(
                f"--net_model {name} needs --data_features or --net_encoder, and not both: say "
                f"which slice experiments it sees the outputs of, such as 0003, or which frozen "
                f"encoder, such as tf_efficientnet_lite0"
            )
        if name == _LINEAR and not _FROM_FEATURES[1](flags):
            raise InputError(f"--net_model {name} needs features: give --net_study_inputs both")
    if flags["data_sampler"] is not None:
        raise InputError(
            f"--data_sampler {flags['data_sampler']}: draws slices, but --net_model {name} sees "
            f"whole series: leave the flag out"
        )


def _refuse_metrics(flags: Mapping[str, Any]) -> None:
    """Raise InputError where a flag names a metric that no validation reports."""
    task, has_rates = TASKS[flags["net_num_classes"]], bool(flags["cb_metrics_enabled"])
    known = validation_metrics(task, has_rates, flags["net_model"].startswith(_BAG))
    names = ["tr_best_metric"]
    if flags["cb_early_stopping_patience"]:
        names.append("cb_early_stopping_metric")
    for name in names:
        if flags[name] not in known:
            near = difflib.get_close_matches(flags[name], known, 5, cutoff=0.3)
            raise InputError(
                f"--{name} {flags[name]}: no validation reports it; "
                + (f"near are {', '.join(near)}" if near else f"known are {', '.join(known)}")
            )


def warn_about_flags(
    flags: Mapping[str, Any], given: Set[str], groups: Sequence[str], base_lr: float
) -> None:
    """Warn about flags that were given and do nothing, or are hardly meant.

    Args:
        base_lr: the learning rate that the schedule begins or peaks at.
    """
    for name in sorted(given & EFFECTIVE_WHEN.keys()):
        needs, has_effect = EFFECTIVE_WHEN[name]
        if not has_effect(dict(flags)):
            logger.warning("--%s has no effect without %s", name, needs)
    if "optimizer" in groups and not flags["tr_resume"]:
        _warn_unwise(flags, given, base_lr)


def _warn_unwise(flags: Mapping[str, Any], given: Set[str], base_lr: float) -> None:
    optim, num_steps = flags["optim"], flags["tr_iteration_num"]
    too_late = [step for step in flags["optim_scheduler_milestones"] if step >= num_steps]
    if too_late:
        logger.warning("--optim_scheduler_milestones: %s are never reached", too_late)
    if optim in ("sgd", "adam", "lars") and "optim_weight_decay" not in given:
        logger.warning(
            "--optim %s takes --optim_weight_decay %g as a part of the gradient, which is much: "
            "1e-4 is usual",
            optim,
            flags["optim_weight_decay"],
        )
    if optim == "lars" and base_lr < 0.05:
        logger.warning(
            "--optim lars changes weights by a thousandth of the learning rate a step: %g is "
            "little, 1 is usual",
            base_lr,
        )
