"""Feature files for tests, written in one go."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.features.store import writing_features


def write_features(
    folder: Path, name: str, blocks: Iterable[tuple[Any, Any, int, str]], manifest: dict[str, Any]
) -> None:
    """Write blocks of (image_ids, features, fold, view), one after the other."""
    with writing_features(folder, name, manifest) as writer:
        for image_ids, features, fold, view in blocks:
            writer.append(image_ids, features, fold, view)
