"""What the worker's child does for each request: a folder of DICOM in, result objects out."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from common.errors import InputError
from config import Config
from rsna.delivery import Deliverer
from rsna.worker.journal import PARTIAL
from rsna.worker.serving import Analyse
from rsna.worker.setup import predictor_digest


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
        source, output = Path(request["source"]), Path(request["output"])
        start = datetime.fromisoformat(request["time"])
        found = deliverer.deliver(source, output, start, request["predecessors"])
        studies = [
            {
                "folder": one.folder.name,
                "reason": one.reason or (PARTIAL + one.missing if one.missing else ""),
                "probability": list(one.probabilities.values())[-1:],
                "documents": {kind: dict(uids) for kind, uids in one.documents.items()},
            }
            for one in found
        ]
        return {"studies": studies}

    return analyse
