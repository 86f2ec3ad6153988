"""A PACS, and a site whose workers end with the test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pacs import Pacs
from worker_factory import Site

from rsna.worker.worker import Worker


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    made = Pacs().start()
    yield made
    made.stop()


@pytest.fixture
def site(tmp_path: Path, pacs: Pacs) -> Site:
    return Site(tmp_path, pacs.address)


@pytest.fixture(autouse=True)
def closed(monkeypatch) -> Iterator[None]:
    """End every child of a test."""
    made: list[Worker] = []
    begin = Worker.__init__

    def remember(self: Worker, *arguments, **options) -> None:
        begin(self, *arguments, **options)
        made.append(self)

    monkeypatch.setattr(Worker, "__init__", remember)
    yield
    for worker in made:
        worker.child.close()
