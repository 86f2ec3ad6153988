"""Python processes that find torch imported: forks of one process that imported it once.

A start of Python that imports torch takes two seconds of a processor. Tests whose subject is the
start itself, or what it imports, start one of their own.
"""

import atexit
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["rsna.training.folds", "rsna.predictor"])


def ensure_running() -> None:
    """Start the process that is forked, unless it is there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()


class Process:
    """A process as subprocess.Popen has it, of what follows `python` in a command."""

    def __init__(
        self,
        arguments: Sequence[Any],
        cwd: Path = ROOT,
        env: Mapping[str, str] | None = None,
        start_new_session: bool = False,
    ) -> None:
        ensure_running()
        self.args = [str(argument) for argument in arguments]
        self._texts = [tempfile.NamedTemporaryFile("r") for _ in range(2)]  # noqa: SIM115
        names = [text.name for text in self._texts]
        environment = dict(os.environ if env is None else env)
        # Closed when the process and all that it forked are gone, as a pipe of stdout is.
        self._end, held = CONTEXT.Pipe(duplex=False)
        given = (self.args, str(cwd), environment, names, start_new_session, held)
        self._process = CONTEXT.Process(target=_main, args=given)
        self._process.start()
        held.close()

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit status, less than 0 after a signal; None while it runs."""
        return self._process.exitcode

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait for its end and return what it wrote to stdout and stderr."""
        self._process.join(timeout)
        if self.returncode is None or not self._end.poll(timeout):
            self._process.kill()
            raise subprocess.TimeoutExpired(self.args, timeout)
        out, err = (text.read() for text in self._texts)
        return out, err


def run(arguments: Sequence[Any], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run what follows `python` in a command to its end; options are those of `Process`."""
    process = Process(arguments, **options)
    out, err = process.communicate()
    assert process.returncode is not None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run_together(
    num: int, arguments: Sequence[Any], cwd: Path = ROOT
) -> list[subprocess.CompletedProcess[str]]:
    """Run `num` processes that find each other as those that torchrun starts, to their ends."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"WORLD_SIZE": str(num), "LOCAL_WORLD_SIZE": str(num)}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num)]
    processes = [Process(arguments, cwd, shared | rank) for rank in ranks]
    texts = [process.communicate() for process in processes]
    return [
        subprocess.CompletedProcess(process.args, process.returncode or 0, *text)
        for process, text in zip(processes, texts, strict=True)
    ]


def _main(
    arguments: list[str],
    cwd: str,
    environment: dict[str, str],
    names: list[str],
    leads: bool,
    held: Any,
) -> None:
    if leads:
        os.setsid()
    for number, name in enumerate(names, start=1):
        file = os.open(name, os.O_WRONLY)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))
    multiprocessing.set_start_method(None, force=True)  # that of a new Python, for its own children
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    first, *others = arguments
    try:
        if first == "-m":
            sys.argv = others
            runpy.run_module(others[0], run_name="__main__", alter_sys=True)
        elif first == "-c":
            sys.argv = ["-c", *others[1:]]
            exec(others[0], {"__name__": "__main__"})
        else:
            sys.argv = arguments
            sys.path.insert(0, str(Path(first).resolve().parent))
            runpy.run_path(first, run_name="__main__")
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
