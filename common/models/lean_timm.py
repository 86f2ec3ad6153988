"""timm without torchvision and torch._dynamo, whose imports take longer than torch's, and 200 MB.

Of torchvision timm's networks need one class, and of `timm.data`, which makes images with it, the
constants. While timm is imported, packages stand in their places whose modules can be imported
alone; whoever imports either later gets the whole. NaFlexViT asks torch._dynamo not to compile some
of its methods: those are compiled with the rest then.
"""

import importlib
import importlib.util
import sys
from importlib.machinery import PathFinder
from types import ModuleType

import torch

_PACKAGES = ("torchvision", "torchvision.ops", "timm.data")
_ABSENT = "torchvision.models"
"""It traces networks: timm does without."""


def import_timm() -> ModuleType:
    """Return timm; it is imported as it is where it, or torchvision, is there or is another."""
    if "timm" in sys.modules or "torchvision" in sys.modules:
        return importlib.import_module("timm")
    disable = torch.compiler.disable
    try:
        torch.compiler.disable = lambda function=None, *_, **__: function
        for name in _PACKAGES:
            sys.modules[name] = _empty_package(name)
        sys.modules[_ABSENT] = None  # type: ignore[assignment]
        return importlib.import_module("timm")
    except (ImportError, AttributeError):
        _forget("timm")
    finally:
        torch.compiler.disable = disable
        _forget("torchvision")
        _forget("timm.data")
    return importlib.import_module("timm")


def _empty_package(name: str) -> ModuleType:
    """Return a package that has not run; names that are asked of it are those of its constants."""
    parent = name.rpartition(".")[0]
    found = importlib.util.find_spec(parent) if parent else None
    path = None if found is None else found.submodule_search_locations
    specification = PathFinder.find_spec(name, path)
    if specification is None:
        raise ImportError(name)
    package = importlib.util.module_from_spec(specification)

    def constant(attribute: str) -> object:
        return getattr(importlib.import_module(f"{name}.constants"), attribute)

    package.__getattr__ = constant  # type: ignore[method-assign]
    return package


def _forget(name: str) -> None:
    for module in list(sys.modules):
        if module == name or module.startswith(f"{name}."):
            del sys.modules[module]
