from pathlib import Path

import pytest

from common.trackers import Tracker, TrackerGroup
from common.trackers.base import is_public_artifact, public_metrics, public_params


class Recorder(Tracker):
    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def log_params(self, params):
        self.calls.append(("params", dict(params)))

    def log_metrics(self, iteration, metrics):
        self.calls.append(("metrics", iteration, dict(metrics)))

    def log_artifact(self, path):
        self.calls.append(("artifact", path))

    def close(self, status="finished"):
        self.calls.append(("close", status))


def use(tracker: Tracker) -> None:
    tracker.log_params({"seed": 1})
    tracker.log_metrics(10, {"train_loss": 0.5})
    tracker.log_artifact(Path("report.html"))
    tracker.close("killed")


def test_group_passes_everything_to_each_in_order() -> None:
    first, second = Recorder(), Recorder()
    group = TrackerGroup([first, second])
    use(group)
    assert first.calls == second.calls
    assert [call[0] for call in first.calls] == ["params", "metrics", "artifact", "close"]
    assert first.calls[-1] == ("close", "killed")


def test_base_and_empty_group_do_nothing() -> None:
    for tracker in (Tracker(), TrackerGroup()):
        use(tracker)
        assert not tracker.has_missed


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (4667, "4667"),
        (1e-4, "0.0001"),
        (True, "True"),
        (None, ""),
        ("rsna-seresnext-50.32.4d", "rsna-seresnext-50.32.4d"),
        ([0.5, 0.25], "[0.5, 0.25]"),
        ("/data/exports", None),
        (Path("exports"), None),
        ("C:\\exports", None),
        ("DOE^JANE", None),
        ("a" + chr(10) + "b", None),
        ({"PatientID": 1}, None),
        (["exports", Path("x")], None),
    ],
)
def test_only_plain_words_and_numbers_are_parameters(value: object, shown: str | None) -> None:
    assert public_params({"name": value}).get("name") == shown


def test_only_finite_numbers_under_names_of_code_are_metrics() -> None:
    metrics = {
        "valid_auc.any": 0.9,
        "train_loss": float("nan"),
        "memory_mb": float("inf"),
        "1.2.840.113619": 1.0,
        "ID_0fbf6a978": 1.0,
        "loss of Doe": 1.0,
    }
    assert public_metrics(metrics) == {"valid_auc.any": 0.9}


def test_only_reports_and_metrics_are_artifacts(caplog: pytest.LogCaptureFixture) -> None:
    assert is_public_artifact(Path("a/report.html")) and is_public_artifact(Path("metrics.json"))
    for name in ("valid.parquet", "config.yaml", "train.log", "folds.csv"):
        assert not is_public_artifact(Path("secret") / name)
    assert "valid.parquet stays" in caplog.text and "secret" not in caplog.text
