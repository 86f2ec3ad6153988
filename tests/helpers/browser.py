"""Chromium without a window, driven by its devtools protocol over a pipe; no other package."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
NO_BROWSER = "no chromium and no chrome is installed"
SECONDS = 60


class Browser:
    """A page of a browser.

    Args:
        commands, answers: what the browser reads from and writes to, one JSON object after
            another, each ended by a zero byte.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self.commands, self.answers = commands, answers
        self.numbers, self.buffer, self.session = itertools.count(1), b"", ""
        self.errors: list[str] = []
        page = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("Runtime.enable")

    def call(self, method: str, **options: Any) -> dict[str, Any]:
        """Run a command of the protocol and return its result."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": options}
        if self.session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(answer["params"]["exceptionDetails"]))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            part = os.read(self.answers, 1 << 20)
            assert part, "the browser has ended"
            self.buffer += part
        text, _, self.buffer = self.buffer.partition(b"\0")
        return dict(json.loads(text))

    def run(self, script: str) -> Any:
        """Evaluate JavaScript in the page, wait for a promise, and return the value."""
        options = {"awaitPromise": True, "returnByValue": True, "replMode": True}
        done = self.call("Runtime.evaluate", expression=script, userGesture=True, **options)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def open(self, path: Path) -> None:
        """Show a file, and wait for its script."""
        self.call("Page.navigate", url=path.as_uri())
        for _ in range(10 * SECONDS):
            if self.run("document.readyState === 'complete' && location.protocol === 'file:'"):
                return
            time.sleep(0.1)
        raise AssertionError(f"{path} does not open")

    def click(self, selector: str) -> None:
        """Click with the mouse in the middle of the first element of a selector."""
        place = self.run(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            "one.scrollIntoView({ block: 'center' }); const box = one.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        at = {"x": place[0], "y": place[1], "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **at)

    def key(self, name: str) -> None:
        """Press and release a key, such as ArrowUp."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name)

    def save_to(self, folder: Path) -> None:
        """Let downloads go to a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def picture(self, path: Path) -> None:
        """Write what the whole page looks like as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start a browser with an empty profile; it ends with the block."""
    read_end, commands = os.pipe()
    answers, write_end = os.pipe()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
    options += [f"--user-data-dir={profile}", "--window-size=1200,1600"]
    # The browser reads descriptor 3 and writes to 4.
    script = f'exec "$@" 3<&{read_end} 4>&{write_end}'
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", str(BROWSER), *options],
        pass_fds=(read_end, write_end),
        stderr=subprocess.DEVNULL,
    )
    os.close(read_end)
    os.close(write_end)
    try:
        yield Browser(commands, answers)
    finally:
        os.close(commands)
        process.terminate()
        process.wait(timeout=SECONDS)
        os.close(answers)
