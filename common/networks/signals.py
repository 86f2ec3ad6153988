"""SIGINT and SIGTERM as requests to stop, followed where everything can be saved."""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType

logger = logging.getLogger(__name__)


class StopAsked(Exception):
    """The request to stop, raised where a training can stop; `signal_number` is the reason."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"signal {signal_number}")
        self.signal_number = signal_number


class StopRequest:
    """Remembers the first signal; a second one interrupts at once, without saving."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM inside the block (in the main thread only)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            signal.signal(number, self._note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def ask(self) -> None:
        """Record a request as SIGTERM does, unless a signal came before."""
        if self.signal_number is None:
            self.signal_number = signal.SIGTERM

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None:
            raise KeyboardInterrupt
        self.signal_number = number
        logger.warning("signal %d: saving, then stopping; once more stops at once", number)
