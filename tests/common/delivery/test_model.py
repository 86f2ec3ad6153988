"""What a predictor's folder says about itself: digests that change with it, and its trainings."""

import json
from pathlib import Path

import pytest
from predictor_factory import make_predictor

from common.delivery.model import ModelRecord
from common.errors import InputError
from common.files import file_sha256
from common.predictors.folds import FoldsPredictor
from common.scoring.predictions import Calibration

DEMO = {"experiment_id": "0001", "dataset": "demo"}


def record_of(folder: Path, **changes) -> ModelRecord:
    make_predictor(**changes).save(folder)
    return ModelRecord.read(folder)


def test_one_file_of_weights_has_the_digest_of_that_file(tmp_path):
    record = record_of(tmp_path)
    assert record.weights_sha256 == file_sha256(tmp_path / "model.pt")
    assert record.name == "tiny, experiment 0001"
    (tmp_path / "evaluations" / "x").mkdir(parents=True)
    (tmp_path / "evaluations" / "x" / "series.csv").write_text("a")
    (tmp_path / "model_card.md").write_text("a card")
    assert ModelRecord.read(tmp_path) == record


def test_several_files_of_weights_have_one_digest(tmp_path):
    def save(name: str, *offsets: float) -> ModelRecord:
        members = {n: make_predictor(training=DEMO) for n in range(len(offsets))}
        for member, offset in zip(members.values(), offsets):
            member.network[0].bias.data += offset
        FoldsPredictor(members, training=DEMO).save(tmp_path / name)
        return ModelRecord.read(tmp_path / name)

    first = save("a", 0.0, 1.0)
    assert first.weights_sha256 == save("b", 0.0, 1.0).weights_sha256
    assert first.weights_sha256 != save("c", 0.0, 2.0).weights_sha256
    assert first.weights_sha256 != save("d", 1.0, 0.0).weights_sha256


@pytest.mark.parametrize(
    ("changes", "is_other"),
    [
        ({"training": {"experiment_id": "0002", "dataset": "other"}}, False),
        ({"calibrated_on": {"dataset": "mine"}}, False),
        ({"fitted_on": ("digest",)}, False),
        ({"calibration": Calibration((2.0,) * 6, (0.0,) * 6)}, True),
        ({"operating_points": {"thresholds": {"any": 0.5}}}, True),
        ({"conformal": {"label": "any"}}, True),
        ({"threshold": 0.4}, True),
    ],
    ids=str,
)
def test_settings_are_what_predictions_follow_from(tmp_path, changes, is_other):
    plain = record_of(tmp_path / "a")
    changed = record_of(tmp_path / "b", **changes)
    assert plain.weights_sha256 == changed.weights_sha256
    assert (plain.settings_sha256 != changed.settings_sha256) is is_other


def test_an_engine_changes_the_settings_where_it_predicts_and_never_the_weights(tmp_path):
    plain = record_of(tmp_path)
    content = json.loads((tmp_path / "predictor.json").read_text())
    (tmp_path / "engine.bin").write_bytes(b"1")

    def exported(digest: str, precision: str | None) -> ModelRecord:
        files = {"engine": {"files": {"engine.bin": digest}, "measured": {}}}
        (tmp_path / "predictor.json").write_text(json.dumps(content | files))
        return ModelRecord.read(tmp_path, precision)

    in_torch = exported("1", None)
    assert in_torch.settings_sha256 == plain.settings_sha256
    engines = [exported("1", "float32"), exported("1", "bf16"), exported("2", "float32")]
    assert {one.weights_sha256 for one in [in_torch, *engines]} == {plain.weights_sha256}
    assert len({one.settings_sha256 for one in [plain, *engines]}) == 4


@pytest.mark.parametrize(
    ("training", "sources"),
    [
        (DEMO, {"demo"}),
        ({**DEMO, "started_from": [{**DEMO, "started_from": []}]}, {"demo"}),
        ({**DEMO, "dataset": "mine", "started_from": [DEMO]}, {"demo", "mine"}),
        ({**DEMO, "started_from": [{"trained_on": "rsna"}]}, {"demo", "rsna"}),
        ({"experiment_id": "0001"}, set()),
        ({**DEMO, "dataset": "heads", "sources": ["demo"]}, {"demo"}),
        ({**DEMO, "sources": ["demo", "ct_ich"]}, {"demo", "ct_ich"}),
    ],
)
def test_the_data_of_all_trainings_are_known(tmp_path, training, sources):
    assert record_of(tmp_path, training=training).sources == sources


def test_a_folder_without_a_predictor_is_refused(tmp_path):
    with pytest.raises(InputError, match="no predictor at"):
        ModelRecord.read(tmp_path)
    (tmp_path / "predictor.json").write_text(json.dumps({"format_version": 99}))
    with pytest.raises(InputError, match="format version 99"):
        ModelRecord.read(tmp_path)
