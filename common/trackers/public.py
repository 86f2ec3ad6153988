"""What may leave an experiment folder: no patient, no id but those of images, no path."""

import logging
import math
import re
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)

# Names that code chooses: no DICOM UID starts with a letter, and no RSNA id with a small one.
METRIC_NAME = re.compile(r"[a-z][a-z0-9_./-]*")
# Words and numbers such as a model's name, without the separators of paths and DICOM names.
PARAMETER_TEXT = re.compile(r"[A-Za-z0-9_.,+:=\[\]() -]*")
# The only files of the experiment folder that are sent as they are.
ARTIFACTS = ("metrics.json", "report.html")


def public_params(params: Mapping[str, Any]) -> dict[str, str]:
    """Return the numbers, switches and plain words among the parameters, as text.

    Paths and whatever else could name a person or a place of one machine are left out.
    """
    public = {}
    for name, value in params.items():
        text = "" if value is None else str(value)
        if METRIC_NAME.fullmatch(name) and _is_plain(value) and PARAMETER_TEXT.fullmatch(text):
            public[name] = text
        else:
            logger.debug("parameter %s stays in the experiment folder", name)
    return public


def public_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the finite numbers under names that code chooses."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if METRIC_NAME.fullmatch(name) and math.isfinite(value)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)
