"""What result objects say about the software, the model and its use."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import highdicom

from common.delivery.author import Author
from common.delivery.headers import visible
from common.delivery.identity import Identity
from common.delivery.model import ModelRecord
from common.requirements import DISTRIBUTION, program_version
from rsna import codes
from rsna.evaluation.folders import is_of_phantoms

FORMAT = 1
"""Version of the objects and of result.json: other objects of the same study get other UIDs."""
NOTICE = (
    "RESEARCH ONLY. Not a medical device: not for diagnosis or treatment. Unverified, preliminary."
)
PHANTOMS = "The network was trained on phantoms alone: delivered by force."


def author_of(record: ModelRecord, uid_root: str | None, study: Mapping[Any, Any]) -> Author:
    """Return what the objects of a study say about the model.

    Args:
        record: the model.
        uid_root: of UIDs; None for the default.
        study: its row of the table of studies.
    """
    is_forced = is_of_phantoms(record)
    facts = [
        f"Model: {record.name}.",
        f"Weights SHA-256: {record.weights_sha256}.",
        *([f"Engine: OpenVINO, {record.precision}."] if record.precision else []),
        _calibration_fact(record),
        *_point_facts(record, study),
    ]
    return Author(
        manufacturer=DISTRIBUTION,
        model=visible(record.name),
        versions=(
            f"{DISTRIBUTION} {program_version()}, objects {FORMAT}",
            f"highdicom {highdicom.__version__}, pydicom {version('pydicom')}",
        ),
        weights_sha256=record.weights_sha256,
        device_uid=Identity(["device", record.weights_sha256], uid_root).uid(),
        mark="RESEARCH, PHANTOM-TRAINED" if is_forced else "RESEARCH ONLY",
        notice=f"{NOTICE} {PHANTOMS}" if is_forced else NOTICE,
        facts=[visible(fact, 400) for fact in facts],
        body_part=codes.BODY_PART,
    )


def _calibration_fact(record: ModelRecord) -> str:
    """Return how the predictor, or a part of it, is calibrated, in words."""
    of_slices = [part["calibration"] for part in record.parts if part.get("calibration")]
    kinds = {str(one.get("kind", "temperature")) for one in of_slices}
    kinds |= {"of studies" for part in record.parts if part.get("study_calibration")}
    if not kinds:
        return "Calibration: none."
    local = record.content.get("calibrated_on") or {}
    where = local.get("dataset") or "other folds of the training data"
    return f"Calibration: {', '.join(sorted(kinds))}; fitted on {where}."


def _point_facts(record: ModelRecord, study: Mapping[Any, Any]) -> list[str]:
    """Return the operating point in words, and where a study has no call at it."""
    points = record.content.get("operating_points")
    if not points:
        return ["Operating point: none, so nothing is called present or absent."]
    rule = points["rule"]
    known = {name: t for name, t in points["thresholds"].items() if t is not None}
    thresholds = ", ".join(f"{name} {value:.4g}" for name, value in known.items())
    facts = [f"Operating point: {rule['kind']} {rule['value']:g}; thresholds: {thresholds}."]
    if study["status"] == "partial":
        facts.append("Nothing is called absent in a study that was not seen whole.")
    # What a rule asks for is not what it gets.
    for rate in ("sensitivity", "specificity"):
        found = {name: (points.get(rate) or {}).get(name) for name in known}
        counts = [
            f"{name} {each['num_found']} of {each['num_studies']}"
            for name, each in found.items()
            if each and each.get("num_studies")
        ]
        if counts:
            shown = ", ".join(counts)
            facts.append(f"{rate.capitalize()} on the data that it was chosen on: {shown}.")
    return facts
