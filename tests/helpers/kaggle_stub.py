"""A stand-in for the kaggle package: a folder for the import path, and what it was asked."""

import json
from pathlib import Path

API = '''
import json, os, sys
from pathlib import Path

PLACE = Path(__file__).parent
SECRET = "s3cret-token"


class HTTPError(OSError):
    """As requests': an OSError with a response."""

    def __init__(self, status):
        super().__init__(f"{status} for url: https://kaggle.invalid/?token={SECRET}")
        self.response = type("Response", (), {"status_code": status})()


class ConnectionError(OSError):
    """As requests'."""


class KaggleApi:
    COMPETITION_SUBMIT_UPLOAD_FAILED_MESSAGE = "Could not submit to competition"

    def __init__(self):
        self.mode = (PLACE / "mode").read_text()

    def authenticate(self):
        print("trying", SECRET)
        if self.mode == "no credentials":
            print("Authentication required")
            sys.exit(1)
        if self.mode == "offline":
            raise ConnectionError(f"host not found {SECRET}")

    def competition_submit(self, file_name, message, competition, quiet=False):
        print("uploading with", SECRET)
        print("uploading with", SECRET, file=sys.stderr)
        if self.mode.isdigit():
            raise HTTPError(int(self.mode))
        if self.mode == "exit":
            sys.exit(SECRET)
        call = {"text": Path(file_name).read_text(), "message": message, "competition": competition}
        (PLACE / "calls.jsonl").open("a").write(json.dumps(call) + "\\n")
        answer = type("Response", (), {"message": "Successfully submitted to RSNA"})()
        if self.mode == "upload":
            answer.message = self.COMPETITION_SUBMIT_UPLOAD_FAILED_MESSAGE
        return answer
'''


class KaggleStub:
    """A package `kaggle` in `folder`, to be put on the import path."""

    SECRET = "s3cret-token"

    def __init__(self, folder: Path) -> None:
        self._place = folder / "kaggle" / "api"
        self._place.mkdir(parents=True)
        (folder / "kaggle" / "__init__.py").write_text("")
        (self._place / "__init__.py").write_text("")
        (self._place / "kaggle_api_extended.py").write_text(API)
        self.behave("well")

    def behave(self, mode: str) -> None:
        """well, `no credentials`, offline, upload, exit, or the HTTP status that it answers."""
        (self._place / "mode").write_text(mode)

    @property
    def calls(self) -> list[dict[str, str]]:
        """What was sent: text, message, competition."""
        path = self._place / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
