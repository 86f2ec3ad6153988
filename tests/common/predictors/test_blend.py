import json

import numpy as np
from predictor_factory import build_network, make_dataset, make_predictor
from scipy.special import expit, logit

from common.ensembling.blending import Blender, BlendOptions
from common.predictors.blend import BlendPredictor
from common.predictors.folds import FoldsPredictor
from common.predictors.loading import load_predictor
from common.scoring.predictions import Calibration
from common.scoring.study_calibration import StudyCalibration
from rsna_task import LABEL_WEIGHTS, LABELS

TEMPERATURES = tuple(np.linspace(0.5, 3, 6).tolist())
BIAS = tuple(np.linspace(-1, 2, 6).tolist())


def make_blend() -> BlendPredictor:
    """A plain member and a calibrated one; the weights differ by label."""
    model = {"name": "tiny", "num_classes": 6, "in_chans": 3}
    members = [
        make_predictor(network=build_network({**model, "seed": seed}), calibration=calibration,
                       study_prior=np.full(6, 0.2 * (seed + 1)))
        for seed, calibration in ((0, None), (1, Calibration(TEMPERATURES, BIAS)))
    ]  # fmt: skip
    weights = tuple((0.1 * k, 1 - 0.1 * k) for k in range(6))
    return BlendPredictor(
        members=members,
        member_names=["a", "b"],
        blender=Blender(BlendOptions("weights"), weights, (0.0,) * 6),
        label_names=LABELS,
        label_weights=LABEL_WEIGHTS,
        prior=np.full(6, 0.2),
        study_prior=np.full(6, 0.3),
        study_calibration=StudyCalibration(((1.0, 0.5, -0.1),) * 6, (0.2,) * 6, consistent=True),
        fitted_on=["aa", "bb"],
        fitted_on_salt="00ff",
        fold_priors={0: np.full(6, 0.1), 2: np.linspace(0.1, 0.2, 6)},
    )


def test_members_are_calibrated_before_they_are_blended(tmp_path):
    table = make_dataset(tmp_path)
    rows = np.flatnonzero(table.readable)
    blend = make_blend()
    found = blend.predict_rows(table, rows).logits
    plain, calibrated = (member.predict_rows(table, rows).logits for member in blend.members)
    for k in range(6):
        other = expit(calibrated[:, k].astype(np.float64) / TEMPERATURES[k] + BIAS[k])
        mean = 0.1 * k * expit(plain[:, k].astype(np.float64)) + (1 - 0.1 * k) * other
        np.testing.assert_allclose(found[:, k], logit(mean), rtol=1e-5)
    folds = FoldsPredictor(dict(enumerate(blend.members)))
    mean = (plain + (calibrated / TEMPERATURES + BIAS)) / 2
    np.testing.assert_allclose(folds.predict_rows(table, rows).logits, mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(folds.study_prior, np.full(6, 0.3))


def test_a_saved_blend_is_the_same_and_an_old_one_lacks_what_is_new(tmp_path):
    blend = make_blend()
    blend.save(tmp_path)
    again = load_predictor(tmp_path, build_network)
    np.testing.assert_array_equal(again.study_prior, blend.study_prior)
    assert again.study_calibration == blend.study_calibration
    assert (list(again.fitted_on), again.fitted_on_salt) == (["aa", "bb"], "00ff")
    assert sorted(again.fold_priors) == [0, 2]
    np.testing.assert_array_equal(again.fold_priors[2], blend.fold_priors[2])
    assert again.members[1].calibration == blend.members[1].calibration
    path = tmp_path / "predictor.json"
    content = json.loads(path.read_text())
    for key in ("study_prior", "fitted_on_salt", "fold_priors"):
        del content[key]
    del content["study_calibration"]["consistent"]
    path.write_text(json.dumps(content))
    old = load_predictor(tmp_path, build_network)
    assert old.study_prior is None and old.fitted_on_salt == "" and old.fold_priors == {}
    assert old.study_calibration.consistent is False


def test_folds_of_which_one_knows_no_prior_of_studies_know_none():
    members = make_blend().members
    members[1].study_prior = None
    assert FoldsPredictor(dict(enumerate(members))).study_prior is None
