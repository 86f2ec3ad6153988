"""Makes a worker of flags, and refuses what can't be used before torch is imported."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from common.delivery.model import ModelRecord
from common.errors import InputError
from common.files import make_folder
from common.preparation.workers.limits import Limits
from common.requirements import install_command
from config import Config
from rsna.evaluation.folders import deliverable_record
from rsna.worker.journal import JOURNAL_FILE, Journal, locked

if TYPE_CHECKING:
    from rsna.worker.fronts import Front
    from rsna.worker.worker import Worker

OWN_FOLDERS = ("jobs", "outbox", "kept")
"""What a worker empties."""
ANALYSIS = "rsna.worker.analysis"
PACKAGES = ("highdicom", "pynetdicom", "dicomweb_client", "prometheus_client")
_CHILD_FLAGS = {
    *("experiment_id", "output_dir", "seed", "device", "pr_predictor"),
    *("pr_engine", "pr_precision"),
    *("dl_heat_map", "dl_force", "dl_uid_root"),
}
ORTHANC_AUTH, SEND_AUTH = "ICH_ORTHANC_AUTH", "ICH_SEND_AUTH"


def require_packages() -> None:
    """Raise InputError with the command that installs what is missing."""
    for package in PACKAGES:
        if find_spec(package) is None:
            raise InputError(
                f"the package {package}, which is not installed, is needed: "
                f"{install_command('clinic')}"
            )


def work_folder(config: Config) -> Path:
    """Return the folder of --wk_work; InputError where the flag is missing."""
    if config.worker.wk_work is None:
        raise InputError("--wk_work is missing: say which folder the worker's journal lies in")
    return Path(config.worker.wk_work)


@contextmanager
def open_worker(config: Config, analysis: str = ANALYSIS) -> Iterator["Worker"]:
    """Yield a worker that has put right what an earlier one left, and is alone in its folder.

    Args:
        config: flags of the groups general, predictor, delivery and worker.
        analysis: module of the child (`Child`).

    Raises:
        InputError: flags, a predictor or a folder that can't be used.
    """
    flags, folder = config.worker, work_folder(config)
    require_packages()
    record = deliverable_record(config)
    if (flags.wk_orthanc is None) == (flags.wk_watch is None):
        raise InputError("--wk_orthanc or --wk_watch is missing: say where studies come from")
    if flags.wk_send is None and not flags.wk_shadow:
        raise InputError("--wk_send is missing: say where results go, or give --wk_shadow 1")
    if flags.wk_watch is not None:
        watched = Path(flags.wk_watch)
        if not watched.is_dir():
            raise InputError(f"--wk_watch {watched}: no such folder: make it, or give another")
        if folder.resolve().is_relative_to(watched.resolve()):
            raise InputError(f"--wk_work {folder} lies in --wk_watch: choose a folder outside it")
    for name in OWN_FOLDERS:
        if (folder / name).exists() and not (folder / JOURNAL_FILE).exists():
            raise InputError(
                f"--wk_work {folder}: holds {name} and no {JOURNAL_FILE}: give an empty folder"
            )
    make_folder(folder)
    with locked(folder), ExitStack() as stack:
        yield _assemble(config, folder, record, analysis, stack)


def _assemble(
    config: Config, folder: Path, record: ModelRecord, analysis: str, stack: ExitStack
) -> "Worker":
    """Return the worker; the stack closes what it holds."""
    from rsna.worker.child import Child

    flags, digest = config.worker, predictor_digest(record)
    settings = {name: value for name, value in config.flags().items() if name in _CHILD_FLAGS}
    limits = Limits(flags.wk_time_s, flags.wk_memory_mb)
    child = Child(analysis, settings | {"n_jobs": 0, "digest": digest}, limits)
    stack.callback(child.close)
    child.spawn()  # It imports for seconds, while this process does.

    from common.delivery.sending import open_destination
    from rsna.worker.outbox import Outbox
    from rsna.worker.records import Records
    from rsna.worker.worker import Model, Worker

    destination = None
    if flags.wk_send is not None and not flags.wk_shadow:
        auth = secret(SEND_AUTH)
        destination = open_destination(flags.wk_send, flags.wk_aet, flags.wk_commit_port, auth)
        stack.callback(destination.close)
    journal = Journal(folder / JOURNAL_FILE)
    stack.callback(journal.close)
    records = Records(folder, journal, flags.wk_metrics_port)
    stack.callback(records.close)
    outbox = Outbox(folder, journal, records, destination, flags.wk_keep_days)
    model = Model(record.name, digest)
    worker = Worker(flags, _front(config), child, model, journal, records, outbox)
    worker.recover()
    return worker


def _front(config: Config) -> "Front":
    from rsna.worker.fronts import FolderFront, OrthancFront

    flags, root = config.worker, config.delivery.dl_uid_root
    if flags.wk_watch is not None:
        return FolderFront(Path(flags.wk_watch), root)
    assert flags.wk_orthanc is not None
    return OrthancFront(flags.wk_orthanc, root, secret(ORTHANC_AUTH))


def predictor_digest(record: ModelRecord) -> str:
    """Return the digest of all that a prediction follows from: weights and settings."""
    return hashlib.sha256(f"{record.weights_sha256}\n{record.settings_sha256}".encode()).hexdigest()


def secret(name: str, environment: Mapping[str, str] = os.environ) -> tuple[str, str] | None:
    """Return user and password from a variable, or from the file that `<name>_FILE` names.

    Raises:
        InputError: the file can't be read, or it is not user:password.
    """
    text, file = environment.get(name), environment.get(f"{name}_FILE")
    if text is None and file is not None:
        try:
            text = Path(file).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise InputError(f"{name}_FILE: can't be read: give a readable file") from error
    if text is None:
        return None
    user, colon, password = text.strip().partition(":")
    if not colon:
        raise InputError(f"{name}: must be user:password")
    return user, password
