"""The processes of a Dask cluster that is there already."""

import logging
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.preparation.workers import probe
from common.words import count

logger = logging.getLogger(__name__)

CONNECT_S = 10
"""How long a scheduler may take to answer, and then to have a first worker."""
_LIBRARIES = ("distributed", "pydicom", "blosc2", "numpy", "pandas")


def connect(address: str) -> Any:
    """Return a client of the scheduler at `address`, once it has a worker.

    Raises:
        InputError: nothing answers there, it is no scheduler, or it has no worker.
    """
    from distributed import Client

    for name in ("distributed", "distributed.nanny", "distributed.scheduler"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    advice = "start it (dask scheduler), or leave --pre_address out"
    try:
        client = Client(address, timeout=CONNECT_S)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(f"--pre_address {address}: no Dask scheduler answers: {advice}") from error
    try:
        client.wait_for_workers(1, timeout=CONNECT_S)
    except TimeoutError as error:
        client.close()
        raise InputError(
            f"--pre_address {address}: the scheduler has no workers: start some "
            f"(dask worker {address} --nthreads 1)"
        ) from error
    return client


def check_workers(
    client: Any, packages: Sequence[str], source_folder: Path, dataset_folder: Path
) -> None:
    """Raise InputError where a worker could not do the work as this process would.

    Each must have the same code of `packages`, the same versions of the libraries that make
    pixels, and both folders by the same names.
    """
    import cloudpickle

    cloudpickle.register_pickle_by_value(probe)
    token = dataset_folder / f".probe-{uuid.uuid4().hex[:8]}"
    here = probe.look(list(packages), _LIBRARIES, str(source_folder), None)
    try:
        token.write_text("probe", encoding="ascii")
        arguments = (list(packages), _LIBRARIES, str(source_folder), str(token))
        found = client.run(probe.look, *arguments, on_error="return")
    finally:
        token.unlink(missing_ok=True)
        cloudpickle.unregister_pickle_by_value(probe)
    problems = [problem for there in found.values() for problem in _problems(here, there)]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"--pre_address: {problems[0]}{more}")
    num_threads = sum(client.nthreads().values())
    logger.info("%s", count(len(found), "worker"))
    if num_threads > len(found):
        logger.warning(
            "the workers have %d threads, but each uses one: start them with --nthreads 1 and more "
            "of them with --nworkers",
            num_threads,
        )


def _problems(here: dict[str, Any], there: Any) -> Iterator[str]:
    """Yield the reasons that keep a worker from the work, each with what to do."""
    if isinstance(there, BaseException):
        yield f"a worker failed when asked what it has: {there!r}"
        return
    worker = f"the worker on {there['host']}"
    root = Path(__file__).resolve().parents[3]
    for name, digest in here["code"].items():
        if there["code"][name] is None:
            yield f"{worker} has no package {name}: start it with PYTHONPATH={root}"
        elif there["code"][name] != digest:
            yield f"{worker} has other code in {name} than this machine: give it the same"
    for name, number in here["versions"].items():
        if there["versions"][name] != number:
            found = there["versions"][name] or "nothing"
            yield f"{worker} has {found} for {name} {number}: install the same versions"
    if not there["source"]:
        yield f"{worker} does not see the files: mount --pre_folder there under the same name"
    if not there["dataset"]:
        yield f"{worker} cannot write to the dataset folder: share it under the same name"
