"""Makes a predictor of one network, small enough to be passed on, and its model card.

    python recipes/release.py ct_ich_final ct_ich_all

A blend of one second level (ct_ich_final) says how the predictions of the networks of all folds are
smoothed and calibrated. The network of all patients (ct_ich_all) takes their place, in float16.
The card has the out-of-fold scores of the blend, as no patient is left to score the network on.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.pooled_folds import dataset_of, pool
from common.cli import run_script
from common.errors import InputError
from common.predictors.blend import BlendPredictor
from common.predictors.loading import load_predictor
from common.predictors.second_level import SecondLevelPredictor
from common.predictors.slices import SlicePredictor
from common.scoring.metrics import training_prior
from common.slices.leakage import TRAINED_ON
from common.slices.pixel_steps import PARAMETER
from common.slices.table import SliceTable
from rsna.evaluation.scoring import score_lines
from rsna.releases.writing import CARD_FILE, write_half
from rsna_model import build_model

CARD = """# Model card: hemorrhage on head CT, from 60 patients and phantoms

Research software, not a medical device.

**What it is.** One network ({model}) that sees one slice in three windows; its predictions are
smoothed along the series, and calibrated out of fold. Made by `recipes/ct_ich.sh`.

**What it learned from.** Phantom heads of this project, then {patients} patients ({slices} slices)
of CT-ICH (Hssayeni et al., PhysioNet 2019; Data 2020, 5(1):14, doi 10.3390/data5010014), licence
CC BY 4.0, here with faces removed and recompressed as JPEG. The weights are passed on under CC BY
4.0 with this credit. They began as ImageNet weights of timm (Apache 2.0).

**How well the recipe does**, out of fold: on patients of the same hospital that the scored networks
had not seen. Folds 2 to 4 had no part in choosing the settings. In brackets: intervals of 95 % over
patients. The network here saw all patients and has no score of its own.

Folds 2 to 4:

{confirmed}

All {patients} patients:

{whole}

**What it must not be used for.** Diagnosis, triage or any other decision on a patient; ruling out
hemorrhage; children; scans with contrast; labels that were rare in training ({rare}). On scanners
and in hospitals that it has not seen its ranking is worse and its probabilities are overconfident:
measure it on labelled studies of your own, and calibrate it on them, before you believe a number.

**Checks.** SHA-256 of the weights (`model.safetensors`, float16), compared whenever the network is
loaded: `{sha256}`
"""


def make_release(blend: Path, network: Path, folder: Path) -> None:
    """Write the predictor and its card into `folder`."""
    final = load_predictor(blend / "predictor", build_model)
    whole = load_predictor(network / "predictor", build_model)
    level = final.members[0] if isinstance(final, BlendPredictor) else None
    if (
        not isinstance(final, BlendPredictor)
        or not isinstance(level, SecondLevelPredictor)
        or not isinstance(whole, SlicePredictor)
        or [len(final.members), len(level.members)] != [1, 1]
    ):
        raise InputError(
            f"{blend.name}, {network.name}: give a blend of one second level of one experiment, "
            f"and an experiment of a slice network"
        )
    table = SliceTable.load(dataset_of([blend]))
    scored = pool([blend], table, "oof", selected=False)
    confirmed = pool([blend], table, "oof", selected=False, folds=(2, 3, 4))
    prior, study_prior = training_prior(scored.labels), training_prior(scored.studies.labels)
    origin = {
        "source": "CT-ICH (Hssayeni et al., PhysioNet 2019) and phantoms, by recipes/ct_ich.sh",
        "licence": "CC BY 4.0",
        TRAINED_ON: "ct_ich",
        PARAMETER: final.training[PARAMETER],
    }
    shared: dict[str, Any] = {"prior": prior, "study_prior": study_prior, "training": origin}
    network_part = replace(whole, **shared, calibration=None)
    level_part = replace(level, **shared, members=[network_part], fold_priors={})
    made = replace(
        final,
        **shared,
        members=[level_part],
        member_names=["one network, smoothed"],
        fold_priors={},
        fitted_on=(),
        fitted_on_salt="",
    )
    sha256 = write_half(made, folder)
    positive = scored.metrics["study"]["num_positive"]
    rare = [f"{name}, {num} patients" for name, num in positive.items() if num < 10]
    text = CARD.format(
        model=whole.model["name"],
        patients=scored.metrics["interval"]["num_patients"],
        slices=scored.metrics["num_slices"],
        confirmed="\n".join(f"    {line}" for line in score_lines("slices", confirmed.metrics)),
        whole="\n".join(f"    {line}" for line in score_lines("slices", scored.metrics)),
        rare="; ".join(rare) or "none",
        sha256=sha256,
    )
    (folder / CARD_FILE).write_text(text, encoding="utf-8")


def main() -> None:
    """Write the folder and print where it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("blend", help="id of a blend of one second level")
    parser.add_argument("network", help="id of the network of all patients")
    parser.add_argument("--output_dir", type=Path, default=Path("output"))
    parser.add_argument("--folder", type=Path, help="default: <output_dir>/releases/<blend>")
    flags = parser.parse_args()
    results = flags.output_dir / "results"
    folder = flags.folder or flags.output_dir / "releases" / flags.blend
    make_release(results / flags.blend, results / flags.network, folder)
    print(folder)


if __name__ == "__main__":
    run_script(main)
