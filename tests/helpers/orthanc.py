"""An Orthanc of a test: its own ports and folder, started, killed and started again."""

import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import requests

PROGRAM = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def require_orthanc() -> None:
    """Skip the test where Orthanc with DICOMweb, or dcmtk, is not installed."""
    tools = ("storescu", "findscu")
    if not Path(PROGRAM).is_file() or not PLUGIN.is_file() or not all(map(shutil.which, tools)):
        pytest.skip("Orthanc, its DICOMweb plugin or dcmtk is not installed (apt)")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Orthanc:
    """A server on ports of its own.

    Args:
        folder: of its data.
        aet: its AE title.
        stable_s: its StableAge.
        more: further settings.
    """

    def __init__(
        self, folder: Path, aet: str, stable_s: int = 2, more: Mapping[str, Any] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.aet = folder, aet
        self.http, self.dicom = free_port(), free_port()
        self.settings = {
            "Name": aet,
            "StorageDirectory": str(folder / "data"),
            "IndexDirectory": str(folder / "data"),
            "Plugins": [str(PLUGIN)],
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "HttpPort": self.http,
            "DicomAet": aet,
            "DicomPort": self.dicom,
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowStore": True,
            "DicomModalities": {"ich": ["ICH", "127.0.0.1", 11113]},
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            "OverwriteInstances": False,
            "StableAge": stable_s,
            "SyncStorageArea": True,
            **(more or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.http}"

    def start(self) -> "Orthanc":
        file = self.folder / "orthanc.json"
        file.write_text(json.dumps(self.settings))
        with open(self.folder / "log.txt", "ab") as log:
            self.process = subprocess.Popen([PROGRAM, str(file)], stdout=log, stderr=log)
        for _ in range(200):
            try:
                requests.get(f"{self.address}/system", timeout=5).raise_for_status()
                return self
            except requests.RequestException:
                time.sleep(0.1)
        raise AssertionError((self.folder / "log.txt").read_text()[-2000:])

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None

    def get(self, path: str) -> Any:
        return requests.get(self.address + path, timeout=30).json()

    def statistics(self) -> dict[str, Any]:
        found = self.get("/statistics")
        return {name: found[name] for name in ("CountInstances", "CountSeries", "CountStudies")}

    def storescu(self, *paths: Path) -> subprocess.CompletedProcess[str]:
        called = ["-aec", self.aet, "127.0.0.1", str(self.dicom)]
        command = ["storescu", "-R", "+sd", "+r", *called, *map(str, paths)]
        return subprocess.run(command, capture_output=True, text=True, check=False)
