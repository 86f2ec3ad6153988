"""Flags of deliver.py: result objects in DICOM."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from common.errors import InputError
from flags.parsing import Switch, matches

_ROOT = r"[0-2](\.(0|[1-9][0-9]*))+"
_LONGEST_ROOT = 38
"""25 digits are left then, as many as 83 bits."""
_TAKEN_ROOTS = {
    "1.2.840.10008": "that of DICOM itself",
    "2.25": "that of UUIDs: leave the flag out, and the UIDs are UUIDs",
    "2.999": "that of examples",
}


@dataclass(frozen=True)
class DeliveryConfig:
    """What deliver.py reads and writes."""

    dl_input: str | None = None
    """Folder of DICOM files or zip archives, or one zip archive."""
    dl_output: str | None = None
    """Folder for the results: a subfolder for each study, with its objects and result.json."""
    dl_heat_map: Literal["none", "sc", "pm"] = "sc"
    """Where the network looked: on color images of the key slices (sc), also as a parametric map of
    all slices (pm), or not at all."""
    dl_time: str | None = None
    """Time in the objects, such as 2026-01-01T00:00:00 (default: now): with the same one they are
    the same, byte for byte."""
    dl_force: Switch = 0
    """1: deliver what a predictor says that was trained on phantoms alone, too; each object says
    that it was."""
    dl_uid_root: str | None = None
    """Root of the UIDs of the objects, where you have one of your own (default: 2.25, followed by a
    UUID that is made of what the object depends on)."""

    def __post_init__(self) -> None:
        rule = f"numbers with dots between them, at most {_LONGEST_ROOT} characters"
        matches(self, _ROOT, rule, "dl_uid_root")
        if len(self.dl_uid_root or "") > _LONGEST_ROOT:
            raise InputError(f"--dl_uid_root {self.dl_uid_root}: must be {rule}")
        for root, owner in _TAKEN_ROOTS.items():
            if f"{self.dl_uid_root}.".startswith(f"{root}."):
                raise InputError(f"--dl_uid_root {self.dl_uid_root}: must be your own, not {owner}")
        matches(self, r"[12]\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d", _TIME_RULE, "dl_time")
        if self.dl_time is not None:
            try:
                datetime.fromisoformat(self.dl_time)
            except ValueError as error:
                raise InputError(f"--dl_time {self.dl_time}: must be {_TIME_RULE}") from error

    @property
    def start(self) -> datetime:
        """The time in the objects, in whole seconds."""
        if self.dl_time is None:
            return datetime.now().replace(microsecond=0)
        return datetime.fromisoformat(self.dl_time)


_TIME_RULE = "a time such as 2026-01-01T00:00:00"
