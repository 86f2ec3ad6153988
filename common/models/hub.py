"""The model hub, asked once whether it answers, in place of its client's minute of retries."""

import contextlib
import logging
import threading
from collections.abc import Iterator

logger = logging.getLogger(__name__)

TIMEOUT_S = 3.0


@contextlib.contextmanager
def without_retries() -> Iterator[None]:
    """Let the block use the cache of the hub alone, where the hub does not answer in `TIMEOUT_S`.

    What is not in the cache then raises an OSError at once.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    if not before and not _answers(constants.ENDPOINT):
        logger.info("the model hub %s does not answer: only its cache is used", constants.ENDPOINT)
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers(address: str) -> bool:
    from huggingface_hub import get_session

    has_answered = threading.Event()

    def ask() -> None:
        # Whatever a client, a proxy or a resolver raises: there is no answer.
        with contextlib.suppress(Exception):
            get_session().head(address, timeout=TIMEOUT_S)
            has_answered.set()

    # The look-up of a name knows no timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    return has_answered.is_set()
