"""The model card beside a predictor: model_card.json, and model_card.md made of it.

Mitchell et al., Model Cards for Model Reporting (FAT* 2019). Facts come from files; what only a
person can state is listed as open, item by item of TRIPOD+AI (tripod.yaml).
"""

import contextlib
import functools
import json
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.delivery.model import digest_of, holds_weights
from common.experiment import JSON_FILE, PredictorHome, evaluations_of
from common.files import file_sha256, parse_yaml, write_json, write_text
from common.models.timm_factory import PACKAGED_WEIGHTS
from common.preparation.manifest import MANIFEST_FILE
from common.report.page import render
from common.requirements import program_version, required_packages
from common.slices.folds import is_pseudo
from common.slices.leakage import STARTED_FROM, TRAINED_ON
from common.slices.study_labels import (
    LABELS_OF_STUDY,
    known_labels,
    labels_by_study,
    read_study_labels,
)
from common.slices.table import SliceTable
from common.words import count
from config import recorded_config

CARD_FILE, CARD_PAGE = "model_card.json", "model_card.md"
TRIPOD_FILE = Path(__file__).with_name("tripod.yaml")
FORMAT_VERSION = 1
INTENDED = (
    "Research on the detection of intracranial hemorrhage in non-contrast CT of the head: "
    "comparing methods, and validating a predictor on labelled data before anything else."
)
EXCLUDED = (
    "Diagnosis, triage or any other decision about a patient: it is no medical device.",
    "CT with contrast medium, other parts of the body, other findings than its labels.",
    "Data of another hospital without a validation there.",
)
MISSING = (
    "A slice that can't be read gets the prior of slices, a study of which none can be read that "
    "of studies, and tables mark both; files that are no usable CT are left out with a reason."
)
INPUTS = (
    "Pixels in HU and their order along the head: nothing that a person judges, no age, no sex."
)
WEIGHTS_SHA256 = "weights_sha256"
"""Key of metrics.json: the weights that were scored."""
_PHANTOMS = "demo"
# Networks that no published weights are loaded into.
_FROM_NOTHING = ("study-", "volume-")
# Digests of patients, which serve to refuse scores alone.
_KEPT_BACK = ("fitted_on", "fitted_on_salt", "digests", "salt")
_SCORES = (
    *("selected", "num_slices", "num_studies", "weighted_log_loss", "log_loss", "auc", "ece"),
    *("average_precision", "prior_weighted_log_loss", "scored_prior_weighted_log_loss"),
    *("threshold", "interval", "study", "subgroups", "protocol"),
)


def write_card(home: PredictorHome, table: SliceTable | None = None, new: bool = False) -> None:
    """Write the card of a predictor; nothing where there is no predictor.

    Args:
        table: the dataset that it was trained on; None leaves what the card says of it.
        new: whether the predictor has just been made.
    """
    folder = home.predictor
    info, old = _read(folder / JSON_FILE), _read(folder / CARD_FILE)
    if not info:
        return
    hashes, flags = file_hashes(folder), _training_flags(home, info)
    evaluated = {"": home, **evaluations_of(home.folder)}
    scores = {name: _read(place.metrics_file) for name, place in evaluated.items()}
    # Scores of earlier versions do not say which weights they are of.
    known = (_digest_of(hashes),) if new else (_digest_of(hashes), None)
    scores = {name: of for name, of in scores.items() if of and of.get(WEIGHTS_SHA256) in known}
    metrics = scores.get("", {})
    content = {
        "format_version": FORMAT_VERSION,
        "name": home.title,
        "model": _model(folder, info),
        "origin": _origin(info, flags),
        "training": flags,
        "data": old.get("data") if table is None else _data(table, info),
        "use": {"intended": INTENDED, "excluded": EXCLUDED},
        "scores": _scores(scores, info),
        "flow": metrics.get("flow"),
        "thresholds": {
            "call": info["threshold"],
            **{name: info.get(name) for name in ("operating_points", "conformal")},
        },
        "calibration": {
            "slices": _kind(info["calibration"]),
            "studies": "none" if info.get("study_calibration") is None else "per label",
            "study_rule": metrics.get("study", {}).get("rule"),
            **{name: info.get(name) for name in ("calibrated_on", "prior", "study_prior")},
        },
        "subgroups": metrics.get("subgroups"),
        "protocols": sorted({of["protocol"] for of in scores.values() if of.get("protocol")}),
        "hashes": {
            "predictor": hashes,
            "config.yaml": file_sha256(home.config_file) if home.config_file.is_file() else None,
        },
        "software": {
            "made": versions() if new else old.get("software", {}).get("made"),
            "renewed": versions(),
        },
    }
    content["limits"] = _limits(content)
    content["tripod"] = _tripod(content)
    write_json(folder / CARD_FILE, public(content))
    write_text(folder / CARD_PAGE, card_page(_read(folder / CARD_FILE)))


def card_page(card: Mapping[str, Any]) -> str:
    """Return the Markdown of the content of model_card.json."""
    return str(render("model_card.jinja", card=card))


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a predictor, the card and evaluations left out."""
    names = {path: path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name.as_posix(): file_sha256(path)
        for path, name in names.items()
        if name.name not in (CARD_FILE, CARD_PAGE) and name.parts[0] != "evaluations"
    }


def weights_digest(folder: Path) -> str:
    """Return a hash of all weights of a predictor, whatever is calibrated or chosen on them."""
    return _digest_of(file_hashes(folder))


def _digest_of(hashes: Mapping[str, str]) -> str:
    """Return one digest of the files with weights."""
    return digest_of({n: value for n, value in hashes.items() if holds_weights(PurePath(n))})


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of this program, of Python and of the required packages."""
    found = {"head-ct-hemorrhage": program_version(), "python": platform.python_version()}
    for requirement in required_packages():
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def public(value: Any) -> Any:
    """Return plain types without digests of patients, and without folders of this machine."""
    if isinstance(value, Mapping):
        kept = {
            name: item
            for name, item in value.items()
            # Of a threshold it says in a mapping how many of which dataset it was chosen on.
            if name not in _KEPT_BACK or isinstance(item, Mapping)
        }
        return {name: public(item) for name, item in kept.items()}
    if isinstance(value, list | tuple):
        return [public(item) for item in value]
    if isinstance(value, str) and re.match(r"[/~\\]|\.\.?/|[A-Za-z]:[\\/]", value):
        return PurePath(value.replace("\\", "/")).name
    return value


def _model(folder: Path, info: Mapping[str, Any]) -> dict[str, Any]:
    parts = [_read(path) for path in sorted(folder.rglob(JSON_FILE))]
    names = [part["model"]["name"] for part in parts if part.get("model", {}).get("name")]
    return {
        "kind": info.get("kind", "slices"),
        "architecture": list(dict.fromkeys(names)),
        "num_networks": sum("weights_sha256" in part for part in parts),
        "slice_offsets": sorted({tuple(part.get("slice_offsets") or (0,)) for part in parts}),
        "label_names": info["label_names"],
        "label_weights": info["label_weights"],
        "inputs": INPUTS,
        "missing": MISSING,
    }


def _origin(info: Mapping[str, Any], flags: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the weights come from, with licences as far as they are recorded."""
    training, pretrained = info["training"], None
    of_origin = ("experiment_id", "dataset", "fold", "iterations", "source", "licence", TRAINED_ON)
    if flags and flags["net_pretrained"] and not flags["net_weight_file"]:
        name = flags["net_model"].removeprefix("joint-")
        if not name.startswith(_FROM_NOTHING):
            pretrained = {"weights": f"ImageNet weights of {name}", "licence": _licence(name)}
    return {
        **{name: training.get(name) for name in of_origin},
        "experiments": training.get("experiments") or info.get("member_names"),
        STARTED_FROM: [
            {name: of.get(name) for name in of_origin} for of in training.get(STARTED_FROM, ())
        ],
        "pretrained": pretrained,
    }


def _licence(name: str) -> str | None:
    """Return the licence of published weights as timm, or the package with the weights, has it."""
    if name in PACKAGED_WEIGHTS:
        with contextlib.suppress(PackageNotFoundError):
            licence = metadata(PACKAGED_WEIGHTS[name])["License"]
            return None if licence in (None, "UNKNOWN") else licence
    import timm  # takes seconds

    with contextlib.suppress(RuntimeError):
        return getattr(timm.get_pretrained_cfg(name), "license", None)
    return None


def _training_flags(home: PredictorHome, info: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the flags of a training; None of predictors made of others, imported or alone."""
    made_of_others = "experiments" in info["training"] or "blend" in info
    if TRAINED_ON in info["training"] or made_of_others or not home.config_file.is_file():
        return None
    config, flags = recorded_config(home.folder), dict[str, Any]()
    for group in (config.data, config.network, config.optimizer, config.training):
        flags |= vars(group)
    return {name: value for name, value in flags.items() if name != "data_input_folder"}


def _data(table: SliceTable, info: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is counted in the dataset of a training."""
    names, manifest = info["label_names"], _read(table.folder / MANIFEST_FILE)
    parameters, frame = manifest.get("parameters", {}), table.frame
    labels, ids = known_labels(table, np.arange(len(table)), names), frame[table.readable]
    num_pseudo = int((is_pseudo(frame) & table.readable).sum())
    known = table.readable & ~np.isnan(labels).all(axis=1) & frame["study_id"].notna().to_numpy()
    _, of_studies = labels_by_study(table, names, labels[table.readable], ids["study_id"])
    given = read_study_labels(table, names, (LABELS_OF_STUDY,))
    sources = set(frame["label_source"][known].dropna().astype(str))
    if given is not None and len(given):
        sources.add(LABELS_OF_STUDY)
    return {
        "dataset": info["training"].get("dataset") or table.folder.name,
        "source": manifest.get("source"),
        "num_patients": int(ids["patient_id"].nunique()),
        "num_studies": int(ids["study_id"].nunique()),
        "num_volumes": int(ids["store_file"].nunique()),
        "num_slices": len(ids),
        "num_slices_by_split": {
            str(name): int(num) for name, num in ids["split"].value_counts().items()
        },
        "num_labelled_slices": int(known.sum()),
        "num_labelled_by_a_model": num_pseudo,
        "positive_slices": _by_label(names, labels[known]),
        "positive_studies": _by_label(names, of_studies),
        "label_source": sorted(sources),
        "folds": {
            "by": parameters.get("fold_by"),
            "number": parameters.get("num_folds"),
            "seed": parameters.get("fold_seed"),
            "valid_fraction": parameters.get("valid_fraction"),
            "sha256": info["training"].get("folds_sha256"),
        },
        "parameters": parameters,
        "versions": manifest.get("versions"),
        "sha256": manifest.get("sha256"),
    }


def _by_label(names: Sequence[str], labels: NDArray[Any]) -> dict[str, int]:
    return dict(zip(names, np.nansum(labels, axis=0).astype(int).tolist(), strict=True))


def _scores(
    scores: Mapping[str, Mapping[str, Any]], info: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the scores on the predictor's own rows, and on each other dataset."""
    found, fold = [], info["training"].get("fold")
    own = "out of fold" if fold == "all" else f"validation rows of fold {fold}"
    for dataset, metrics in scores.items():
        for name, of in (("last weights", metrics), ("best checkpoint", metrics.get("best"))):
            if of:
                where = {"dataset": dataset or info["training"].get("dataset")}
                weights = f"{name}, {engine}" if (engine := metrics.get("engine")) else name
                where |= {"rows": "all with a label" if dataset else own, "weights": weights}
                found.append(where | {key: of.get(key) for key in _SCORES})
    return found


def _limits(content: Mapping[str, Any]) -> list[str]:
    """Return what the facts of a card say against the predictor."""
    found = []
    data, scores, own = content["data"] or {}, content["scores"], content["origin"]
    if data.get("source") == _PHANTOMS:
        found.append("Trained on made phantoms: its probabilities mean nothing for a patient.")
    if not scores:
        found.append("It has not been scored.")
    elif not any(score["dataset"] != own["dataset"] for score in scores):
        found.append("Scored on the data of its training alone: nothing is known of other data.")
    if any(score["selected"] for score in scores):
        found.append("Scores of the best checkpoint were chosen on the rows that they are of.")
    if not content["subgroups"]:
        found.append("No subgroup has been scored: nothing is known of differences among patients.")
    if not content["thresholds"]["operating_points"]:
        found.append("No threshold has been chosen on data: calls are at the default probability.")
    if content["calibration"]["slices"] == "none":
        found.append("Not calibrated: a probability is what the network gives.")
    for score in scores:
        reasons = (score["study"] or {}).get("interval", {}).get("reason", {}).get("auc", {})
        if reasons:
            few = f"Too few positive studies of {score['dataset']} for an interval"
            found.append(f"{few}: {', '.join(reasons)}.")
    if data.get("num_labelled_by_a_model"):
        found.append(f"{count(data['num_labelled_by_a_model'], 'slice')} with labels by a model.")
    return list(dict.fromkeys(found))


def _tripod(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each item with the keys of the card that tell of it, and what is open."""
    found = []
    for item in _tripod_items():
        known = {key: has_value(content, key) for key in item.get("evidence", [])}
        missing = [f"the card has no {key}" for key, is_there in known.items() if not is_there]
        found.append(
            {
                "item": item["item"],
                "topic": item["topic"],
                "evidence": [key for key, is_there in known.items() if is_there],
                "open": "; ".join(filter(None, [item.get("person"), *missing])),
            }
        )
    return found


@functools.cache
def _tripod_items() -> list[dict[str, Any]]:
    return list(parse_yaml(TRIPOD_FILE.read_text(encoding="utf-8")))


def has_value(content: Any, key: str) -> bool:
    """Return whether a dotted key leads to something."""
    for part in key.split("."):
        content = content.get(part) if isinstance(content, Mapping) else None
    return content is not None and content not in ("", [], {})


def _kind(calibration: Mapping[str, Any] | None) -> str:
    if calibration is None:
        return "none"
    if calibration.get("kind") == "consistent":
        return f"{_kind(calibration['inner'])}, any at least its subtypes"
    return str(calibration.get("kind", "temperature"))


def _read(path: Path) -> dict[str, Any]:
    """Return the dict in a JSON file; an empty one where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
