import pytest
import torch

from common.precision import set_precision


@pytest.mark.parametrize("compiled", [False, True])
def test_algorithms_are_deterministic_where_asked_for(compiled, monkeypatch):
    with_compiler = torch.use_deterministic_algorithms
    calls = []
    monkeypatch.setattr(
        torch,
        "use_deterministic_algorithms",
        lambda mode: calls.append(mode) or with_compiler(mode),
    )
    before = torch.are_deterministic_algorithms_enabled()
    try:
        for deterministic in (True, False):
            set_precision(torch.device("cpu"), False, deterministic, compiled)
            assert torch.are_deterministic_algorithms_enabled() == deterministic
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        with_compiler(before)
    # It imports the compiler, which takes seconds.
    assert calls == ([True, False] if compiled else [])
