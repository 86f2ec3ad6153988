"""The RSNA 2019 Intracranial Hemorrhage Detection data, as Kaggle lays them out.

`stage_2_train.csv` (or stage_1) beside `stage_2_train/` or `stage_2_train_images/`, and, where
there are any, `stage_2_test/` or `stage_2_test_images/`. The label file has six rows per image,
`ID_<image>_<label>,<0 or 1>`; four images are listed twice.
"""

import logging
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from common.errors import InputError
from common.preparation import DicomReader, list_files
from common.preparation.label_file import union_of
from common.preparation.label_tables import label_values, read_label_table
from common.words import count
from rsna.sources.base import AbstractSource
from rsna_task import LABELS, SUBTYPES

logger = logging.getLogger(__name__)

STAGES = ("stage_2", "stage_1")
_FOLDER_ENDINGS = ("", "_images")


class RSNASource(AbstractSource):
    """The folder of the challenge; stage 2 where both stages are there, as it holds stage 1."""

    name: ClassVar[str] = "rsna"
    # 7,038 images lie in series with several slices at one position, and no header but the
    # position is left in them; every image of the test set has to be predicted all the same.
    keeps_ambiguous = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        stages = [stage for stage in STAGES if (self.folder / f"{stage}_train.csv").is_file()]
        if not stages:
            raise InputError(
                f"--pre_folder {folder}: no stage_2_train.csv or stage_1_train.csv there"
            )
        # Both label files can be beside the images of one stage.
        with_images = [stage for stage in stages if self._image_folder("train", stage) is not None]
        self.stage = (with_images or stages)[0]
        if self._image_folder("train") is None:
            raise InputError(
                f"--pre_folder {folder}: no folder {self.stage}_train or "
                f"{self.stage}_train_images beside {self.stage}_train.csv"
            )

    @property
    def reader(self) -> DicomReader:
        return DicomReader(self.folder)

    def files(self) -> pd.DataFrame:
        parts = []
        for split in ("train", "test"):
            name = self._image_folder(split)
            if name is None:
                logger.warning("no %s images of %s in the folder", split, self.stage)
            else:
                parts.append(list_files(self.folder, split, name))
        return pd.concat(parts, ignore_index=True)

    def labels(self) -> pd.DataFrame:
        """Return the labels of the training images, each once.

        Raises:
            InputError: the label file is not as the challenge made it.
        """
        path = self.folder / f"{self.stage}_train.csv"
        labels, num_repeated = read_label_rows(path)
        if num_repeated:
            logger.info("%s repeats %s: dropped", path.name, count(num_repeated, "row"))
        unlike = int(((labels["any"] - union_of(labels[list(SUBTYPES)])).fillna(0) != 0).sum())
        if unlike:
            logger.warning(
                "%s: in %s, any is not the OR of the others", path.name, count(unlike, "image")
            )
        return labels

    def parameters(self) -> dict[str, Any]:
        return {"stage": self.stage}

    def _image_folder(self, split: str, stage: str | None = None) -> str | None:
        names = (f"{stage or self.stage}_{split}{ending}" for ending in _FOLDER_ENDINGS)
        return next((name for name in names if (self.folder / name).is_dir()), None)


def read_label_rows(path: Path) -> tuple[pd.DataFrame, int]:
    """Return image_id with one column per label, and the number of rows that were repeated.

    A label without a row is NaN.

    Raises:
        InputError: other columns or labels, a value that is not 0 or 1, or repeated rows that
            contradict each other.
    """
    rows = read_label_table(path)
    if list(rows.columns) != ["ID", "Label"]:
        raise InputError(f"{path}: its columns must be ID,Label, not {','.join(rows.columns)}")
    rows["Label"] = label_values(rows, ["Label"], path)
    if rows["Label"].isna().any():
        raise InputError(f"{path}, line {rows['Label'].isna().idxmax()}: the label is missing")
    num_rows = len(rows)
    rows = rows.drop_duplicates()
    if rows["ID"].duplicated().any():
        first = rows.loc[rows["ID"].duplicated(), "ID"].iloc[0]
        raise InputError(f"{path} lists {first} with different labels")
    parts = rows["ID"].str.rpartition("_")
    if not set(parts[2].unique()) <= set(LABELS) or parts[0].eq("").any():
        raise InputError(f"{path}: IDs must end in _<label>, one of {', '.join(LABELS)}")
    table = rows.assign(image_id=parts[0], label=parts[2])
    wide = table.pivot(index="image_id", columns="label", values="Label")
    wide = wide.reindex(columns=list(LABELS)).astype("float32").reset_index()
    return wide.rename_axis(columns=None), num_rows - len(rows)
