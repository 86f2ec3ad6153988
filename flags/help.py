"""The --help of each script: the flags that matter most, and examples; --help_all has all flags."""

from argparse import Action
from typing import Any, NamedTuple

from common.cli import script_command, script_name, shown_name

FULL_HELP = "--help_all"
HELP = ("-h", "--help", FULL_HELP)


class Help(NamedTuple):
    """Names of the flags that --help shows, and the arguments of examples; both in order."""

    flags: str
    examples: tuple[str, ...]


_DATA = "data_dataset data_input_folder"
_TRAIN = Help(
    f"{_DATA} data_fold data_train_transform data_sampler data_neighbors net_model net_pretrained "
    "optim optim_scheduler optim_scheduler_max_lr tr_iteration_num tr_batch_size tr_use_amp "
    "tr_resume pr_tta tensorboard_enabled experiment_id output_dir n_jobs device dev_enabled",
    (
        "--dev_enabled 1",
        "--data_dataset ct_ich --data_fold all --net_model resnet18",
        "--experiment_id 0001 --tr_resume 1",
    ),
)
SCRIPTS = {
    "train": _TRAIN,
    "demo": Help(_TRAIN.flags, ("", "--dev_enabled 1", "--net_model resnet18")),
    "preprocessing": Help(
        f"pre_source pre_folder pre_labels {_DATA} pre_num_folds pre_fold_by pre_valid_fraction "
        "pre_head_crop pre_brain_crop pre_spacing pre_size pre_brain_min pre_check pre_report "
        "pre_export pre_export_folder pre_address n_jobs",
        (
            "--pre_source demo",
            "--pre_source dicom --pre_folder input/scans --data_dataset own --n_jobs 8",
            "--data_dataset own --pre_check 1",
        ),
    ),
    "evaluate": Help(
        f"experiment_id pr_predictor output_dir {_DATA} ev_rule ev_prevalence ev_error ev_held_out "
        "pr_tta n_jobs device",
        (
            "--experiment_id 0001",
            "--experiment_id 0001 --ev_rule sensitivity:0.95 --ev_error 0.05 --ev_prevalence 0.1",
            "--experiment_id 0001 --data_dataset cq500",
            "--pr_predictor input/net --data_dataset cq500",
        ),
    ),
    "calibrate": Help(
        f"experiment_id pr_predictor output_dir {_DATA} ev_rule ev_prevalence ev_error ev_held_out "
        "cal_overwrite pr_tta n_jobs device",
        (
            "--experiment_id 0001 --data_dataset mine",
            "--experiment_id 0001 --data_dataset mine --ev_rule sensitivity:0.95 --ev_error 0.05",
            "--pr_predictor input/net --data_dataset mine --ev_held_out thirty.txt",
        ),
    ),
    "validate": Help(
        "experiment_id pr_predictor ev_datasets ev_protocol ev_held_out data_input_folder "
        "output_dir pr_tta n_jobs device",
        (
            "--experiment_id 0001 --ev_datasets cq500,ct_ich",
            "--experiment_id 0001 --ev_datasets cq500,ct_ich --ev_protocol protocol.yaml",
            "--experiment_id 0001 --ev_protocol protocol.yaml",
        ),
    ),
    "compare": Help(
        f"ev_experiments ev_margin ev_margin_score {_DATA} output_dir",
        (
            "--ev_experiments 0001,0002",
            "--ev_experiments 0001,0002,input/net --data_dataset cq500 --ev_margin 0.02",
        ),
    ),
    "drift": Help(
        "experiment_id pr_predictor dr_input dr_predictions dr_fit dr_false_alarms output_dir",
        (
            "--experiment_id 0001 --dr_input output/scans",
            "--pr_predictor input/net --dr_input output/last_year --dr_fit 1",
        ),
    ),
    "review": Help(
        f"experiment_id pr_predictor rv_predictions rv_num rv_ticks {_DATA} output_dir",
        (
            "--experiment_id 0001",
            "--rv_predictions output/scans --rv_num 20",
            "--experiment_id 0001 --rv_ticks ~/Downloads",
        ),
    ),
    "import_weights": Help(
        "im_source experiment_id output_dir",
        ("--im_source ianpan/ct-head-hemorrhage-detection", "--im_source input/release"),
    ),
    "export": Help(
        f"experiment_id pr_predictor {_DATA} output_dir n_jobs",
        ("--experiment_id 0001 --data_dataset ct_ich", "--pr_predictor input/net --data_dataset a"),
    ),
    "predict": Help(
        "experiment_id pr_predictor pr_input pr_output pr_overwrite pr_pages pr_dataframe "
        "pr_submit pr_tta pr_engine pr_precision output_dir n_jobs device",
        (
            "--experiment_id 0001 --pr_input input/scans --pr_output output/scans",
            "--experiment_id 0001 --pr_input input/scans.zip --pr_output output/scans --pr_tta 4",
        ),
    ),
    "deliver": Help(
        "experiment_id pr_predictor dl_input dl_output dl_heat_map dl_time dl_force dl_uid_root "
        "output_dir n_jobs device",
        (
            "--experiment_id 0001 --dl_input input/scans --dl_output output/results",
            "--pr_predictor input/net --dl_input scans.zip --dl_output results --dl_heat_map none",
        ),
    ),
    "worker": Help(
        "experiment_id pr_predictor wk_orthanc wk_watch wk_work wk_send wk_aet wk_admit "
        "wk_stable_s wk_shadow wk_keep_days wk_status wk_retry wk_metrics_port dl_heat_map "
        "output_dir",
        (
            "--experiment_id 0001 --wk_orthanc http://127.0.0.1:8042 --wk_work work "
            "--wk_send dicom:PACS@10.0.0.5:104",
            "--pr_predictor input/net --wk_watch input/scans --wk_work work --wk_shadow 1",
            "--wk_work work --wk_status 1",
            "--wk_work work --wk_retry all",
        ),
    ),
    "ensemble": Help(
        f"ens_experiments ens_method ens_space ens_calibration ens_studies stack_nested {_DATA} "
        "output_dir pr_dataframe pr_submit",
        (
            "--ens_experiments 0001,0002",
            "--ens_experiments 0001,0002 --ens_method weights --ens_calibration temperature",
        ),
    ),
    "lr_finder": Help(
        f"lrf_start_lr lrf_end_lr lrf_iteration_num {_DATA} data_fold net_model net_pretrained "
        "optim tr_batch_size tr_use_amp output_dir n_jobs device",
        ("", "--net_model resnet18 --tr_batch_size 32"),
    ),
    "second_level": Help(
        f"sl_experiments sl_method sl_smooth_kernel sl_smooth_unit sl_smooth_widths sl_neighbors "
        f"sl_rounds {_DATA} output_dir",
        ("--sl_experiments 0003", "--sl_experiments 0003,0004 --sl_method boosting"),
    ),
    "pseudo_label": Help(
        "experiment_id pr_predictor pl_name pl_source pl_predictions pl_labels pl_positive "
        f"pl_negative pl_use_studies {_DATA}",
        ("--pl_name more --pl_source unlabelled --pl_predictions output/p/predictions.parquet",),
    ),
    "resend": Help(
        "experiment_id output_dir mlflow_uri tensorboard_enabled nml_enabled",
        ("--experiment_id 0001",),
    ),
    "monitor": Help(
        "experiment_id output_dir mlflow_uri mon_port",
        ("", "--experiment_id 0001", "--mon_port 5000"),
    ),
    "doctor": Help("data_input_folder output_dir net_model device", ("", "--device cuda")),
}


def prepare_help(parser: Any, is_full: bool) -> None:
    """Let `parser` show its script's main flags and examples, or all flags."""
    from jsonargparse import DefaultHelpFormatter

    script = SCRIPTS.get(script_name())
    shown = None if is_full or script is None else {"help", "config", *script.flags.split()}

    class Formatter(DefaultHelpFormatter):
        """Leaves out other flags; keeps the lines of the examples as they are."""

        def add_argument(self, action: Action) -> None:
            if shown is None or action.dest in shown or FULL_HELP in action.option_strings:
                super().add_argument(action)

        def _fill_text(self, text: str, width: int, indent: str) -> str:
            return "\n".join(indent + line for line in text.splitlines())

    parser.formatter_class = Formatter
    parser.prog = shown_name()
    parser.usage = "%(prog)s [--flag value ...]"
    if script is not None:
        commands = [script_command(*example.split()) for example in script.examples]
        parser.epilog = "\n  ".join(["examples:", *commands])
