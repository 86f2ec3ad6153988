"""Makes the dataset, experiments and predictor folders that later versions must still read.

    python tests/saved_runs/make.py make      write runs/ anew, with the code of this checkout
    python tests/saved_runs/make.py compare   resume and predict with runs/, and compare bit by bit

runs/ was made once, before modules moved: experiments of users must go on to load, resume and
predict. It is not made again; tests/test_saved_runs.py compares to 1e-5.
"""

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RUNS = HERE / "runs"
DATASET = "saved"

# How a script runs: with the tiny network known to timm.
_RUN = (
    "import sys, runpy; sys.path[:0] = [{root!r}, {here!r}]; import tiny_network; "
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)
TRAINING = shlex.split(
    "--data_dataset saved --net_model test_ich_tiny --net_pretrained 0 --data_img_size 32 "
    "--tr_batch_size 4 --tr_batch_size_valid 8 --tr_iteration_num 6 --tr_iteration_valid 3 "
    "--tr_num_best 1 --optim sgd --optim_momentum 0 --optim_weight_decay 1e-4 "
    "--optim_scheduler_max_lr 0.05 --optim_ema_decay 0 --mlflow_enabled 0"
)
# Experiment -> what it is.
EXPERIMENTS = {
    "slice": "one slice network, one fold",
    "stopped": "one slice network, stopped after its first iteration",
    "folds": "slice networks of all folds",
    "blend": "a blend of `folds` and of the same with another seed",
    "study": "a network over the series, on what `folds` gives",
}
# Experiments whose last checkpoint is kept, and files that are not: they would only take room.
NEEDED_CHECKPOINTS = (("slice", "last.pt"), ("stopped", "last.pt"))
USELESS = (".lock", "train.log", "report.html", "oof_best.parquet", "valid_best.parquet")


def run(place: Path, script: str, *arguments: str, status: int = 0) -> str:
    """Run a script in the folder `place`, whose input/ and output/ it uses; returns its output."""
    code = _RUN.format(root=str(ROOT), here=str(HERE))
    command = [sys.executable, "-c", code, str(ROOT / script), *arguments]
    command += ["--n_jobs", "0", "--device", "cpu"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    if done.returncode != status:
        raise SystemExit(f"{script} ended with {done.returncode}, not {status}:\n{done.stderr}")
    return done.stdout


def train(place: Path, name: str, *arguments: str, status: int = 0) -> None:
    """Train an experiment called `name`."""
    run(place, "train.py", "--experiment_id", name, *TRAINING, *arguments, status=status)


def results(place: Path) -> dict[str, pd.DataFrame | dict]:
    """Resume what was stopped, predict with every experiment, and return all by name."""
    resume = ["--experiment_id", "stopped", "--tr_resume", "1", "--tr_max_hours", "0"]
    run(place, "train.py", *resume)
    found: dict[str, pd.DataFrame | dict] = {}
    for name in EXPERIMENTS:
        folder = place / "output" / "results" / name
        run(place, "evaluate.py", "--experiment_id", name, "--mlflow_enabled", "0")
        found[f"{name}.metrics.json"] = json.loads((folder / "metrics.json").read_text())
        places = ["--pr_input", f"input/datasets/{DATASET}", "--pr_output", f"predicted/{name}"]
        run(place, "predict.py", "--experiment_id", name, *places)
        output = place / "predicted" / name
        found[f"{name}.predictions.csv"] = pd.read_parquet(output / "predictions.parquet")
        found[f"{name}.studies.csv"] = pd.read_csv(output / "studies.csv")
    log = (place / "output" / "results" / "stopped" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line).get("loss") for line in log]
    found["stopped.losses.json"] = {"loss": [loss for loss in losses if loss is not None]}
    return found


def make() -> None:
    """Write runs/ and what is expected of it."""
    sys.path[:0] = [str(ROOT), str(HERE.parent)]
    from tiny_dataset import make_tiny_dataset

    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        make_tiny_dataset(place / "input" / "datasets" / DATASET, size=32, num_slices=5)
        train(place, "slice", "--data_fold", "0")
        train(place, "stopped", "--data_fold", "0", "--tr_max_hours", "1e-7", status=143)
        for name, seed in (("folds", "1"), ("other", "2")):
            train(place, name, "--data_fold", "all", "--seed", seed)
        blend = ["--ens_experiments", "folds,other", "--ens_method", "weights"]
        made = run(
            place, "ensemble.py", "--experiment_id", "blend", "--data_dataset", DATASET, *blend
        )
        assert made.strip() == "blend", made
        sizes = "--net_study_dim 8 --net_study_hidden 4 --net_study_layers 1 --tr_batch_size 2"
        network = "--net_model study-bigru --data_features folds --data_fold 0"
        train(place, "study", *network.split(), *sizes.split())
        for path in sorted(place.rglob("*")):
            parts = path.relative_to(place).parts
            is_checkpoint = "checkpoints" in parts and path.suffix == ".pt"
            is_spare = is_checkpoint and (parts[2], path.name) not in NEEDED_CHECKPOINTS
            of_fold = len(parts) > 4 and parts[3].startswith("fold_") and parts[4] != "predictor"
            if path.is_file() and (path.name in USELESS or is_spare or of_fold):
                path.unlink()
        shutil.rmtree(place / "output" / "results" / "other")
        shutil.rmtree(RUNS, ignore_errors=True)
        shutil.copytree(place, RUNS)
        expected = HERE / "expected"
        shutil.rmtree(expected, ignore_errors=True)
        expected.mkdir()
        for name, value in results(place).items():
            write(expected / name, value)


def write(path: Path, value: pd.DataFrame | dict) -> None:
    """Write a table, or nested values, so that they are read back to the last bit."""
    if isinstance(value, dict):
        path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    else:
        value.to_csv(path, index=False)


def compare(tolerance: float = 0.0) -> list[str]:
    """Resume and predict with a copy of runs/; returns what differs by more than `tolerance`."""
    differences: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        shutil.copytree(RUNS, place, dirs_exist_ok=True)
        for name, value in results(place).items():
            path = HERE / "expected" / name
            write(place / name, value)
            if isinstance(value, dict):
                one, other = (json.loads(p.read_text()) for p in (path, place / name))
                differences += different(name, one, other, tolerance)
            else:
                one, other = pd.read_csv(path), pd.read_csv(place / name)
                missing = set(one.columns) - set(other.columns)
                differences += [f"{name}: no column {column}" for column in sorted(missing)]
                for column in one.columns.intersection(other.columns):
                    values = one[column].tolist(), other[column].tolist()
                    differences += different(f"{name} {column}", *values, tolerance)
    return differences


def different(where: str, one: object, other: object, tolerance: float) -> list[str]:
    """Return where two nested values differ; what only the second has is allowed."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            line
            for key, value in one.items()
            for line in different(f"{where}.{key}", value, other.get(key), tolerance)
        ]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        parts = [
            different(f"{where}[{i}]", *both, tolerance) for i, both in enumerate(zip(one, other))
        ]
        return [line for part in parts for line in part]
    if isinstance(one, float) and isinstance(other, float | int):
        same = one == other or abs(one - other) <= tolerance or (np.isnan(one) and np.isnan(other))
        return [] if same else [f"{where}: {one} was, {other} is"]
    return [] if one == other else [f"{where}: {one} was, {other} is"]


if __name__ == "__main__":
    if sys.argv[1:] == ["make"]:
        make()
    elif sys.argv[1:] == ["compare"]:
        found = compare()
        print("\n".join(found) or "equal bit for bit")
        sys.exit(3 if found else 0)
    else:
        sys.exit(__doc__)
