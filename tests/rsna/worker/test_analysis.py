"""The answer of the child for each study that was delivered or refused."""

from pathlib import Path
from types import SimpleNamespace

from rsna.delivery import DELIVERED, REFUSED, Delivered, Deliverer
from rsna.worker import analysis
from rsna.worker.journal import PARTIAL


def test_what_was_not_seen_is_the_reason_of_a_study_that_is_delivered(monkeypatch):
    made = [
        Delivered(Path("a"), DELIVERED, "", {"subdural": 0.1, "any": 0.2}),
        Delivered(Path("b"), DELIVERED, "", {"subdural": 0.1, "any": 0.3}, {}, "1 slice is lost"),
        Delivered(Path("c"), REFUSED, "two patients", {}),
    ]
    stand_in = SimpleNamespace(record=None, deliver=lambda *_: made)
    monkeypatch.setattr(Deliverer, "from_config", lambda _: stand_in)
    monkeypatch.setattr(analysis, "predictor_digest", lambda _: "d")
    analyse = analysis.open_analysis({"digest": "d"})
    request = {"source": "in", "output": "out", "time": "2026-01-01T00:00:00", "predecessors": {}}
    studies = analyse(request)["studies"]
    assert [one["reason"] for one in studies] == ["", f"{PARTIAL}1 slice is lost", "two patients"]
    assert [one["probability"] for one in studies] == [[0.2], [0.3], []]
