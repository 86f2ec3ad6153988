"""Send a submission through the kaggle client, which is imported only where it is asked for.

Output of the client is hidden, and of its errors only the kind is reported: both may hold
credentials or signed addresses.
"""

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.requirements import install_command

logger = logging.getLogger(__name__)

COMPETITION_PATTERN = r"[a-z0-9][a-z0-9-]*"

# Meaning of the statuses of the service, and what to do.
_REFUSALS = {
    400: "the submission was refused: see on the competition's page whether it still takes "
    "submissions and whether today's are used up",
    401: "the credentials were refused: make new ones (kaggle auth login)",
    403: "not allowed: accept the rules on the competition's page with the account of these "
    "credentials",
    404: "there is no such competition: give its name as in its address",
    429: "too many requests: try later",
}


class KaggleClient:
    """A client that has credentials.

    Args:
        competition: the competition as in its address, such as
            `rsna-intracranial-hemorrhage-detection`.

    Raises:
        InputError: no client is installed, or it finds no credentials.
    """

    def __init__(self, competition: str) -> None:
        self.competition = competition
        with _silenced():
            self._api = self._authenticated()

    def submit(self, path: Path, message: str) -> str:
        """Send the file and return what the service answers, in one line.

        Raises:
            InputError: it was refused, or could not be sent; the file stays where it is.
        """
        by_hand = f"{path} is complete, send it by hand or run the same command again"
        try:
            with _silenced():
                response = self._api.competition_submit(str(path), message, self.competition)
        except (Exception, SystemExit) as error:
            raise self._error(f"{_reason(error)}; {by_hand}") from None
        answer = " ".join(str(getattr(response, "message", response)).split())
        failed = getattr(self._api, "COMPETITION_SUBMIT_UPLOAD_FAILED_MESSAGE", None)
        if answer == failed:
            raise self._error(f"the upload did not end well; {by_hand}")
        logger.info("sent %s to %s: %s", path, self.competition, answer)
        return answer

    def _authenticated(self) -> Any:
        try:
            from kaggle.api.kaggle_api_extended import KaggleApi
        except ImportError:
            what = f"the kaggle client is not installed: {install_command('kaggle')}"
            raise self._error(what) from None
        except (OSError, SystemExit):  # versions that ask for credentials when they are imported
            raise self._no_credentials() from None
        api = KaggleApi()
        try:
            api.authenticate()
        except (Exception, SystemExit) as error:
            is_known = _status(error) is not None or _is_of_network(error)
            if isinstance(error, OSError | SystemExit) and not is_known:
                raise self._no_credentials() from None
            raise self._error(_reason(error)) from None
        return api

    def _no_credentials(self) -> InputError:
        return self._error(
            "the kaggle client finds no credentials that work: run `kaggle auth login`, or set "
            "KAGGLE_API_TOKEN to a token of your account's settings"
        )

    def _error(self, reason: str) -> InputError:
        return InputError(f"--pr_submit {self.competition}: {reason}")


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        out, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            yield
    finally:
        logging.disable(before)


def _status(error: BaseException) -> int | None:
    """Return the HTTP status of what requests, or the client's older versions, raise."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    status = getattr(error, "status", None) if status is None else status
    return status if isinstance(status, int) else None


def _is_of_network(error: BaseException) -> bool:
    """Return whether the error is a lost connection: of requests, or Python's own."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"ConnectionError", "Timeout", "TimeoutError"})


def _reason(error: BaseException) -> str:
    status = _status(error)
    if status is not None:
        return f"{_REFUSALS.get(status, 'the service failed: try later')} (HTTP status {status})"
    if _is_of_network(error):
        return f"the service can't be reached ({type(error).__name__})"
    return f"the kaggle client failed ({type(error).__name__})"
