"""The list of flags is frozen, and all of them together still make a run that can be used."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_dataset import make_tiny_dataset

from common.optim.optimizers import OPTIMIZERS
from config import GROUPS, Config, recorded_config
from flags.optimizer import OptimizerConfig
from rsna_model import RSNAModel
from train import GROUPS as TRAIN_GROUPS

FLAGS_FILE = Path(__file__).parent / "saved" / "flags.txt"

# Of the flags that train.py has, what each is changed to; `{place}` is the test's folder.
CHANGED = {
    "experiment_id": "all",
    "seed": 7,
    "dev_enabled": 1,
    "dev_num_studies": 8,
    "dev_iteration_num": 6,
    "n_jobs": 1,
    "device": "cpu",
    "output_dir": "{place}/output",
    "data_dataset": "tiny",
    "data_fold": 1,
    "data_leave_out_fold": 2,
    "data_input_folder": "{place}/input",
    "data_train_transform": "train_intermediate",
    "data_valid_transform": "validate_simple",
    "data_test_transform": "test_simple",
    "data_sampler": "pos_range",
    "data_sampler_pos_start": 0.6,
    "data_sampler_pos_end": 0.5,
    "data_sampler_num_slices": 2,
    "data_img_size": 64,
    "data_transform_device": "cpu",
    "data_neighbors": 1,
    "data_neighbor_mm": 5.0,
    "data_neighbor_end": "air",
    "data_features": "0003,0004",
    "data_study_thin": 0.5,
    "data_study_reverse": 0.0,
    "data_study_crop": 24,
    "data_bag_slices": 8,
    "data_volume_spacing": 0.5,
    "net_model": "test_efficientnet",
    "net_pretrained": 0,
    "net_weight_file": "{place}/weights.pt",
    "net_num_classes": 1,
    "net_drop_rate": 0.1,
    "net_num_dropouts": 3,
    "net_pooling": "concat",
    "net_head": "mlp",
    "net_drop_path_rate": 0.1,
    "net_study_inputs": "both",
    "net_study_dim": 64,
    "net_study_hidden": 32,
    "net_study_layers": 1,
    "net_study_heads": 2,
    "net_study_feature_drop": 0.2,
    "net_study_metadata": 0,
    "net_study_auxiliary": 0.5,
    "net_encoder": "test_resnet",
    "net_encoder_frozen": 1,
    "net_encoder_slices": 4,
    "net_encoder_checkpoint": 1,
    "net_bag_pooling": "max",
    "net_volume_width": 16,
    "net_volume_mm": 4.0,
    "optim": "sgd",
    "optim_lr": 1e-3,
    "optim_momentum": 0.8,
    "optim_nesterov": 1,
    "optim_weight_decay": 1e-4,
    "optim_layer_decay": 0.9,
    "optim_lookahead_enabled": 1,
    "optim_ema_decay": 0.9,
    "optim_ema_bn_samples": 8,
    "optim_swa_enabled": 1,
    "optim_swa_start": 4,
    "optim_swa_lr": 1e-4,
    "optim_scheduler": "multistep",
    "optim_scheduler_max_lr": 1e-3,
    "optim_scheduler_min_lr": 1e-5,
    "optim_scheduler_pct_start": 0.2,
    "optim_scheduler_warmup": 0.2,
    "optim_scheduler_num_cycles": 2,
    "optim_scheduler_cycle_factor": 2.0,
    "optim_scheduler_gamma": 0.5,
    "optim_scheduler_milestones": "[3]",
    "tr_use_amp": 1,
    "tr_amp_dtype": "bf16",  # fp16 is refused on a CPU
    "tr_iteration_num": 6,
    "tr_batch_size": 3,
    "tr_batch_size_valid": 5,
    "tr_accumulation_step": 2,
    "tr_clip_norm": 0.5,
    "tr_iteration_valid": 2,
    "tr_iteration_valid_full": 4,
    "tr_valid_subset": 2,
    "tr_iteration_checkpoint": 1,
    "tr_num_best": 2,
    "tr_best_metric": "loss",
    "tr_max_hours": 1e-9,
    "tr_valid_raw": 0,
    "tr_loss": "focal",
    "tr_focal_gamma": 1.0,
    "tr_any_weight_schedule": 1,
    "tr_label_smoothing": 0.05,
    "tr_channels_last": 0,
    "tr_compile": 1,
    "tr_tf32": 1,
    "tr_pin_memory": 1,
    "tr_deterministic": 1,
    "tr_sync_bn": 1,
    "tr_features": 0,
    "pr_tta": 1,
    "pr_tta_views": "flip_lr",
    "pr_tta_mean": "probabilities",
    "cb_metrics_enabled": 0,
    "cb_metrics_threshold": 0.4,
    "cb_early_stopping_patience": 9,
    "cb_early_stopping_metric": "loss",
    "cb_early_stopping_min_delta": 0.01,
    "cb_outputs_num": 2,
    "cb_learning_rates_enabled": 1,
    "cb_device_memory_enabled": 0,
    "cb_telemetry_enabled": 1,
    "cb_telemetry_module_name": "backbone.conv_stem",
    "cb_telemetry_log_every": 2,
    "mlflow_enabled": 0,
    "mlflow_uri": "sqlite:///{place}/other.db",
    "tensorboard_enabled": 1,
}
# tr_resume comes second; Neptune's client is not a requirement of the tests.
LEFT_OUT = {"tr_resume", "nml_enabled", "nml_project"}


def test_the_list_of_flags_is_frozen():
    assert list(Config().flags()) == FLAGS_FILE.read_text().split(), (
        "flags are an interface: say in docs/decisions.md what changed, then change the file"
    )


def test_every_flag_of_a_training_is_changed_below():
    flags = {name for group in TRAIN_GROUPS for name in GROUPS[group].__dataclass_fields__}
    assert CHANGED.keys() == flags - LEFT_OUT
    default = Config().flags()
    same = {name for name, value in CHANGED.items() if value == default[name]}
    assert same == {"tr_amp_dtype"}


@pytest.mark.long
def test_a_run_with_every_flag_changed_resumes_evaluates_and_predicts(
    project_root: Path, tmp_path: Path
) -> None:
    def run(script: str, *flags: str) -> tuple[int, str]:
        # Compiling takes minutes; what else the flag does happens all the same.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}
        result = subprocess.run(
            [sys.executable, script, *flags],
            cwd=project_root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return result.returncode, result.stderr

    make_tiny_dataset(tmp_path / "input" / "datasets" / "tiny", num_patients=12, num_folds=3)
    model = RSNAModel("test_efficientnet", 1, in_chans=9, pooling="concat", head="mlp")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    values = {name: str(value).format(place=tmp_path) for name, value in CHANGED.items()}
    places = [f"--{name}={values[name]}" for name in ("output_dir", "data_input_folder")]

    status, log = run("train.py", *(f"--{name}={value}" for name, value in values.items()))
    assert status == 143, log
    assert "--tr_resume 1" in log
    folder = tmp_path / "output" / "results" / "all"
    recorded = recorded_config(folder).flags()
    assert all(str(recorded[name]) == str(value).replace("'", "") for name, value in values.items())

    again = ["--experiment_id=all", "--tr_resume=1", "--tr_max_hours=0", *places]
    status, log = run("train.py", *again)
    assert status == 0, log
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["iteration"] == 6

    status, log = run("evaluate.py", "--experiment_id=all", *places)
    assert status == 0, log
    assert json.loads((folder / "metrics.json").read_text())["weighted_log_loss"] > 0

    dataset, out = tmp_path / "input" / "datasets" / "tiny", tmp_path / "predictions"
    flags = [f"--pr_input={dataset}", f"--pr_output={out}", "--pr_tta=1", places[0]]
    status, log = run("predict.py", "--experiment_id=all", *flags)
    assert status == 0, log
    assert (out / "predictions.parquet").is_file()


def test_every_optimizer_can_be_named():
    for name in OPTIMIZERS:
        assert OptimizerConfig(optim=name).optim == name
