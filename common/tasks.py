"""Do tasks that another process sends. It imports little, so that such a process starts at once."""

import contextlib
import pickle
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle

from common.machine import end_with_parent

BEGUN = b""
"""Sent when a task is read and begins."""


def work(number: int) -> None:
    """Do tasks from the pipe with this file descriptor, until its other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    with contextlib.suppress(EOFError, OSError), Connection(number) as pipe:
        while True:
            function, task = pickle.loads(pipe.recv_bytes())
            pipe.send_bytes(BEGUN)
            pipe.send_bytes(cloudpickle.dumps(_answer(function, task)))


def _answer(function: Callable[[Any], Any], task: Any) -> tuple[Any, BaseException | None]:
    try:
        return function(task), None
    except Exception as error:
        if not isinstance(error, OSError):  # whose notes are for users
            error.add_note(f"in another process: {traceback.format_exc()}")
        return None, error
