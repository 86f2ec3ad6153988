"""Weights that can't be had are refused within seconds, whatever is wrong with the network."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from huggingface_hub import constants

from common.errors import InputError
from common.models import hub, timm_factory
from common.models.hub import without_retries


@pytest.fixture
def silent() -> Iterator[str]:
    """A host that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("place", ["http://127.0.0.1:9", "http://no.such.host.invalid", "silent"])
def test_the_refusal_comes_within_5_s(monkeypatch, silent, tmp_path, place):
    timm_factory.create_backbone("test_vit", 3, pretrained=False)  # timm's own imports
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", silent if place == "silent" else place)
    # As many seconds fewer here as the limit is lowered by.
    most = 5 - (hub.TIMEOUT_S - 0.5)
    monkeypatch.setattr(hub, "TIMEOUT_S", 0.5)
    started = time.monotonic()
    with pytest.raises(InputError, match="ImageNet weights of resnet18 can't be had"):
        timm_factory.create_backbone("resnet18", 3, pretrained=True)
    assert time.monotonic() - started < most
    assert not constants.HF_HUB_OFFLINE


def test_a_hub_that_answers_is_used_as_ever(monkeypatch):
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(404)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        with without_retries():
            assert not constants.HF_HUB_OFFLINE
        server.shutdown()
