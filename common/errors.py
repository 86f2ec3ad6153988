"""Errors that users can correct."""


class InputError(ValueError):
    """An unusable flag or file: the message names it, the rule it broke and what to do.

    Scripts print it as one line on stderr and exit with status 2.
    """


class DamagedData(Exception):
    """What is stored of a dataset can't be read, or is not what was written."""


class CheckFailed(Exception):
    """A check found something wrong: scripts list `findings` and exit with status 3."""

    def __init__(self, findings: list[str]) -> None:
        super().__init__(f"{len(findings)} findings")
        self.findings = findings


class Interrupted(BaseException):
    """A signal stopped the work after everything was saved.

    As KeyboardInterrupt it is no Exception: what takes any failure of a decoder or a converter for
    one of the file must not take a signal for it.

    Args:
        signal_number: SIGINT or SIGTERM; the exit status is 128 + this number.
        resume_command: what the user types to go on, or an empty string.
    """

    def __init__(self, signal_number: int, resume_command: str = "") -> None:
        super().__init__(f"interrupted by signal {signal_number}")
        self.signal_number = signal_number
        self.resume_command = resume_command


class PeerFailure(Exception):
    """Another process of a training failed; the message is its reason."""
