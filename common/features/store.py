"""Features of slices: what networks see in them, one row per image, fold and view.

    features/oof.b2nd       float16 (n, dim), features of rows by a network that has not seen them
    features/oof.parquet    row, image_id, fold, view of each
    features/manifest.json  experiment, dataset, digest of the folds, dim and views

`test.b2nd` and `test.parquet` are the same for rows that no fold validates: one row for each fold's
network, as each has a feature space of its own. Neither writing nor reading holds the whole.
"""

import contextlib
import functools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import blosc2
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from common.chunks import ChunkFile, ChunkFormat, ChunkWriter, UnreadableChunk
from common.errors import InputError
from common.files import replacing, write_json
from common.tables import write_parquet
from common.transforms.views import PLAIN

logger = logging.getLogger(__name__)

FEATURES_FOLDER = "features"
MANIFEST_FILE = "manifest.json"
COLUMNS = ("row", "image_id", "fold", "view")

# 35 slices of a study lie in two chunks of 256 KB at most, for 2048 features.
_CHUNK_ROWS = 64
_FORMAT = ChunkFormat("feature", np.float16, _CHUNK_ROWS, 2, "chunk_crc32", blosc2.Codec.ZSTD)
_CACHED_CHUNKS = 16


class FeatureWriter:
    """Takes rows as they come, and holds less than a chunk of them; see `writing_features`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._chunks: ChunkWriter | None = None
        self._pending: NDArray[np.float16] = np.empty((0, 0), np.float16)
        self._frames: list[pd.DataFrame] = []
        self.num_rows = 0

    @property
    def dim(self) -> int:
        """Features of a row; 0 before the first rows have come."""
        return self._pending.shape[1]

    def append(
        self,
        image_ids: Sequence[str] | NDArray[Any],
        features: ArrayLike,
        fold: int,
        view: str = PLAIN,
    ) -> None:
        """Add the features (n, dim) of n images, as the network of `fold` sees them in `view`.

        Raises:
            InputError: a feature is not finite in float16, whose largest number is 65504.
        """
        names = np.asarray(image_ids, dtype=object)
        self.append_rows(pd.DataFrame({"image_id": names, "fold": fold, "view": view}), features)

    def append_rows(self, frame: pd.DataFrame, features: ArrayLike) -> None:
        """Add the features (n, dim) of the n rows of `frame`: image_id, fold and view.

        Raises:
            InputError: see `append`.
        """
        with np.errstate(over="ignore"):
            values = np.asarray(features).astype(np.float16)
        if not np.isfinite(values).all():
            raise InputError(
                "the network gives features that are not finite as 16-bit numbers: its weights are "
                "bad, or leave the features out with --tr_features 0"
            )
        if self._chunks is None:
            self._pending = values[:0]
            self._chunks = ChunkWriter(_FORMAT, values.shape[1:], self._path)
        assert values.shape == (len(frame), self.dim), values.shape
        self._frames.append(frame[["image_id", "fold", "view"]].astype({"view": "str"}))
        self.num_rows += len(values)
        values = np.concatenate([self._pending, values])
        num_whole = len(values) - len(values) % _CHUNK_ROWS
        for start in range(0, num_whole, _CHUNK_ROWS):
            self._flush(self._chunks, values[start : start + _CHUNK_ROWS])
        self._pending = values[num_whole:].copy()

    def finish(self) -> pd.DataFrame:
        """Write what is left, and return the rows by their place in the file."""
        if self._chunks is None:
            raise ValueError(f"no features to write to {self._path}")
        if len(self._pending):
            self._flush(self._chunks, self._pending)
        self._chunks.write_checksums()
        frame = pd.concat(self._frames, ignore_index=True)
        frame.insert(0, "row", np.arange(len(frame), dtype=np.int64))
        repeated = int(frame.duplicated(["image_id", "fold", "view"]).sum())
        assert not repeated, f"{repeated} rows repeat an image in the same fold and view"
        return frame.astype({"fold": "int16", "view": "category"})

    def _flush(self, chunks: ChunkWriter, values: NDArray[np.float16]) -> None:
        chunk = np.zeros((_CHUNK_ROWS, self.dim), np.float16)
        chunk[: len(values)] = values
        try:
            chunks.append(chunk, len(values))
        # Blosc2's error where the disk is full.
        except RuntimeError as error:
            raise InputError(
                f"{self._path.parent}: features can't be written ({error}): free some space, and "
                f"go on by --tr_resume 1"
            ) from error


@contextlib.contextmanager
def writing_features(
    folder: Path, name: str, manifest: Mapping[str, Any]
) -> Iterator[FeatureWriter]:
    """Yield what takes the rows of `<folder>/<name>.b2nd`; the files are whole or absent.

    The table of rows and the manifest are written when the block ends without an error.

    Args:
        folder: the `features` folder of an experiment.
        name: `oof` or `test`.
        manifest: experiment, dataset and folds_sha256; dim and views are added.
    """
    # Without a table the features count as absent: an old table never describes new features.
    (folder / f"{name}.parquet").unlink(missing_ok=True)
    with replacing(folder / f"{name}.b2nd") as temporary:
        writer = FeatureWriter(temporary)
        yield writer
        frame = writer.finish()
    views = [str(view) for view in frame["view"].cat.categories]
    content = {**manifest, "dim": writer.dim, "views": sorted(views, key=lambda v: (v != PLAIN, v))}
    write_json(folder / MANIFEST_FILE, content)
    write_parquet(folder / f"{name}.parquet", frame)


class FeatureTable:
    """Features on disk, and which image each row is of.

    The table pickles and forks: each process opens the file for itself.

    Args:
        path: the `.b2nd` file.
        frame: its rows, with the columns of `COLUMNS`.
        manifest: what the manifest says.

    Attributes:
        dim: features of a row.
    """

    def __init__(self, path: Path, frame: pd.DataFrame, manifest: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.frame = frame
        self.manifest = dict(manifest)
        self.dim = int(manifest["dim"])
        self._positions: dict[tuple[str, int | None], pd.Series] = {}
        self._file = ChunkFile(_FORMAT, self.path)
        self._read_chunk = functools.lru_cache(_CACHED_CHUNKS)(self._file.read)

    @classmethod
    def load(cls, folder: Path, name: str) -> Self:
        """Return the features `<folder>/<name>`; folder is the `features` of an experiment.

        Raises:
            InputError: there are none, or the files are not of one writing.
        """
        path, manifest = folder / f"{name}.b2nd", folder / MANIFEST_FILE
        files = (path, path.with_suffix(".parquet"), manifest)
        missing = [file for file in files if not file.is_file()]
        if missing:
            raise InputError(
                f"no features at {missing[0]}: go on with the experiment by --tr_resume 1, which "
                f"writes those that are missing, or train one with --data_fold all and "
                f"--tr_features 1"
            )
        try:
            frame = pd.read_parquet(files[1])
            table = cls(path, frame, json.loads(manifest.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{folder}: features can't be read ({error}): restore them") from error
        try:
            shape = table._file.shape
        except UnreadableChunk as error:
            raise InputError(f"{path.parent}: {error}: restore it") from error
        is_table = set(COLUMNS) <= set(frame.columns)
        if shape != (len(frame), table.dim) or not is_table:
            raise InputError(
                f"{path} has {shape[0]} rows of {shape[1]} features, its table and manifest "
                f"{len(frame)} of {table.dim}: restore the folder"
            )
        return table

    def __len__(self) -> int:
        return len(self.frame)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "frame": self.frame, "manifest": self.manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def views(self) -> list[str]:
        """The views that there are."""
        return list(self.manifest["views"])

    @property
    def folds(self) -> list[int]:
        """The folds whose networks made the rows, ascending."""
        return sorted(int(fold) for fold in self.frame["fold"].unique())

    def rows_of(
        self,
        image_ids: Sequence[str] | pd.Series | NDArray[Any],
        view: str = PLAIN,
        fold: int | None = None,
    ) -> NDArray[np.int64]:
        """Return the row of each image in `view`, int64.

        Args:
            image_ids: (n,).
            view: one of `views`.
            fold: whose network made them; needed where several folds have the same image.

        Raises:
            InputError: an image has no such row, or rows of several folds.
        """
        positions = self._positions_of(view, fold)
        wanted = pd.Index(np.asarray(image_ids, dtype=object))
        rows = positions.reindex(wanted).fillna(-1).to_numpy(dtype=np.int64)
        num_missing = int((rows < 0).sum())
        if num_missing:
            where = "" if fold is None else f" of fold {fold}"
            raise InputError(
                f"{self.path}: {num_missing} of {len(rows)} images have no features{where} in the "
                f"view {view!r}; there are {', '.join(self.views)}"
            )
        return rows

    def read(self, rows: ArrayLike) -> NDArray[np.float32]:
        """Return the features of rows, float32 (n, dim), in the order asked for.

        Raises:
            InputError: the file is damaged.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        result = np.empty((len(wanted), self.dim), np.float32)
        chunks = wanted // _CHUNK_ROWS
        for chunk in np.unique(chunks):
            chosen = chunks == chunk
            try:
                values = self._read_chunk(int(chunk))
            except UnreadableChunk as error:
                raise InputError(f"{self.path.parent}: {error}: restore it") from error
            result[chosen] = values[wanted[chosen] % _CHUNK_ROWS]
        return result

    def _positions_of(self, view: str, fold: int | None) -> pd.Series:
        if (view, fold) not in self._positions:
            chosen = self.frame["view"].eq(view)
            if fold is not None:
                chosen &= self.frame["fold"].eq(fold)
            frame = self.frame[chosen]
            if frame["image_id"].duplicated().any():
                raise InputError(
                    f"{self.path} has features of several folds for an image: say which"
                )
            ids = frame["image_id"].to_numpy(dtype=object)
            self._positions[view, fold] = pd.Series(frame["row"].to_numpy(), index=ids)
        return self._positions[view, fold]
