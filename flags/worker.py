"""Flags of the worker."""

import re
from dataclasses import dataclass

from common.errors import InputError
from flags.parsing import Switch, above, at_least, between, matches, require


@dataclass(frozen=True)
class WorkerConfig:
    """What scripts/worker.py takes, where its results go, and its limits."""

    wk_orthanc: str | None = None
    """Orthanc that receives the studies, such as http://127.0.0.1:8042. User and password: see
    docs/how_to/worker.md."""
    wk_watch: str | None = None
    """In place of an Orthanc, a folder that studies are put into."""
    wk_work: str | None = None
    """Folder of the worker's journal, logs and results that wait; one worker each."""
    wk_send: str | None = None
    """Where results go: dicom:AET@host:port, or the address of a DICOMweb server."""
    wk_aet: str = "ICH"
    """AE title of the worker, for dicom:..."""
    wk_commit_port: int = 0
    """Port for reports of storage commitment (0: ask by a query whether the results are there)."""
    wk_admit: str = ""
    """Which studies are taken, such as station=CT1|CT2,description=head|brain,age=18-120,days=3
    (empty: every study with CT)."""
    wk_stable_s: float = 30.0
    """Seconds without a new slice after which a study is taken to be complete."""
    wk_shadow: Switch = 0
    """1: predict and keep the results for --wk_keep_days, but send nothing."""
    wk_keep_days: int = 0
    """Days that results are kept in the work folder after they were sent (0: not at all)."""
    wk_status: Switch = 0
    """1: print what the worker of --wk_work does, and end; status 3 where a person is needed."""
    wk_retry: str | None = None
    """Key of a study in --wk_status 1, or all: try again what was rejected, or refused by the PACS,
    and end. The worker goes on meanwhile."""
    wk_metrics_port: int = 0
    """Port of the Prometheus metrics, on this machine alone (0: none)."""
    wk_time_s: float = 300.0
    """Most seconds for one study; a study that takes longer twice is rejected."""
    wk_memory_mb: float = 8000.0
    """Most memory for one study, in units of 10^6 bytes; a study that takes more is rejected."""
    wk_disk_mb: float = 2000.0
    """Free disk space below which no study is begun."""

    def __post_init__(self) -> None:
        at_least(self, 0, "wk_keep_days", "wk_disk_mb")
        at_least(self, 1, "wk_stable_s")
        above(self, 0, "wk_time_s", "wk_memory_mb")
        between(self, 0, 65535, "wk_commit_port", "wk_metrics_port")
        matches(self, r"[!-\[\]-~]{1,16}", "an AE title: 1 to 16 characters, no space", "wk_aet")
        matches(self, r"all|[0-9a-f]{8,64}", "all, or a key of --wk_status 1", "wk_retry")
        address = r"https?://[^@\s/?#]+(/[^@\s?#]*)?"
        if self.wk_orthanc is not None and not re.fullmatch(address, self.wk_orthanc):
            # The value may hold a password.
            raise InputError(
                "--wk_orthanc: must be an address without user or password, such as "
                "http://127.0.0.1:8042"
            )
        both = self.wk_orthanc is not None and self.wk_watch is not None
        require(self, "wk_watch", not both, "left out beside --wk_orthanc: studies have one source")
