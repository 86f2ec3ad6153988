"""What the worker's child does for each request: a folder of DICOM in, result objects out."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from common.dicom.elements import text
from common.dicom.part10 import open_dicom
from common.dicom.rejection import RejectedFile
from common.errors import InputError
from config import Config
from rsna.delivery import DELIVERED, Delivered, Deliverer
from rsna.worker.serving import Analyse
from rsna.worker.setup import predictor_digest

_ID_WORDS = ("SOPClassUID", "SeriesInstanceUID", "SOPInstanceUID")


def open_analysis(settings: Mapping[str, Any]) -> Analyse:
    """Return the function that answers requests; it keeps the network in memory.

    Args:
        settings: flags by name, and the digest of the predictor.

    Raises:
        InputError: the predictor can't be used, or is another one by now.
    """
    flags = {name: value for name, value in settings.items() if name != "digest"}
    deliverer = Deliverer.from_config(Config().with_flags(**flags))
    if predictor_digest(deliverer.record) != settings["digest"]:
        raise InputError("the predictor has changed since the worker started: start it again")

    def analyse(request: Mapping[str, Any]) -> Mapping[str, Any]:
        source = Path(request["source"])
        start = datetime.fromisoformat(request["time"])
        earlier = _predecessors(request["predecessors"], source)
        found = deliverer.deliver(source, Path(request["output"]), start, earlier)
        return {"studies": list(map(_study, found))}

    return analyse


def _study(one: Delivered) -> dict[str, Any]:
    documents = {
        kind: [str(reference[word].value) for word in _ID_WORDS]
        for kind, reference in one.documents.items()
    }
    return {
        "folder": one.folder.name,
        "is_delivered": one.status == DELIVERED,
        "reason": one.reason,
        "probability": list(one.probabilities.values())[-1:],
        "documents": documents,
    }


def _predecessors(
    earlier: Mapping[str, Mapping[str, list[str]]], source: Path
) -> dict[str, dict[str, Dataset]]:
    """Return the documents of the earlier result with the study's UID, which the journal lacks."""
    study = _study_uid(source) if earlier else ""
    found: dict[str, dict[str, Dataset]] = {}
    for folder, documents in earlier.items():
        for kind, values in documents.items():
            reference = Dataset()
            for word, value in zip(_ID_WORDS, values, strict=True):
                setattr(reference, word, value)
            reference.StudyInstanceUID = study
            found.setdefault(folder, {})[kind] = reference
    return found


def _study_uid(source: Path) -> str:
    for path in sorted(source.iterdir()):
        try:
            with open_dicom(path) as file:
                return text(file.dataset, "StudyInstanceUID")
        except RejectedFile:
            continue
    return ""
