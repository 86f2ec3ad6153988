import dataclasses

import pytest
import yaml

import config as config_module
import flags.combinations
from common.cli import status_of
from common.errors import CheckFailed, InputError, Interrupted
from config import GROUPS, Config, parse_config, recorded_config, resumed_config
from flags.parsing import ids_in

TRAIN = ("general", "data", "network", "optimizer", "training", "views", "callbacks", "monitor")


def parse(*argv: str, groups=TRAIN) -> Config:
    return parse_config("Test.", groups, argv)


def test_defaults_and_values():
    config = parse("--data_fold", "3", "--experiment_id", "0012", "--tr_use_amp", "1")
    assert config.data.data_fold == 3
    assert config.general.experiment_id == "0012"
    assert config.given == {"data_fold", "experiment_id", "tr_use_amp"}
    assert config.general.seed == 4667


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--tr_batch_size", "0"), r"--tr_batch_size 0: must be at least 1"),
        (("--seed", str(2**63)), r"--seed 9223372036854775808: must be from 0"),
        (("--tr_batch_size", "many"), r"--tr_batch_size many: must be a whole number"),
        (("--data_fold", "-1"), r"--data_fold -1: must be at least 0"),
        (("--optim", "lion"), r"--optim lion: must be one of sgd, adam, adamw, radam, lamb, lars"),
        (("--optim_layer_decay", "0"), r"--optim_layer_decay 0.*greater than 0, at most 1"),
        (("--optim_scheduler", "multistep"), r"--optim_scheduler_milestones.*for multistep"),
        (("--optim_scheduler_milestones", "[9,9]"), r"milestones \[9, 9\]: must be rising"),
        (("--optim_scheduler_num_cycles", "0"), r"--optim_scheduler_num_cycles 0.*at least 1"),
        (
            ("--optim_scheduler", "cosine_restarts", "--optim_scheduler_min_lr", "1"),
            r"--optim_scheduler_min_lr 1.0: must be at most --optim_scheduler_max_lr",
        ),
        (("--optim_swa_enabled", "1", "--optim_swa_start", "400"), r"less than --tr_iteration_num"),
        (
            ("--optim_swa_enabled", "1", "--optim_ema_bn_samples", "0"),
            r"--optim_ema_bn_samples 0: must be greater than 0 with SWA",
        ),
        (("--tr_focal_gamma", "-1"), r"--tr_focal_gamma -1.0: must be at least 0"),
        (("--optim_ema_decay", "1"), r"--optim_ema_decay 1.*less than 1"),
        (("--data_sampler_pos_end", "0.5"), r"--data_sampler_pos_end 0.5: .*pos_start 0.4"),
        (("--data_sampler_pos_start", "1"), r"--data_sampler_pos_start 1.*less than 1"),
        (("--net_num_classes", "2"), r"--net_num_classes 2: must be 6 .* or 1 \(any alone\)"),
        (("--experiment_id", "0001/fold"), r"or 0001/fold_2 for one of all folds"),
        (("--pr_tta_views", "flip_lr,mirror"), r"mirror is no view"),
        (("--tr_best_metric", "sharpness"), r"--tr_best_metric sharpness: no validation .*auc"),
        (("--tr_iteration_valid_full", "10"), r"--tr_iteration_valid_full 10: must be 0, or at"),
        (("--tr_valid_subset", "0"), r"--tr_valid_subset 0: must be at least 1"),
        (("--tr_max_hours", "-1"), r"--tr_max_hours -1.0: must be at least 0"),
        (
            ("--cb_early_stopping_patience", "1", "--cb_early_stopping_metric", "auc"),
            r"--cb_early_stopping_metric auc: no validation reports it; near are auc.any",
        ),
        (("--cb_metrics_threshold", "2"), r"--cb_metrics_threshold 2.0: must be from 0 to 1"),
        (("--cb_telemetry_enabled", "1"), r"needs --cb_telemetry_module_name"),
        (("--cb_telemetry_log_every", "0"), r"--cb_telemetry_log_every 0: must be at least 1"),
        (("--data_fold", "x"), r"^--data_fold x: must be a whole number or all$"),
        (("--data_fold", "yes"), r"^--data_fold True: must be a whole number or all$"),
        (("--data_fold", "1.5"), r"^--data_fold 1.5: must be a whole number or all$"),
        (("--data_fold", ""), r'^--data_fold "": must be a whole number or all$'),
        (("--tr_batch_size", ""), r'^--tr_batch_size "": must be a whole number$'),
        (("--optim_lr=",), r'^--optim_lr "": must be a number$'),
        (("--optim", ""), r'^--optim "": must be one of sgd, '),
        (("--experiment_id", ""), r'^--experiment_id "": must be letters'),
        (("--config", ""), r'^--config "": Is a directory: name a YAML file$'),
        (
            ("--tr-batch-size", "3"),
            r"^--tr-batch-size is no flag .*: did you mean --tr_batch_size\?",
        ),
        (("--data_img_size", "1000000"), r"^--data_img_size 1000000: must be from 0 to 4096$"),
        (("--data_leave_out_fold", "x"), r"^--data_leave_out_fold x: must be a whole number$"),
        (("--data_sampler", "even"), r"^--data_sampler even: must be one of balanced, pos_range, "),
        (("--tr_use_amp", "2"), r"^--tr_use_amp 2: must be one of auto, 0, 1$"),
        (("--tr_amp_dtype", "fp8"), r"^--tr_amp_dtype fp8: must be bf16 or fp16$"),
        (("--optim_lr", "fast"), r"^--optim_lr fast: must be a number$"),
        (("--optim_lr", ".inf"), r"^--optim_lr inf: must be a finite number$"),
        (("--net_weight_file",), r"^--net_weight_file: needs a value: text$"),
        (
            ("--optim_scheduler_milestones", "a"),
            r"milestones a: must be a list such as \[200,300\]",
        ),
        (("--optim_scheduler_milestones", "[a]"), r"milestones \W*a\W*: must be a list such as"),
        (("stray",), r"^stray: is no flag"),
        (("--tr_resume", "1"), r"--tr_resume 1 needs --experiment_id"),
        (("--data_dataset", "../x"), r"--data_dataset \.\./x: must be"),
        (("--experiment_id", "../x"), r"--experiment_id \.\./x: must be"),
        (("--no_such_flag", "1"), r"--no_such_flag"),
        (("--config", "/no/such.yaml"), r"/no/such.yaml"),
    ],
)
def test_wrong_value_names_flag_value_and_rule(argv, message):
    with pytest.raises(InputError, match=message):
        parse(*argv)


def test_flags_without_effect_warn(caplog):
    parse("--optim_momentum", "0.5", "--tr_amp_dtype", "fp16")
    assert "--optim_momentum has no effect without --optim sgd" in caplog.text
    assert "--tr_amp_dtype has no effect" in caplog.text
    caplog.clear()
    parse("--optim", "sgd", "--optim_momentum", "0.5", "--optim_weight_decay", "1e-4")
    assert not caplog.text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--optim", "lars"), "--optim lars changes weights by a thousandth"),
        (("--optim", "adam"), "--optim adam takes --optim_weight_decay 0.05"),
        (
            ("--optim_scheduler", "multistep", "--optim_scheduler_milestones", "[9,500]"),
            r"--optim_scheduler_milestones: [500] are never reached",
        ),
        (("--optim_swa_lr", "1"), "--optim_swa_lr has no effect without --optim_swa_enabled 1"),
        (("--optim_scheduler_gamma", "1"), "no effect without --optim_scheduler multistep"),
        (("--optim_lr", "1"), "no effect without --optim_scheduler constant or multistep"),
        (("--tr_focal_gamma", "1"), "--tr_focal_gamma has no effect without --tr_loss focal"),
        (("--tr_valid_raw", "0", "--optim_ema_decay", "0"), "--tr_valid_raw has no effect"),
    ],
)
def test_flags_of_the_optimizer_that_are_hardly_meant_warn(argv, message, caplog):
    parse(*argv)
    assert message in caplog.text


@pytest.mark.parametrize(
    ("flags", "start"),
    [
        ((), None),
        (("--optim_swa_enabled", "1"), 195),
        (("--optim_swa_enabled", "1", "--tr_iteration_num", "40"), 30),
        (("--optim_swa_enabled", "1", "--tr_iteration_num", "1"), 0),
        (("--optim_swa_enabled", "1", "--dev_enabled", "1"), 15),
        (("--optim_swa_enabled", "1", "--optim_swa_start", "7"), 7),
        (("--optim_swa_enabled", "1", "--optim_swa_start", "130", "--dev_enabled", "1"), 10),
    ],
)
def test_swa_averages_over_the_last_quarter_by_default(flags, start):
    config = parse(*flags)
    assert config.swa_start == start
    assert start is None or start < config.iteration_num


def test_dev_mode_keeps_the_shares_of_the_schedule():
    flags = ("--optim_swa_enabled", "1", "--optim_swa_start", "200")
    assert parse(*flags).dev_scaled(200) == 200
    assert parse(*flags, "--dev_enabled", "1").dev_scaled(195) == 15


@pytest.mark.parametrize(
    ("flags", "needs"),
    [
        (("--tr_valid_subset", "8"), "--tr_iteration_valid and --tr_iteration_valid_full"),
        (("--cb_early_stopping_min_delta", "0.1"), "--cb_early_stopping_patience"),
        (("--cb_early_stopping_metric", "auc.any"), "--cb_early_stopping_patience"),
        (("--cb_telemetry_module_name", "head"), "--cb_telemetry_enabled 1"),
        (("--cb_telemetry_log_every", "5"), "--cb_telemetry_enabled 1"),
        (("--cb_metrics_enabled", "0", "--cb_metrics_threshold", "0.3"), "--cb_metrics_enabled 1"),
        (("--nml_project", "a/b"), "--nml_enabled 1"),
        (("--tensorboard_enabled", "1", "--dev_enabled", "1"), "--dev_enabled 0"),
    ],
)
def test_watching_flags_without_effect_warn(caplog, flags, needs):
    parse(*flags)
    assert f"has no effect without {needs}" in caplog.text


def test_the_maximum_time_may_change_on_resume():
    assert "tr_max_hours" in config_module.FREE_ON_RESUME
    assert "tr_best_metric" not in config_module.FREE_ON_RESUME


def test_flag_names_are_unique_and_every_one_has_help(capsys):
    names = [field.name for kind in GROUPS.values() for field in dataclasses.fields(kind)]
    assert len(names) == len(set(names))
    with pytest.raises(SystemExit):
        parse("--help", groups=tuple(GROUPS))
    text = capsys.readouterr().out
    for name in names:
        assert f"--{name}" in text
    assert "an iteration is an optimizer step" in text.lower()
    assert "Seed of everything random" in text


def test_yaml_gives_defaults_and_flags_win(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("tr_batch_size: 7\ndata_fold: 2\n")
    config = parse("--config", str(path), "--data_fold", "1")
    assert (config.training.tr_batch_size, config.data.data_fold) == (7, 1)
    assert "tr_batch_size" in config.given


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "net_modle: resnet18",
            "net_modle: resnet18: there is no such flag; did you mean net_model?",
        ),
        ("net_drop_rate: 2", "--net_drop_rate 2.0: must be from 0 to 1"),
        ("tr_iteration_num: many", "--tr_iteration_num many: must be a whole number"),
        ("tr_iteration_num: null", "--tr_iteration_num null: must be a whole number"),
        ("experiment_id: 0007", "--experiment_id 7: must be text: put it in quotes"),
        ("data_fold: x", "--data_fold x: must be a whole number or all"),
        ("tr_best_metric: auc", "--tr_best_metric auc: no validation reports it; near are auc.any"),
        ("optim_swa_enabled: 1\noptim_swa_start: 400", "--optim_swa_start 400: must be less than"),
    ],
)
def test_an_error_in_a_file_names_file_key_value_and_rule(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text("seed: 5\n" + text)
    with pytest.raises(InputError) as error:
        parse("--config", str(path), "--tr_batch_size", "3")
    assert str(error.value).startswith(f"{path}: {message}")


def test_a_flag_that_stands_twice_in_a_file_is_refused(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("seed: 5\ntr_batch_size: 3\nseed: 6\n")
    with pytest.raises(InputError, match=f"--config {path}: seed stands there twice: remove one"):
        parse("--config", str(path))


def test_an_error_on_the_command_line_is_not_of_the_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("net_drop_rate: 0.5\ntr_iteration_num: 9\n")
    for argv in (["--net_drop_rate", "2"], ["--tr_iteration_num=many"]):
        with pytest.raises(InputError, match=r"^--(net_drop_rate 2|tr_iteration_num many)"):
            parse(f"--config={path}", *argv)


@pytest.mark.parametrize("content", [b"", b"a: [1", b"- 1", b"text", b"\xff\xfe\x00"])
def test_a_file_that_holds_no_flags_is_refused(tmp_path, content):
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^--config {path}.*write lines of `flag: value`"):
        parse("--config", str(path))


def test_dev_mode_does_not_shorten_what_is_asked_for(tmp_path, caplog):
    assert parse("--dev_enabled", "1").iteration_num == 20
    asked = parse("--dev_enabled", "1", "--tr_iteration_num", "300")
    assert asked.iteration_num == 300
    # A resumed training reads the same from its record.
    folder = tmp_path / "results" / "0001"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(asked.to_yaml())
    assert recorded_config(folder).iteration_num == 300
    both = parse("--dev_enabled", "1", "--tr_iteration_num", "300", "--dev_iteration_num", "7")
    assert both.iteration_num == 7
    path = tmp_path / "run.yaml"
    path.write_text("tr_iteration_num: 300\n")
    assert not caplog.text
    assert parse("--dev_enabled", "1", "--config", str(path)).iteration_num == 20
    assert "--dev_enabled 1 trains 20 iterations, not the 300 of the --config file" in caplog.text


def test_flags_win_over_yaml_wherever_they_stand(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("tr_batch_size: 7\ndata_fold: 2\n")
    for config in (("--config", str(path)), (f"--config={path}",)):
        flags = parse("--data_fold", "1", *config)
        assert (flags.training.tr_batch_size, flags.data.data_fold) == (7, 1)


def test_the_yaml_of_an_experiment_serves_every_script(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(parse("--tr_batch_size", "5", "--data_fold", "2").to_yaml())
    assert parse("--config", str(path)).training.tr_batch_size == 5
    config = parse("--config", str(path), groups=("general", "data"))
    assert config.data.data_fold == 2
    assert "tr_batch_size" not in config.given
    path.write_text("tr_batchsize: 5\n")
    with pytest.raises(InputError, match="tr_batchsize"):
        parse("--config", str(path))


def _experiment(tmp_path, *argv: str):
    config = parse("--output_dir", str(tmp_path), *argv)
    folder = config.experiment_folder("0001")
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config.to_yaml())
    return folder


def test_recorded_flags_come_back(tmp_path):
    folder = _experiment(tmp_path, "--tr_batch_size", "5", "--optim", "sgd")
    flags = recorded_config(folder).flags()
    assert flags["tr_batch_size"] == 5
    assert flags["optim"] == "sgd"
    (folder / "config.yaml").write_text(yaml.safe_dump({"what": 1}))
    with pytest.raises(InputError, match="unknown flags what"):
        recorded_config(folder)


def test_resume_takes_recorded_flags_and_refuses_others(tmp_path):
    _experiment(tmp_path, "--tr_batch_size", "5")
    asked = ("--output_dir", str(tmp_path), "--experiment_id", "0001", "--tr_resume", "1")
    config = resumed_config(parse(*asked, "--n_jobs", "3", "--tr_batch_size", "5"))
    assert config.training.tr_batch_size == 5
    assert config.general.n_jobs == 3
    with pytest.raises(InputError, match="--tr_batch_size 6: experiment 0001 was started with 5"):
        resumed_config(parse(*asked, "--tr_batch_size", "6"))


def test_missing_experiment_is_named(tmp_path):
    with pytest.raises(InputError, match="no experiment at"):
        config = parse("--output_dir", str(tmp_path), "--experiment_id", "0009")
        config.existing_experiment_folder()


def test_dev_mode_limits_iterations():
    assert parse("--dev_enabled", "1").iteration_num == 20
    assert parse("--dev_enabled", "1", "--dev_iteration_num", "9").iteration_num == 9
    assert parse("--dev_enabled", "1", "--tr_iteration_num", "20").iteration_num == 20


def test_flags_that_tables_name_exist():
    names = {field.name for kind in GROUPS.values() for field in dataclasses.fields(kind)}
    assert names >= flags.combinations.EFFECTIVE_WHEN.keys()
    assert names >= config_module.FREE_ON_RESUME


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (InputError("a\nb"), 2, "error: a b"),
        (CheckFailed(["one", "two"]), 3, "one\ntwo"),
        (Interrupted(2, "go on"), 130, "go on"),
        (Interrupted(15), 143, ""),
        (KeyboardInterrupt(), 130, ""),
        (OSError(28, "full", "x.pt"), 2, "the disk is full (x.pt)"),
        (PermissionError(13, "no", "y.csv"), 2, "permission denied (y.csv)"),
        (FloatingPointError("the loss is not finite"), 2, "error: the loss is not finite"),
        (RuntimeError("bug"), 1, ""),
        (None, 0, ""),
    ],
)
def test_exit_statuses(error, status, text, capsys):
    def main() -> None:
        if error is not None:
            raise error

    assert status_of(main) == status
    assert text in capsys.readouterr().err


def test_an_experiment_without_its_flags_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"config\.yaml can't be read as flags"):
        recorded_config(tmp_path)
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"config\.yaml can't be read as flags"):
        recorded_config(tmp_path)
    for text in ("", "- tr_batch_size\n", "tr_batch_size 5\n"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(InputError, match="holds no lines of `flag: value`"):
            recorded_config(tmp_path)


@pytest.mark.parametrize(
    ("groups", "names"),
    [
        (TRAIN, ("n_jobs", "tr_batch_size_valid", "tr_use_amp", "tr_compile", "tr_pin_memory")),
        (("general", "preprocessing"), ("n_jobs",)),
        (("general", "prediction"), ("n_jobs", "tr_batch_size_valid")),
    ],
)
def test_print_config_shows_what_auto_stands_for(capsys, groups, names):
    with pytest.raises(SystemExit):
        parse("--print_config", "--device", "cpu", groups=groups)
    shown = yaml.safe_load(capsys.readouterr().out)
    assert all(isinstance(shown[name], int) for name in names)
    every = {item.name for group in groups for item in dataclasses.fields(GROUPS[group])}
    assert set(shown) == every, "flags that were not given are shown too"
    with pytest.raises(SystemExit):
        parse("--print_config=skip_default", "--n_jobs", "0", "--device", "cpu", groups=groups)
    assert yaml.safe_load(capsys.readouterr().out)["n_jobs"] == 0


def test_auto_on_a_resume_is_what_was_recorded(tmp_path):
    _experiment(tmp_path, "--tr_use_amp", "1", "--tr_batch_size_valid", "8", "--n_jobs", "3")
    asked = ("--output_dir", str(tmp_path), "--experiment_id", "0001", "--tr_resume", "1")
    assert resumed_config(parse(*asked)).general.n_jobs == 3
    config = resumed_config(parse(*asked, "--tr_use_amp", "auto", "--n_jobs", "auto"))
    assert (config.training.tr_use_amp, config.general.n_jobs) == (1, "auto")
    assert config.general.tr_batch_size_valid == 8
    with pytest.raises(InputError, match="--tr_use_amp 0: experiment 0001 was started with 1"):
        resumed_config(parse(*asked, "--tr_use_amp", "0"))
    # Other bits, but not another experiment; what compiles may be missing on another machine.
    assert resumed_config(parse(*asked, "--tr_compile", "0")).training.tr_compile == 0


def test_ids_are_a_list_or_a_file_that_is_there(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("a\nb, c\n")
    assert ids_in("ev_held_out", str(path)) == ids_in("ev_held_out", "a,b,c") == {"a", "b", "c"}
    assert ids_in("pre_select", "1.2.840.1") == {"1.2.840.1"}
    with pytest.raises(InputError, match=r"--ev_held_out .*id\.txt: no such file"):
        ids_in("ev_held_out", str(tmp_path / "id.txt"))
