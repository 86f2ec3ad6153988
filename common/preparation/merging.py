"""A dataset made of another one and slices with labels of another kind, sharing their pixels."""

import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError
from common.files import replacing_folder, write_json, write_text
from common.preparation.manifest import MANIFEST_FILE, read_manifest, table_counts, table_hashes
from common.preparation.tables import LABELS_OF_STUDY, set_labels_of_studies, studies_of_slices
from common.slices.folds import (
    ALWAYS_TRAINING,
    FOLDS_FILE,
    TEST_SPLIT,
    TRAIN_SPLIT,
    is_in,
    is_pseudo,
    owners,
    read_folds,
)
from common.slices.leakage import MERGED, dataset_sources
from common.slices.pixel_steps import recorded_steps
from common.slices.table import (
    SLICE_COLUMNS,
    SLICES_FILE,
    STATUS_OK,
    STORE_FOLDER,
    STUDIES_FILE,
    SliceTable,
)
from common.tables import read_parquet, write_parquet
from common.words import count

logger = logging.getLogger(__name__)

UNUSED_SPLIT = "none"


@dataclass(frozen=True)
class Labelled:
    """Slices that get labels.

    Attributes:
        image_ids: (n,).
        labels: (n, k), NaN where unknown.
    """

    folder: Path
    image_ids: NDArray[Any]
    labels: NDArray[np.float32]
    label_source: str


@dataclass(frozen=True)
class Merged:
    """Counts of a merge.

    Attributes:
        num_added: slices that got labels.
        num_of_patients: slices left out as their patients are validated (or tested) on.
        num_linked, num_copied: store files.
        num_positive: of the added slices by label, probability counted as share.
        num_unknown: of them, by label.
    """

    num_added: int
    num_of_patients: int
    num_linked: int
    num_copied: int
    num_positive: dict[str, float]
    num_unknown: dict[str, int]

    def lines(self) -> list[str]:
        labels = ", ".join(
            f"{name} {number:.0f} ({self.num_unknown[name]} unknown)"
            for name, number in self.num_positive.items()
        )
        return [
            f"added {count(self.num_added, 'slice')}, positive: {labels}",
            f"left out {count(self.num_of_patients, 'slice')} of patients that are validated or "
            f"tested on",
            f"store files: {self.num_linked} shared, {self.num_copied} copied",
        ]


def merge_dataset(
    base: Path, added: Labelled, target: Path, label_names: Sequence[str], note: dict[str, Any]
) -> Merged:
    """Write a dataset folder: `base` and the slices that get labels, which are always trained on.

    Slices of the base's own test keep their split, so that they are predicted as before; slices of
    another dataset become training slices, the others of their series come along without labels,
    as neighbours. A patient who is in a fold never comes in, nor does one of another dataset who
    is in the base's test. Store files are hard links where the file system can, else copies.

    Args:
        base: the dataset that is trained on.
        note: how the dataset was made, for the manifest.

    Raises:
        InputError: the target exists, datasets differ in their pixel steps or share images, or
            nothing is left to add.
    """
    if target.exists():
        raise InputError(f"{target} exists: choose another name for the new dataset")
    is_own = added.folder.resolve() == base.resolve()
    if not is_own and recorded_steps(base) != recorded_steps(added.folder):
        raise InputError(
            f"{added.folder} was prepared with other pixel steps than {base}: prepare it with the "
            f"same --pre_head_crop, --pre_brain_crop, --pre_spacing and --pre_size"
        )
    slices = SliceTable.load(base).frame
    folds = _read_folds(base)
    others = None if is_own else SliceTable.load(added.folder).frame
    chosen, num_of_patients = _allowed(added, slices, folds, others)
    if not chosen.any():
        raise InputError(
            f"no slice is left to add: {num_of_patients} are of patients that are validated or "
            f"tested on, others are not sure enough; change --pl_positive and --pl_negative"
        )
    image_ids, labels = added.image_ids[chosen], added.labels[chosen]
    if others is not None:
        slices = _with_others(slices, others, image_ids, added.folder.name)
    slices = _with_labels(slices, image_ids, labels, added.label_source, label_names)
    new_folds = _with_folds(folds, slices, image_ids)
    with replacing_folder(target) as temporary:
        write_parquet(temporary / SLICES_FILE, slices)
        studies = _studies(slices, [base, added.folder], label_names)
        write_parquet(temporary / STUDIES_FILE, studies)
        write_text(temporary / FOLDS_FILE, new_folds.to_csv(index=False))
        num_linked, num_copied = _share_store(slices, [base, added.folder], temporary)
        _write_manifest(temporary, base, added.folder, slices, note)
        if target.exists():
            raise InputError(
                f"{target} exists by now, another process made it: choose another name"
            )
    known = ~np.isnan(labels)
    return Merged(
        num_added=len(image_ids),
        num_of_patients=num_of_patients,
        num_linked=num_linked,
        num_copied=num_copied,
        num_positive={n: float(np.nansum(labels[:, k])) for k, n in enumerate(label_names)},
        num_unknown={n: int((~known[:, k]).sum()) for k, n in enumerate(label_names)},
    )


def _read_folds(base: Path) -> pd.DataFrame:
    if any(base.glob(f"dataset_{base.name}_fold_*.csv")):
        raise InputError(
            f"{base} has given splits (dataset_*_fold_*.csv), which name no patients: remove them, "
            f"so that {FOLDS_FILE} says who is validated on"
        )
    folds = read_folds(base / FOLDS_FILE)
    if "fold" not in folds:
        raise InputError(f"{base / FOLDS_FILE} is a given split: make folds by preprocessing.py")
    return folds


def _allowed(
    added: Labelled, slices: pd.DataFrame, folds: pd.DataFrame, others: pd.DataFrame | None
) -> tuple[NDArray[np.bool_], int]:
    """Return which of the added slices may come in, and how many may not for their patients."""
    home = slices if others is None else others
    usable = home["status"].eq(STATUS_OK) & home["store_index"].notna()
    by_id = home[usable & home["image_id"].notna()].set_index("image_id")
    found = by_id.reindex(pd.Index(added.image_ids))
    validated = folds.loc[folds["fold"] != ALWAYS_TRAINING, "patient_id"]
    taken = is_in(owners(found), validated).copy()
    if others is not None:
        taken |= is_in(owners(found), owners(slices[slices["split"] == TEST_SPLIT]))
    known = found["store_file"].notna().to_numpy(dtype=bool, copy=True)
    # Labels of its own are not overwritten.
    if others is None:
        known &= ~is_in(pd.Series(added.image_ids), folds["image_id"])
    return known & ~taken, int((found["store_file"].notna().to_numpy(dtype=bool) & taken).sum())


def _with_others(
    slices: pd.DataFrame, others: pd.DataFrame, image_ids: NDArray[Any], name: str
) -> pd.DataFrame:
    """Return the base's slices and the series of the added ones."""
    is_added = is_in(others["image_id"], pd.Series(image_ids))
    series = others.loc[is_added, "series_id"]
    others = others[is_in(others["series_id"], series)].copy()
    if is_in(others["image_id"], slices["image_id"]).any():
        raise InputError(f"the dataset {name} has images of the other one: merge different ones")
    is_added = is_in(others["image_id"], pd.Series(image_ids))
    others["split"] = np.where(is_added, TRAIN_SPLIT, UNUSED_SPLIT)
    others["keep_for_training"] = is_added
    others["source_file"] = f"{name}/" + others["source_file"].astype("str")
    labels = [str(column) for column in slices if column not in SLICE_COLUMNS]
    others = others.assign(**dict.fromkeys(labels, np.nan))
    others["label_source"] = None
    merged = pd.concat([slices, others[[*SLICE_COLUMNS, *labels]]], ignore_index=True)
    return merged.astype(SLICE_COLUMNS | dict.fromkeys(labels, "float32"))


def _with_labels(
    slices: pd.DataFrame,
    image_ids: NDArray[Any],
    labels: NDArray[np.float32],
    label_source: str,
    label_names: Sequence[str],
) -> pd.DataFrame:
    # Files without an image id are many, and ids looked up have to be different.
    ids = slices["image_id"].dropna()
    rows = ids.index[pd.Index(ids.to_numpy(dtype=object)).get_indexer(pd.Index(image_ids))]
    slices = slices.astype({"label_source": "str"} | dict.fromkeys(label_names, "float32"))
    slices.loc[rows, list(label_names)] = labels
    slices.loc[rows, "label_source"] = label_source
    slices.loc[rows, "keep_for_training"] = True
    return slices


def _with_folds(folds: pd.DataFrame, slices: pd.DataFrame, image_ids: NDArray[Any]) -> pd.DataFrame:
    patients = owners(slices.set_index("image_id").loc[pd.Index(image_ids)])
    more = pd.DataFrame(
        {"image_id": image_ids, "patient_id": patients.to_numpy(), "fold": ALWAYS_TRAINING}
    )
    return pd.concat([folds, more], ignore_index=True)


def _studies(
    slices: pd.DataFrame, folders: Iterable[Path], label_names: Sequence[str]
) -> pd.DataFrame:
    """Return the studies of the slices; labels of whole studies are kept."""
    names = list(label_names)
    studies = studies_of_slices(slices, names)
    pseudo = slices.loc[is_pseudo(slices)].drop_duplicates("study_id").set_index("study_id")
    by_model = pseudo["label_source"].reindex(studies.index)
    studies["label_source"] = studies["label_source"].where(by_model.isna(), by_model)
    for folder in dict.fromkeys(folders):
        path = folder / STUDIES_FILE
        if not path.is_file():
            continue
        given = read_parquet(path, "run preprocessing.py again").set_index("study_id")
        is_given = given["label_source"].eq(LABELS_OF_STUDY) & given.index.isin(studies.index)
        set_labels_of_studies(studies, given.loc[is_given, names])
    return studies.reset_index()[["study_id", "patient_id", *names, "label_source"]]


def _share_store(slices: pd.DataFrame, folders: Iterable[Path], target: Path) -> tuple[int, int]:
    """Link, or copy, the store files that the slices name; return how many of each."""
    store = target / STORE_FOLDER
    store.mkdir(parents=True)
    num_linked = num_copied = 0
    for name in slices["store_file"].dropna().unique():
        places = [folder / STORE_FOLDER / str(name) for folder in folders]
        source = next((place for place in places if place.is_file()), None)
        if source is None:
            raise InputError(f"{places[0]} is missing: run preprocessing.py again as it was run")
        try:
            os.link(source, store / str(name))
            num_linked += 1
        except OSError:
            shutil.copyfile(source, store / str(name))
            num_copied += 1
    return num_linked, num_copied


def _write_manifest(
    folder: Path, base: Path, added: Path, slices: pd.DataFrame, note: dict[str, Any]
) -> None:
    manifest = read_manifest(base)
    content = {
        "source": MERGED,
        "sources": sorted({*dataset_sources(base), *dataset_sources(added)}),
        "folder": str(base.resolve()),
        "complete": True,
        "parameters": manifest["parameters"] | {"merged": note},
        "versions": manifest.get("versions", {}),
        "counts": manifest["counts"] | table_counts(slices),
        "sha256": table_hashes(folder),
    }
    write_json(folder / MANIFEST_FILE, content)
