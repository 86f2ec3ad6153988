"""The recipes: what they ask for exists, stages are skipped and resumed, tiny ones run whole."""

import importlib.util
import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from blend_factory import make_members
from dicom_factory import write_ct

import ensemble
from common.cli import status_of
from common.errors import InputError
from common.predictors.blend import BlendPredictor
from common.predictors.loading import load_predictor
from common.predictors.second_level import SecondLevelPredictor
from common.slices.folds import read_folds
from common.slices.leakage import folds_digest
from common.slices.table import SliceTable
from common.transforms import load_transform
from config import parse_config
from rsna.sources.cq500 import FINDINGS, READERS
from rsna.sources.demo import DemoParameters, write_demo
from rsna_model import ALIASES, build_model
from rsna_task import LABELS
from scripts import second_level

FOLDER = Path(__file__).resolve().parents[2] / "recipes"
# Recipe -> the variants that its variables choose.
RECIPES = {
    "appian": ({"BACKBONES": "se50 se101"},),
    "takmanman": ({},),
    "rsna_hemorrhage": ({"NETWORKS": "se50 b0 b2 b5"},),
    "first_place": ({"EXTRA_3D": "1"},),
    "efficientnet_d4": ({},),
    "best": ({"SIZE": "small"}, {"SIZE": "large"}),
    "ct_ich": ({}, {"START": "model.pt", "NETWORK": "--net_model resnet18 --data_neighbors 1"}),
}
BLENDED = {
    "appian": "appian",
    "rsna_hemorrhage": "rsna_hemorrhage",
    "first_place": "first_place",
    "efficientnet_d4": "efficientnet_d4",
    "best": "best-small",
}
TRAIN = "train.py"
DATA_FLAGS = {"data_train_transform", "data_valid_transform", "data_test_transform"}


def shell(recipe: str, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "RECIPE_PYTHON": sys.executable, **variables}
    return subprocess.run(
        ["bash", str(FOLDER / f"{recipe}.sh"), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@cache
def commands(recipe: str, variables: tuple[tuple[str, str], ...]) -> list[list[str]]:
    """What a first run would do, as lists of arguments."""
    result = shell(recipe, RECIPE_DRY="1", **dict(variables))
    assert result.returncode == 0, result.stderr
    found = [shlex.split(line) for line in result.stdout.splitlines()]
    # Scripts in scripts/ are started as modules.
    return [
        [f"{words[1].replace('.', '/')}.py", *words[2:]] if words[0] == "-m" else words
        for words in found
    ]


def cases() -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
    for recipe, variants in RECIPES.items():
        for variant in variants:
            yield recipe, tuple(variant.items())


def groups_of(script: str) -> tuple[str, ...]:
    """The groups of flags that a script hands to `parse_config`."""
    seen: list[tuple[str, ...]] = []

    class Seen(Exception):
        pass

    def record(description: str, groups: tuple[str, ...], argv: object = None) -> None:
        seen.append(tuple(groups))
        raise Seen

    module = load_module(FOLDER.parent / script)
    module.parse_config = record
    with pytest.raises(Seen):
        module.main()
    return seen[0]


groups_of = cache(groups_of)


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"of_recipes_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def flags_of(arguments: list[str]) -> dict[str, str]:
    names, values = arguments[::2], arguments[1::2]
    assert all(name.startswith("--") for name in names) and len(names) == len(values)
    return {name[2:]: value for name, value in zip(names, values)}


@pytest.mark.parametrize(("recipe", "variables"), cases(), ids=str)
def test_every_flag_is_known_and_has_an_effect(recipe, variables, caplog):
    """Of commands with the same flags one is parsed, as parsing takes a fifth of a second."""
    seen = set()
    with caplog.at_level(logging.WARNING):
        for script, *arguments in commands(recipe, variables):
            key = script, tuple(arguments[::2])
            if not script.startswith(("recipes/", "benchmarks/")) and key not in seen:
                seen.add(key)
                parse_config("Test.", groups_of(script), arguments)
    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.parametrize(("recipe", "variables"), cases(), ids=str)
def test_networks_and_transforms_exist(recipe, variables):
    import timm

    trainings = [flags_of(rest) for script, *rest in commands(recipe, variables) if script == TRAIN]
    ids = [flags["experiment_id"] for flags in trainings]
    assert ids and len(ids) == len(set(ids)) and all(name.startswith(recipe) for name in ids)
    for flags in trainings:
        name = ALIASES.get(flags["net_model"], flags["net_model"])
        if not name.startswith(("study-", "volume-")):
            assert timm.is_model_pretrained(name), name
        for flag in DATA_FLAGS & flags.keys():
            transform = load_transform(FOLDER.parent / "transforms" / f"{flags[flag]}.json")
            assert transform.is_deterministic == (flag == "data_valid_transform")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.sh")), ids=lambda path: path.stem)
def test_shell_is_sound(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert path.name == "common.sh" or os.access(path, os.X_OK)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    scripts = sorted(str(path) for path in FOLDER.glob("*.sh"))
    subprocess.run(["shellcheck", "-x", *scripts], cwd=FOLDER.parent, check=True)


STUB = """#!/usr/bin/env bash
echo "$*" >>"$OUTPUT/calls"
before=
for argument in "$@"; do
    [[ $before == --experiment_id ]] && id=$argument
    [[ $before == --pr_output ]] && submission=$argument
    before=$argument
done
case $1 in
recipes/training_rows.py) echo "1000 30"; exit ;;
preprocessing.py)
    mkdir -p "$INPUT/datasets/demo" && touch "$INPUT/datasets/demo/manifest.json"; exit ;;
evaluate.py | recipes/*) exit ;;
esac
mkdir -p "$OUTPUT/results/$id/checkpoints"
if [[ $id == "${STOP_AT:-}" ]]; then
    [[ -n ${SAVED:-} ]] && touch "$OUTPUT/results/$id/checkpoints/last.pt"
    exit 143
fi
mkdir -p "$OUTPUT/results/$id/predictor" && touch "$OUTPUT/results/$id/predictor/predictor.json"
touch "$OUTPUT/results/$id/report.html"
if [[ -n ${submission:-} ]]; then mkdir -p "$submission" && touch "$submission/submission.csv"; fi
"""


class Stage:
    """Runs recipes with a stand-in for Python that notes what it is asked to do."""

    def __init__(self, folder: Path) -> None:
        self._python = folder / "python"
        self._python.write_text(STUB)
        self._python.chmod(0o755)
        self._calls = folder / "calls"
        self._places = {"INPUT": str(folder / "input"), "OUTPUT": str(folder)}

    def run(self, recipe: str, **variables: str) -> tuple[int, list[str], str]:
        """Return the status, the calls that this run made, and stderr."""
        self._calls.write_text("")
        own = {"RECIPE_PYTHON": str(self._python), "RECIPE_TINY": "1", **self._places}
        result = shell(recipe, **own, **variables)
        return result.returncode, self._calls.read_text().splitlines(), result.stderr


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def ids_of(calls: list[str]) -> list[str]:
    return [call.split("--experiment_id ")[1].split()[0] for call in calls if "_id" in call]


def test_a_stage_that_is_done_is_skipped(stage: Stage) -> None:
    status, calls, told = stage.run("appian")
    assert status == 0, told
    expected = ["appian-se50", "appian-se101", "appian-blend", "appian-trees", "appian"]
    assert ids_of(calls) == expected
    assert calls[0].startswith("preprocessing.py --pre_source demo")
    status, calls, told = stage.run("appian")
    assert status == 0 and ids_of(calls) == []
    assert "appian-trees is done" in told


def test_a_training_that_was_stopped_goes_on_and_nothing_follows_it(stage: Stage) -> None:
    status, calls, _ = stage.run("appian", STOP_AT="appian-se101", SAVED="1")
    assert status == 143 and ids_of(calls) == ["appian-se50", "appian-se101"]
    status, calls, _ = stage.run("appian")
    assert status == 0
    assert ids_of(calls) == ["appian-se101", "appian-blend", "appian-trees", "appian"]
    (again,) = [call for call in calls if "appian-se101 " in call and call.startswith("train")]
    assert "--tr_resume 1" in again and "--net_model" not in again


@pytest.mark.parametrize("stopped", ["appian-se101", "appian-trees"])
def test_what_was_stopped_before_it_saved_anything_starts_anew(stage: Stage, stopped: str) -> None:
    assert stage.run("appian", STOP_AT=stopped)[0] == 143
    status, calls, told = stage.run("appian")
    assert status == 0 and ids_of(calls)[0] == stopped
    assert "--tr_resume" not in calls[1] and f"{stopped} was stopped with nothing" in told


def test_the_last_submission_is_sent_only_where_it_is_asked_for(stage: Stage) -> None:
    assert not any("--pr_submit" in call for call in stage.run("best")[1])
    shutil.rmtree(Path(stage._places["OUTPUT"]) / "results")
    calls = [call for call in stage.run("best", SUBMIT="1")[1] if "--pr_submit" in call]
    assert len(calls) == 1 and calls[0].startswith("ensemble.py --experiment_id best-small ")


def test_the_folder_of_the_data_has_to_be_named(tmp_path: Path) -> None:
    result = shell("takmanman", OUTPUT=str(tmp_path), INPUT=str(tmp_path))
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("error: name the folder of the RSNA")


def test_missing_weights_are_named() -> None:
    weights = load_module(FOLDER / "weights.py")
    asked = []

    def create(name: str, **options: object) -> None:
        asked.append(name)
        if name.startswith("densenet"):
            raise InputError("--net_pretrained 1: the ImageNet weights of it can't be had")

    names = ["rsna-seresnext-50.32.4d", "rsna-densenet-121"]
    assert list(weights.missing_weights(names, create)) == ["rsna-densenet-121"]
    assert asked == ["legacy_seresnext50_32x4d", "densenet121"]


def test_missing_weights_stop_a_recipe_with_the_ways_to_go_on(monkeypatch, capsys) -> None:
    from common.cli import status_of

    weights = load_module(FOLDER / "weights.py")
    monkeypatch.setattr(weights, "missing_weights", lambda names: {"rsna-densenet-121": "offline"})
    monkeypatch.setattr(sys, "argv", ["weights.py", "rsna-densenet-121"])
    assert status_of(weights.main) == 2
    told = capsys.readouterr().err.strip()
    assert "PRETRAINED=0" in told and "~/.cache/huggingface" in told and "densenet121" in told


def test_rates_are_those_of_metrics_json() -> None:
    rates = load_module(FOLDER / "rates.py")
    values = {
        "threshold": 0.5,
        "accuracy": {"any": 0.9, "epidural": 1.0},
        "precision": {"any": 0.75, "epidural": None},
        "recall": {"any": 0.5, "epidural": 0.0},
    }
    assert [line.split() for line in rates.rates_table(values).splitlines()] == [
        ["at", "0.5", "accuracy", "precision", "recall"],
        ["any", "0.900", "0.750", "0.500"],
        ["epidural", "1.000", "-", "0.000"],
    ]


@pytest.fixture(scope="module")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for data in which the demo is made already: 14 patients and 2 of the test."""
    folder = tmp_path_factory.mktemp("input")
    write_demo(folder / "demo", DemoParameters(num_patients=14, num_test_patients=2, matrix=64))
    return folder


@pytest.fixture(scope="module")
def small_cq500(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scans of six slices; the readers see everything in the first, nothing in the others."""
    folder = tmp_path_factory.mktemp("cq500")
    write_small_cq500(folder)
    return folder


def write_small_cq500(folder: Path) -> None:
    rng = np.random.default_rng(2)
    rows = []
    for scan in range(3):
        row: dict[str, object] = {"name": f"CQ500-CT-{scan}"}
        for finding in FINDINGS.values():
            row |= {f"{reader}:{finding}": int(scan == 0) for reader in READERS}
        rows.append(row)
        series = folder / f"CQ500CT{scan} CQ500CT{scan}" / "Unknown Study" / "CT Plain"
        for index in range(6):
            uid = f"1.{scan + 1}"
            write_ct(
                series / f"CT{index:06d}.dcm",
                rng.integers(1030, 1090, (64, 64)).astype(np.uint16),
                SOPInstanceUID=f"{uid}.{index}",
                SeriesInstanceUID=uid,
                StudyInstanceUID=f"{uid}.0.9",
                PatientID=f"somebody {scan}",
                ImagePositionPatient=[0.0, 0.0, 5.0 * index],
            )
    pd.DataFrame(rows).to_csv(folder / "reads.csv", index=False)


@pytest.mark.long
@pytest.mark.parametrize("recipe", sorted(RECIPES.keys() - {"ct_ich"}))
def test_a_tiny_recipe_runs_from_dicom_to_submission(
    recipe: str, small_demo: Path, small_cq500: Path, tmp_path: Path
) -> None:
    places = {"INPUT": str(small_demo), "OUTPUT": str(tmp_path), "RECIPE_TINY": "1"}
    folders = ["", str(small_cq500)] if recipe == "rsna_hemorrhage" else []
    result = shell(recipe, *folders, OMP_NUM_THREADS="1", **places)
    assert result.returncode == 0, result.stderr[-4000:]
    predictors = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("predictor.json")}
    assert predictors
    for metrics in (tmp_path / "results").glob("*/metrics.json"):
        assert np.isfinite(json.loads(metrics.read_text())["weighted_log_loss"])
    if recipe in BLENDED:
        submission = pd.read_csv(tmp_path / "submissions" / BLENDED[recipe] / "submission.csv")
        sample = pd.read_csv(small_demo / "demo" / "stage_2_sample_submission.csv")
        assert submission["ID"].tolist() == sample["ID"].tolist()
        assert submission["Label"].between(0, 1).all()
    else:
        assert [line.split()[0] for line in result.stdout.splitlines()[-6:]] == list(LABELS)
    again = shell(recipe, *folders, OMP_NUM_THREADS="1", **places)
    assert again.returncode == 0 and "train.py" not in again.stderr
    assert {path: path.stat().st_mtime_ns for path in predictors} == predictors


def test_all_patients_that_came_in_are_trained_on_and_one_fold_is_validated(
    monkeypatch, tmp_path: Path
) -> None:
    script = load_module(FOLDER / "all_patients.py")
    source = [None, None, "slices", "given:mine", "given:mine", "given:other"]
    ids = [f"i{number}" for number in range(6)]
    pd.DataFrame({"image_id": ids, "label_source": source}).to_parquet(tmp_path / "slices.parquet")
    folds = pd.DataFrame({"image_id": ids, "patient_id": ids, "fold": [0, 1, 0, -1, -1, -1]})
    folds.to_csv(tmp_path / "folds.csv", index=False)
    monkeypatch.setattr(sys, "argv", ["all_patients.py", str(tmp_path), "mine"])
    script.main()
    written = pd.read_csv(tmp_path / f"dataset_{tmp_path.name}_fold_0.csv")
    assert written.set_index("image_id")["sample_type"].to_dict() == {
        "i3": "train",
        "i4": "train",
        "i0": "valid",
        "i2": "valid",
    }
    with pytest.raises(InputError, match="labelled by nobody"):
        script.split(tmp_path, "nobody")


def test_a_release_is_one_network_with_smoothing_and_calibration(
    monkeypatch, capsys, tmp_path: Path
) -> None:
    results, release = make_members(tmp_path), load_module(FOLDER / "release.py")
    table = SliceTable.load(tmp_path / "input" / "datasets" / "own")
    for path in results.glob("*/predictor/predictor.json"):
        content = json.loads(path.read_text())
        content["training"]["folds_sha256"] = folds_digest(read_folds(table.folder / "folds.csv"))
        path.write_text(json.dumps(content))

    def run(script, *flags: str) -> int:
        monkeypatch.setattr(sys, "argv", [script.__name__, "--output_dir", *flags])
        return status_of(script.main)

    place, new = str(tmp_path / "output"), ("--n_jobs", "0", "--experiment_id")
    assert run(second_level, place, *new, "smooth", "--sl_experiments", "0001") == 0
    assert run(ensemble, place, *new, "final", "--ens_experiments", "smooth") == 0
    blend = load_predictor(results / "final" / "predictor", build_model)
    assert isinstance(blend, BlendPredictor)
    level = blend.members[0]
    assert isinstance(level, SecondLevelPredictor)
    wide = replace(blend, members=[replace(level, members=[*level.members] * 2)])
    wide.save(results / "wide" / "predictor")
    names = [*blend.member_names, "again"]
    replace(blend, members=[level, level], member_names=names).save(results / "two" / "predictor")
    assert run(release, place, "final", "0001") == 0
    folder = tmp_path / "output" / "releases" / "final"
    assert "All 9 patients" in (folder / "model_card.md").read_text()
    made = load_predictor(folder, build_model)
    assert isinstance(made, BlendPredictor) and made.num_networks == 1
    assert made.study_prior is not None and made.predict_rows(table, [0, 1]).logits.shape == (2, 6)
    for name, network in (("0001", "0002"), ("wide", "0001"), ("two", "0001"), ("final", "final")):
        assert run(release, place, name, network) == 2
        assert "give a blend of one second level of one experiment" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "output" / "releases").iterdir()] == ["final"]


@pytest.mark.long
def test_the_tiny_recipe_of_ct_ich_ends_with_scores_and_a_release(
    small_demo: Path, test_data: Path, tmp_path: Path
) -> None:
    folder = str(test_data / "ct_ich")
    places = {"INPUT": str(small_demo), "OUTPUT": str(tmp_path), "RECIPE_TINY": "1"}
    result = shell("ct_ich", folder, OMP_NUM_THREADS="1", **places)
    assert result.returncode == 0, result.stderr[-4000:]
    lines = [line for line in result.stdout.splitlines() if "are positive" in line]
    assert [line.split(" are positive")[0].split(",")[0] for line in lines] == [
        "1084 slices of 36 patients",
        "1807 slices of 60 patients",
    ]
    release = tmp_path / "releases" / "ct_ich_final"
    assert sum(path.stat().st_size for path in release.rglob("*") if path.is_file()) < 10e6
    again = shell("ct_ich", folder, OMP_NUM_THREADS="1", **places)
    assert again.returncode == 0 and "train.py" not in again.stderr
