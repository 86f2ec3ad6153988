"""Exit statuses of all scripts, and one line on stderr for errors that users can correct."""

import atexit
import contextlib
import errno
import json
import logging
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from common.errors import CheckFailed, DamagedData, InputError, Interrupted, PeerFailure

logger = logging.getLogger(__name__)

# Libraries whose INFO records are of no use to users of scripts.
NOISY_LIBRARIES = ("numexpr", "distributed", "alembic", "mlflow", "httpx", "matplotlib")

# Refusals of the operating system that only the user can resolve. A note of the exception says what
# to do then, where that is not the same command again.
OUTSIDE_FAULTS = {
    errno.ENOSPC: ("the disk is full", "free some space"),
    errno.EFBIG: ("the file is larger than the disk or ulimit -f allows", "raise the limit"),
    errno.EDQUOT: ("the disk quota is used up", "free some space"),
    errno.EACCES: ("permission denied", "allow it or choose another folder"),
    errno.EPERM: ("not permitted", "allow it or choose another folder"),
    errno.EROFS: ("the file system is read-only", "choose another folder"),
}

EXIT_DONE = 0
EXIT_FAULT = 1
EXIT_INPUT = 2
EXIT_CHECK = 3


def log_to_console(level: int = logging.INFO) -> None:
    """Send log records of `level` and above to stderr as plain lines.

    Of several processes (torchrun) the first sends all of them, the others only errors.
    """
    root = logging.getLogger()
    rank = os.environ.get("RANK", "0")
    if rank != "0":
        level = max(level, logging.WARNING)
    if not root.handlers:
        handler = logging.StreamHandler()
        who = "" if rank == "0" else f"process {rank}: "
        handler.setFormatter(logging.Formatter(f"%(asctime)s  {who}%(message)s", "%H:%M:%S"))
        root.addHandler(handler)
    root.setLevel(level)
    for name in NOISY_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)


# Folder of the scripts that are started as modules.
MODULES = "scripts"


def run_script(main: Callable[[], None]) -> None:
    """Run `main` and end the process with the status that says how it went.

    0 done, 1 our own fault (traceback in the log), 2 unusable flags or input, 3 a check found
    something, 128 + n stopped by signal n after saving.
    """
    signal.signal(signal.SIGTERM, _terminate)
    status = status_of(main)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        _leave(status)
    sys.exit(status)


def _leave(status: int) -> NoReturn:
    """End the process as `sys.exit` does, but without taking the interpreter down.

    DistributedDataParallel keeps gloo's threads alive beyond the process group. One that releases
    a tensor while the interpreter goes down aborts the process, and torchrun then calls a training
    failed that has succeeded.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def command_line() -> str:
    """Return the command that started this process; scripts resume when it is run again."""
    return script_command(*sys.argv[1:])


def script_command(*arguments: str, script: str | None = None) -> str:
    """Return the command that runs `script`, or this one again, from the present folder."""
    if _launcher is not None:
        name = _launcher.command if script is None else _launcher.names[Path(script).stem]
        return shlex.join([*_launcher.shown, name, *arguments])
    this = Path(sys.argv[0])
    root = this.parent.parent if this.parent.name == MODULES else this.parent
    path = this if script is None else root / script
    if path.parent.name == MODULES:
        return shlex.join(["python", "-m", f"{MODULES}.{path.stem}", *arguments])
    return shlex.join(["python", str(path), *arguments])


@dataclass(frozen=True)
class Launcher:
    """The one command that started this script (scripts/ich.py), for the commands to print.

    Attributes:
        shown: how the user calls it, such as `ich` or `python -m scripts.ich`.
        command: the command that runs now, such as `train`.
        names: name of a script's file without .py -> its command.
    """

    shown: tuple[str, ...]
    command: str
    names: Mapping[str, str]


_launcher: Launcher | None = None


def launch_by(launcher: Launcher | None) -> None:
    """Print commands as `launcher` takes them from now on; None: as scripts of a checkout."""
    global _launcher
    _launcher = launcher


def shown_name() -> str:
    """Return the name of this script in --help: `ich train` or `train.py`."""
    if _launcher is not None:
        return " ".join((*_launcher.shown, _launcher.command))
    return Path(sys.argv[0]).name


def script_name() -> str:
    """Return the name of this script's file without .py, however it was started."""
    if _launcher is not None:
        return next(name for name, own in _launcher.names.items() if own == _launcher.command)
    return Path(sys.argv[0]).stem


def status_of(main: Callable[[], None]) -> int:
    """Run `main` and return its exit status; write errors to stderr."""
    try:
        main()
    except (InputError, FloatingPointError) as error:
        _note(_tell(f"error: {error}"))
        return EXIT_INPUT
    except DamagedData as error:
        # Of one in a worker process torch makes a traceback, whose last line is the error.
        reason = str(error).strip().splitlines()[-1].removeprefix(f"{_qualified(error)}: ")
        _note(_tell(f"error: {reason}: preprocessing.py --pre_check 1 lists all that is damaged"))
        return EXIT_INPUT
    except PeerFailure as error:
        _tell(f"stopped by the failure of another process: {error}")
        return EXIT_FAULT
    except CheckFailed as error:
        for finding in error.findings:
            _tell(finding)
        return EXIT_CHECK
    except Interrupted as error:
        if error.resume_command:
            _tell(f"Stopped. To go on: {error.resume_command}")
        return 128 + error.signal_number
    except KeyboardInterrupt:
        _tell(f"Stopped. To go on: {command_line()}")
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of the output (| head) has seen enough; what is left must not be flushed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except OSError as error:
        if error.errno not in OUTSIDE_FAULTS:
            return _fault()
        what, advice = OUTSIDE_FAULTS[error.errno]
        place = error.filename or "while writing"
        notes: list[str] = getattr(error, "__notes__", [])
        then = notes[-1] if notes else "run the same command again"
        _note(_tell(f"error: {what} ({place}): {advice}, then {then}"))
        return EXIT_INPUT
    except Exception:
        return _fault()
    return EXIT_DONE


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number, command_line())


def _fault() -> int:
    logger.exception("This is a fault of the program, not of your input")
    kind, error = sys.exc_info()[:2]
    _note(f"a fault of the program, its traceback is above: {kind and kind.__name__}: {error}")
    return EXIT_FAULT


def _qualified(error: Exception) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"


def _tell(line: str) -> str:
    """Write one line on stderr and return it."""
    if _launcher is not None:
        line = _with_commands(line, _launcher)
    line = " ".join(line.split())
    print(line, file=sys.stderr, flush=True)  # noqa: T201
    return line


def _note(line: str) -> None:
    """Leave the line where torchrun looks for the reason of a failure: it ends torchrun's output.

    torch.distributed.elastic.multiprocessing.errors describes the file.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        note = {"message": line, "extraInfo": {"timestamp": str(int(time.time()))}}
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps({"message": note}), encoding="utf-8")


def _with_commands(line: str, launcher: Launcher) -> str:
    """Name commands of the launcher where the line names files of scripts: `run train.py again`."""

    def command(match: re.Match[str]) -> str:
        return " ".join((*launcher.shown, launcher.names[match[1]]))

    names = "|".join(map(re.escape, launcher.names))
    return re.sub(rf"(?<![\w/.-])(?:{MODULES}/)?({names})\.py\b", command, line)
