"""The process beside a training that follows its metrics.jsonl and sends it to one store.

A process and not a thread: whatever a client of a store does - imports for seconds, hangs, takes
memory, starts threads - the training and the loaders that it forks don't notice.

The training talks to it in JSON lines. Its stdin gets {kind, options, ...} first, then `params`,
`follow`, `file` and at last `close` with a status; its stdout says `error` once, and `left` at the
end. When the training dies without a `close`, what is there is sent and the run is `killed`.
"""

import contextlib
import fcntl
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common.trackers.backend import make_backend
from common.trackers.base import Status
from common.trackers.delivery import Delivery

# A process of the same run that was killed may still be sending: so long it is waited for.
LOCK_SECONDS = 30.0


class Sidecar:
    """Sends to one store until it is told to close.

    Args:
        delivery: what is sent, and where.
        messages: what the training says, as it comes in.
        tell: tells the training something.
        batch_seconds: how often the file is looked at.
        retry_seconds: how long a failed store is left alone.
    """

    def __init__(
        self,
        delivery: Delivery,
        messages: queue.Queue[dict[str, Any]],
        tell: Callable[[dict[str, Any]], None],
        batch_seconds: float,
        retry_seconds: float,
    ) -> None:
        self.delivery = delivery
        self.messages = messages
        self.tell = tell
        self.batch_seconds = batch_seconds
        self.retry_seconds = retry_seconds
        self._status: Status | None = None
        self._has_told = False

    def run(self) -> None:
        """Works until the end of the training, however that comes."""
        retry_at = 0.0
        while True:
            self._listen()
            if self._status is None and time.monotonic() < retry_at:
                continue
            try:
                self.delivery.deliver()
                if self._status is not None:
                    self.delivery.backend.end(self._status)
            except Exception as error:
                # Whatever a store, a network or a disk throws is told, not suffered.
                retry_at = time.monotonic() + self.retry_seconds
                self._tell_once(error)
            if self._status is not None:
                self.tell({"left": self.delivery.num_left(), "sent": self.delivery.num_sent})
                return

    def _listen(self) -> None:
        """Takes what the training says within `batch_seconds`; returns at once on a `close`."""
        deadline = time.monotonic() + self.batch_seconds
        while self._status is None:
            try:
                message = self.messages.get(timeout=max(deadline - time.monotonic(), 0.0))
            except queue.Empty:
                return
            if "params" in message:
                self.delivery.add_params(message["params"])
            if "follow" in message:
                self.delivery.follow(Path(message["follow"]))
            if "file" in message:
                self.delivery.add_file(Path(message["file"]))
            self._status = message.get("close")

    def _tell_once(self, error: Exception) -> None:
        if not self._has_told:
            self._has_told = True
            reason = (str(error).splitlines() or [""])[0][:200]
            self.tell({"error": f"{type(error).__name__}: {reason}"})


def take_stdout() -> Callable[[dict[str, Any]], None]:
    """Returns what writes a message to stdout; what clients print there goes nowhere from now."""
    number = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def tell(message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the training may be gone
            os.write(number, (json.dumps(message) + "\n").encode())

    return tell


def listen_to_training(messages: queue.Queue[dict[str, Any]], parent: int) -> None:
    """Starts the threads that put the lines of stdin, and the end of the training, into a queue."""

    def read() -> None:
        with contextlib.suppress(ValueError):
            for line in sys.stdin:
                messages.put(json.loads(line))
        messages.put({"close": "killed"})

    def watch() -> None:
        # Loaders that outlive a killed training hold its end of the pipe open.
        while os.getppid() == parent:
            time.sleep(1.0)
        messages.put({"close": "killed"})

    for work in (read, watch):
        threading.Thread(target=work, daemon=True).start()


@contextlib.contextmanager
def only_one(lock_path: Path) -> Iterator[None]:
    """Waits for another process that sends the same run, for a while."""
    with open(lock_path, "w") as lock:
        deadline = time.monotonic() + LOCK_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.2)
        yield


def main() -> None:
    """Runs the process; its arguments come on stdin."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(5)
    tell = take_stdout()
    order = json.loads(sys.stdin.readline())
    messages: queue.Queue[dict[str, Any]] = queue.Queue()
    listen_to_training(messages, order["parent"])
    with only_one(Path(order["lock"])):
        try:
            backend = make_backend(order["kind"], order["options"])
        except Exception as error:
            tell({"error": f"{type(error).__name__}: {error}"})
            return
        delivery = Delivery(backend)
        Sidecar(delivery, messages, tell, order["batch_seconds"], order["retry_seconds"]).run()
    # Clients leave threads behind that would hold up an orderly exit.
    os._exit(0)


if __name__ == "__main__":
    main()
