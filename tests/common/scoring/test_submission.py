import numpy as np
import pandas as pd
import pytest

from common.errors import InputError
from common.scoring.submission import (
    build_submission,
    check_submission,
    read_sample,
    write_submission,
)
from rsna_task import LABELS

PRIOR = np.array([0.01, 0.02, 0.03, 0.04, 0.05, 0.06])


def sample_file(path, image_ids, labels=LABELS):
    rows = [f"{image_id}_{label}" for image_id in image_ids for label in labels]
    pd.DataFrame({"ID": rows, "Label": 0.5}).to_csv(path, index=False)
    return path


def predictions(image_ids) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({"image_id": image_ids}).assign(
        **{name: rng.random(len(image_ids)) for name in LABELS}
    )


def test_every_id_asked_for_gets_its_probability_in_the_order_asked_for(tmp_path):
    asked = ["ID_b", "ID_with_underscores_c", "ID_a"]
    sample = read_sample(sample_file(tmp_path / "sample.csv", asked, LABELS[::-1]), LABELS)
    table = predictions(["ID_a", "ID_b", "not asked for", "ID_with_underscores_c"])
    submission, missing = build_submission(sample, table, PRIOR, LABELS)
    write_submission(tmp_path / "submission.csv", submission, sample)
    assert not missing
    written = pd.read_csv(tmp_path / "submission.csv")
    given = pd.read_csv(tmp_path / "sample.csv")
    assert list(written.columns) == ["ID", "Label"]
    assert list(written["ID"]) == list(given["ID"])
    by_id = table.set_index("image_id")
    for row in written.itertuples():
        image_id, _, label = row.ID.rpartition("_")
        assert row.Label == by_id.loc[image_id, label]


def test_images_without_a_prediction_get_the_prior_and_are_listed(tmp_path):
    sample = read_sample(sample_file(tmp_path / "sample.csv", ["ID_x", "ID_a"]), LABELS)
    submission, missing = build_submission(sample, predictions(["ID_a"]), PRIOR, LABELS)
    assert missing == ["ID_x"]
    np.testing.assert_array_equal(submission["Label"].to_numpy()[:6], PRIOR)
    check_submission(submission, sample)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["ID_a_any", "ID_a_subdural"], "1 image without all 6 labels, the first is 'ID_a'"),
        (
            [f"{image}_{name}" for image in "abc" for name in LABELS if f"{image}{name}" != "bany"],
            "1 image without all 6 labels, the first is 'b'",
        ),
        ([f"ID_a_{name}" for name in LABELS] * 2, f"6 rows .* the first is 'ID_a_{LABELS[0]}'"),
        ([f"ID_a_{name}" for name in LABELS] + ["ID_b_fracture"], "'ID_b_fracture' in line 8"),
        (
            ["ID_a_fracture"],
            "must end with _ and a label that the experiment predicts, which are: epidural",
        ),
        (["nothing"], "'nothing' in line 2"),
        (["NA"], "'NA' in line 2"),
        ([], "no id"),
    ],
)
def test_samples_that_ask_for_something_else_are_refused(tmp_path, rows, message):
    path = tmp_path / "sample.csv"
    pd.DataFrame({"ID": rows, "Label": 0.5}).to_csv(path, index=False)
    with pytest.raises(InputError, match=message):
        read_sample(path, LABELS)


def test_files_that_are_no_samples_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_sample(tmp_path / "none.csv", LABELS)
    (tmp_path / "other.csv").write_text("id,label\n1,2\n")
    with pytest.raises(InputError, match="has the columns ID, Label"):
        read_sample(tmp_path / "other.csv", LABELS)
    (tmp_path / "ragged.csv").write_text("ID,Label\n1,2,3,4\n5,6,7,8\n")
    with pytest.raises(InputError, match="not a readable csv"):
        read_sample(tmp_path / "ragged.csv", LABELS)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InputError, match="not a readable csv"):
        read_sample(tmp_path / "empty.csv", LABELS)


@pytest.mark.parametrize("wrong", ["order", "count", "columns", np.nan, 1.01, -0.01])
def test_a_wrong_submission_is_not_written(tmp_path, wrong):
    sample = read_sample(sample_file(tmp_path / "sample.csv", ["ID_a", "ID_b"]), LABELS)
    submission, _ = build_submission(sample, predictions(["ID_a", "ID_b"]), PRIOR, LABELS)
    if wrong == "order":
        submission = submission.iloc[::-1]
    elif wrong == "count":
        submission = submission.iloc[:-1]
    elif wrong == "columns":
        submission = submission[["Label", "ID"]]
    else:
        submission.loc[3, "Label"] = wrong
        with pytest.raises(ValueError, match=r"^1 values of the submission"):
            check_submission(submission, sample)
    with pytest.raises(ValueError, match="submission"):
        write_submission(tmp_path / "submission.csv", submission, sample)
    assert not (tmp_path / "submission.csv").exists()


def test_certain_probabilities_are_written(tmp_path):
    sample = read_sample(sample_file(tmp_path / "sample.csv", ["ID_a"]), LABELS)
    submission, _ = build_submission(sample, predictions(["ID_a"]), PRIOR, LABELS)
    submission["Label"] = [0.0, 1.0, 0.5, 0.5, 1.0, 0.0]
    write_submission(tmp_path / "submission.csv", submission, sample)
    assert pd.read_csv(tmp_path / "submission.csv")["Label"].tolist() == [0, 1, 0.5, 0.5, 1, 0]
