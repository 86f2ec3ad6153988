from pathlib import Path

import pytest

from common.trackers.public import public_metrics, public_params


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
