"""Leaks between what a model has seen and what it is scored on, each found by a check.

No row's features, predictions or calibration may come from a model that was trained on any row of
its patient. Messages count patients and rows, and name none.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from common.errors import InputError
from common.experiment import JSON_FILE, Experiment, weights_file
from common.slices.pixel_steps import MANIFEST_FILE
from common.words import count

logger = logging.getLogger(__name__)

# Key under `training` in predictor.json: the trainings before this one.
STARTED_FROM = "started_from"

# Key there, of imported weights: the name of the source (--pre_source) that they were trained on.
TRAINED_ON = "trained_on"

# Key there: the sources of the dataset of a training of ours.
SOURCES = "sources"

# Key there: source and licence of the weights of others that the training started from.
ENCODER = "encoder"

# The source of a dataset that was made of others; `sources` in its manifest has theirs.
MERGED = "merged"


Ids = Sequence[str] | pd.Series | NDArray[Any]


def folds_digest(folds: pd.DataFrame) -> str:
    """Return the SHA-256 of a fold table, whatever the order of its rows.

    It is of the rows that some fold validates. Those that are always trained on (a negative fold)
    are left out: whoever has more of them, as a dataset with pseudo-labels, still validates the
    same patients in the same folds and trains on none of them there.

    Args:
        folds: image_id and fold, or image_id and sample_type (`common.slices.folds.read_folds`).
    """
    side = "sample_type"
    if "fold" in folds:
        side, folds = "fold", folds[pd.to_numeric(folds["fold"]) >= 0]
    lines = (folds["image_id"].astype(str) + "," + folds[side].astype(str)).sort_values()
    digest = hashlib.sha256()
    for start in range(0, len(lines), 10_000):
        digest.update("".join(f"{line}\n" for line in lines.iloc[start : start + 10_000]).encode())
    return digest.hexdigest()


def require_disjoint_patients(trained: pd.Series, validated: pd.Series, where: str) -> None:
    """Raise InputError where a patient is both trained and validated on.

    Args:
        trained, validated: patient ids of the rows on either side; missing ones are skipped.
        where: the split, such as `fold 0`.
    """
    shared = _unique(trained).intersection(_unique(validated))
    if len(shared):
        raise InputError(
            f"{count(len(shared), 'patient')} on both sides of {where}: make the folds again "
            f"by patient (preprocessing.py), or correct the given file"
        )


def require_same_folds(what: str, made_with: str | None, folds: pd.DataFrame) -> None:
    """Raise InputError unless `what` was made with this fold table.

    Args:
        what: the features or predictions, such as `features of experiment 0003`.
        made_with: the digest of the fold table that they were made with; None where unknown.
    """
    if made_with != folds_digest(folds):
        raise InputError(
            f"{what} were made with {'unknown' if made_with is None else 'other'} folds than the "
            f"dataset has now: their models may have seen any patient; restore folds.csv, or "
            f"train that experiment again"
        )


def require_unseen_features(
    what: str, image_ids: Ids, row_folds: Ids, made_with: str | None, folds: pd.DataFrame
) -> None:
    """Raise InputError where features or predictions come from a model that saw the patient.

    A row must be of the fold that validates its patient: the models of all other folds were
    trained on that patient.

    Args:
        what: the rows, such as `features of experiment 0003`.
        image_ids: (n,) of the rows.
        row_folds: (n,), the fold whose model made each row.
        made_with: the digest (`folds_digest`) of the fold table that they were made with.
        folds: the fold table of the dataset: image_id, patient_id and fold.
    """
    require_same_folds(what, made_with, folds)
    if "fold" not in folds:
        raise InputError(f"{what} need a dataset with numbered folds, not one given split")
    spread = folds.dropna(subset="patient_id").groupby("patient_id")["fold"].nunique()
    if (spread > 1).any():
        raise InputError(
            f"{count(int((spread > 1).sum()), 'patient')} in several folds: make the folds again "
            f"by patient (preprocessing.py)"
        )
    places = pd.Index(folds["image_id"]).get_indexer(pd.Index(np.asarray(image_ids, dtype=object)))
    num_unknown = int((places < 0).sum())
    if num_unknown:
        raise InputError(
            f"{what}: {num_unknown} of {len(places)} images are in no fold: which models have seen "
            f"them is unknown, leave them out"
        )
    validated_in = folds["fold"].to_numpy(dtype=np.int64)[places]
    made_by = pd.to_numeric(pd.Series(np.asarray(row_folds, dtype=object))).fillna(-1)
    seen = made_by.to_numpy(dtype=np.int64) != validated_in
    seen |= validated_in < 0  # always trained on
    if seen.any():
        patients = folds["patient_id"].iloc[places[seen]].nunique()
        raise InputError(
            f"{what}: {count(int(seen.sum()), 'row')} of {count(patients, 'patient')} from a model "
            f"that was trained on the same patient: use out-of-fold rows (train.py --data_fold all)"
        )


def require_fitted_elsewhere(
    fitted_ids: Ids, scored_ids: Ids, what: str = "the calibrator"
) -> None:
    """Raise InputError where what was fitted on some patients is scored on one of them.

    Args:
        fitted_ids: ids of the patients that calibrators or weights were fitted on. Not image
            ids: another slice of the same patient would pass.
        scored_ids: ids, of the same kind, that are scored.
        what: what was fitted.
    """
    shared = _unique(scored_ids).intersection(_unique(fitted_ids))
    if len(shared):
        raise InputError(
            f"{what} would be scored on {count(len(shared), 'patient')} that it was fitted on: "
            f"fit it on other folds than those that are scored"
        )


# Digests of salted ids are slow to make, as patient ids are short enough to be tried one by one:
# 20,000 patients take half a minute.
_DIGEST_ROUNDS = 2000


def id_digests(ids: Iterable[Any], salt: str = "") -> list[str]:
    """Return short digests of ids, sorted, each once; equal ids have equal ones under one salt.

    Args:
        salt: hexadecimal digits; none for the plain digests of study UIDs of earlier versions.
    """
    unique = {str(name).encode() for name in ids}
    if not salt:
        return sorted(hashlib.sha256(name).hexdigest()[:16] for name in unique)
    key = bytes.fromhex(salt)
    return sorted(
        hashlib.pbkdf2_hmac("sha256", name, key, _DIGEST_ROUNDS, 8).hex() for name in unique
    )


def recorded_predictors(folder: Path) -> list[dict[str, Any]]:
    """Return the content of predictor.json of a predictor, first, and of all predictors in it."""
    if not (folder / JSON_FILE).is_file():
        return []
    inside = sorted(folder.glob(f"*/**/{JSON_FILE}"))
    return [_read(path) for path in (folder / JSON_FILE, *inside)]


def origins_of_predictor(folder: Path) -> list[dict[str, Any]]:
    """Return what is recorded of the trainings of a predictor, of those in it, and before each.

    That of the predictor itself is first. Blends, second levels and calibrated predictors have
    those of all their networks.
    """
    found = []
    for content in recorded_predictors(folder):
        training = content.get("training")
        if isinstance(training, dict):
            found += [training, *training.get(STARTED_FROM, [])]
    return found


def origins_of_weights(path: Path) -> list[dict[str, Any]]:
    """Return what is recorded of the training that made a file of weights, and of those before it.

    The one that made the file is first, then the one whose weights that started from, and so on;
    none where nothing is recorded. It is looked for in the predictor.json beside the file, and in
    that of the experiment in whose folder, or a folder of it, the file lies:
    `<experiment>/checkpoints/best.pt`, `<experiment>/predictor/fold_2/model.pt`. A training that
    has not ended has its flags alone: its folds are unknown.
    """
    folder = weights_file(path).resolve().parent
    of_experiments = (Experiment(folder).predictor, Experiment(folder.parent).predictor)
    for place in (folder, *of_experiments):
        origins = origins_of_predictor(place)
        if origins and ("fold" in origins[0] or TRAINED_ON in origins[0]):
            return origins
    for place in (folder, folder.parent):
        flags = _read(Experiment(place).config_file)
        if "data_fold" in flags:
            origin = {"dataset": flags.get("data_dataset"), "fold": flags["data_fold"]}
            start = flags.get("net_weight_file")
            if start is None or place in Path(start).resolve().parents:
                return [origin]
            return [origin, *origins_of_weights(Path(start))]
    return []


def require_unseen_start(
    weights: str,
    origins: Sequence[Mapping[str, Any]],
    dataset: str,
    folds_sha256: str,
    fold: int,
) -> None:
    """Raise InputError where a training starts from weights that saw the patients it validates.

    Weights of the same dataset with other folds may have seen them: that is logged as a warning.
    Nothing is known of a file without a record.

    Args:
        origins: of the weights, from `origins_of_weights`.
    """
    how = "trained"
    for origin in origins:
        made_with = origin.get("folds_sha256")
        is_same_dataset = origin.get("dataset") == dataset
        if made_with == folds_sha256 or (made_with is None and is_same_dataset):
            if origin["fold"] != fold:
                raise InputError(
                    f"--net_weight_file {weights}: {how} with --data_fold {origin['fold']} of the "
                    f"same dataset, it has seen the patients that fold {fold} validates: start "
                    f"from weights of the same fold ({{fold}} in the path is its number in a "
                    f"training of --data_fold all)"
                )
        elif is_same_dataset:
            logger.warning(
                "--net_weight_file %s: %s on the same dataset with other folds, it may have seen "
                "patients that are validated now, and scores may be too good",
                weights,
                how,
            )
        how = "started from weights that were trained"


def saw_source(training: Mapping[str, Any], dataset_folder: Path) -> bool:
    """Return whether imported weights were trained on a source that a dataset was made from.

    Args:
        training: of predictor.json.
        dataset_folder: its manifest names the sources.
    """
    return training.get(TRAINED_ON) in dataset_sources(dataset_folder)


def dataset_sources(folder: Path) -> list[str]:
    """Return the sources (--pre_source) that a dataset was made from, also by way of others."""
    manifest = _read(folder / MANIFEST_FILE)
    if manifest.get("source") != MERGED:
        return [str(manifest["source"])] if manifest.get("source") else []
    # Merged datasets of earlier versions name their base alone.
    return list(manifest.get("sources") or dataset_sources(Path(str(manifest.get("folder")))))


def warn_of_pseudo_labels(label_sources: pd.Series, prefix: str, fold: int) -> None:
    """Log a warning where networks that may have seen the validated patients made training labels.

    Args:
        label_sources: of the training rows: `<prefix><experiment>` where a model made the labels.
        prefix: marks these.
        fold: the validated fold; the network of `<experiment>/fold_<fold>` has not seen it.
    """
    counts = label_sources.dropna().value_counts()
    sources = [str(name) for name in counts.index]
    made = {
        name.removeprefix(prefix): int(count)
        for name, count in zip(sources, counts, strict=True)
        if name.startswith(prefix) and not name.endswith(f"/fold_{fold}")
    }
    if made:
        logger.warning(
            "%s with labels by experiment %s: its networks that were trained on the patients of "
            "fold %d leak the labels of these patients, and scores may be too good; labels by "
            "the network of fold %d alone do not (scripts/pseudo_label.py --experiment_id "
            "<id>/fold_%d)",
            count(sum(made.values()), "training slice"),
            ", ".join(sorted(made)),
            *[fold] * 3,
        )


def _read(path: Path) -> dict[str, Any]:
    """Return the dict in a JSON or YAML file; an empty one where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _unique(ids: Ids) -> pd.Index:
    return pd.Index(pd.Series(ids, dtype=object).dropna().astype(str).unique())
