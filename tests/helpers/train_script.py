"""train.py started as its user starts it, and what its experiments leave."""

import json
from pathlib import Path

import pandas as pd
import torch
import warm

from common.checkpoint import load_checkpoint

FLAGS = [
    *("--data_dataset", "tiny", "--net_model", "test_efficientnet", "--net_pretrained", "0"),
    *("--data_img_size", "32", "--tr_iteration_num", "12", "--tr_batch_size", "3"),
    *("--tr_accumulation_step", "2", "--tr_iteration_valid", "5", "--tr_batch_size_valid", "5"),
    *("--tr_iteration_checkpoint", "3", "--optim_ema_decay", "0.9", "--net_drop_rate", "0.3"),
    *("--mlflow_enabled", "0"),  # seconds of a start; test_monitored_training.py has it on
]


def start(place: Path, *flags: str, moment: str | None = None, **options) -> warm.Process:
    script = ["tests/helpers/killed_training.py", moment] if moment else ["train.py"]
    places = ["--data_input_folder", str(place / "input"), "--output_dir", str(place / "output")]
    return warm.Process([*script, *places, *flags], start_new_session=True, **options)


def run(place: Path, *flags: str, **options) -> tuple[int, str, str]:
    process = start(place, *flags, **options)
    out, err = process.communicate()
    return process.returncode, out, err


def results(place: Path, experiment: str) -> Path:
    return place / "output" / "results" / experiment


def lines(place: Path, experiment: str) -> list[dict]:
    path = results(place, experiment) / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def deterministic(values: dict) -> dict:
    return {
        name: value
        for name, value in values.items()
        if not name.startswith(("time", "memory", "train_samples", "train_data_wait"))
    }


def assert_equal_results(one: Path, other: Path, place: Path) -> None:
    for name in ("last.pt", "best.pt"):
        states = [load_checkpoint(folder / "checkpoints" / name) for folder in (one, other)]
        assert states[0]["iteration"] == states[1]["iteration"]
        for key, value in states[0]["model"].items():
            assert torch.equal(value, states[1]["model"][key]), (name, key)
        averages = [state["averages"]["WeightAverage"]["model"] for state in states]
        assert all(torch.equal(value, averages[1][key]) for key, value in averages[0].items())
    for name in ("valid", "valid_best"):
        tables = [pd.read_parquet(f / "predictions" / f"{name}.parquet") for f in (one, other)]
        tables = [table.drop(columns="experiment_id") for table in tables]
        pd.testing.assert_frame_equal(*tables, check_exact=True)
    records = [list(map(deterministic, lines(place, folder.name))) for folder in (one, other)]
    assert records[0] == records[1]
