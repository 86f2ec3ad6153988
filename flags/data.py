"""Flags of the slices that are used, and how they become images."""

from dataclasses import dataclass
from typing import Literal

from flags.parsing import AUTO, at_least, between, matches, names_folder, require


@dataclass(frozen=True)
class DataConfig:
    """Which slices are used, and how they become images."""

    data_dataset: str = "demo"
    """Name of a prepared dataset: <data_input_folder>/datasets/<name>."""
    data_fold: int | Literal["all"] = 0
    """Fold to validate on; the others are trained on. all: a training for each fold, and tables of
    what each predicts of the patients that it has not seen."""
    data_leave_out_fold: int | None = None
    """Fold that is neither trained nor validated on, for nested stacking (ensemble.py
    --stack_nested 1), which prints the commands. Slice models only."""
    data_input_folder: str = "input"
    """Folder of all input."""
    data_train_transform: str = "train_small"
    """Training transform: a name in transforms/ or the path of a JSON file."""
    data_valid_transform: str = "valid_small"
    """Transform of validation and prediction; it may hold nothing random."""
    data_test_transform: str = "tta_small"
    """Transform of the extra passes of test-time augmentation (--pr_tta)."""
    data_sampler: Literal["balanced", "pos_range", "slices_per_study"] | None = None
    """How training slices are drawn (none: each once an epoch). balanced: all positive slices and
    as many negative ones, which change from epoch to epoch; pos_range: the share of positive ones
    falls over the training; slices_per_study: a few of each study, more often from its middle."""
    data_sampler_pos_start: float = 0.40
    """pos_range: share of positive slices at the start of the training."""
    data_sampler_pos_end: float = 0.14
    """pos_range: share of positive slices at its end."""
    data_sampler_num_slices: int = 4
    """slices_per_study: slices of each study in an epoch."""
    data_img_size: int = 0
    """Side of the square image the network sees, in pixels (0: as the transforms say)."""
    data_transform_device: Literal["cpu", "cuda", "auto"] = AUTO
    """Where training images are made of HU: cuda makes them in batches on the GPU that the network
    runs on, auto does so where it runs on one. Validation and prediction make theirs on the CPU."""
    data_neighbors: int = 0
    """Slices on each side that are channels beside the slice itself: 1 makes nine channels of three
    windows, slice by slice."""
    data_neighbor_end: Literal["last", "air"] = "last"
    """What stands for neighbours past either end of a series: its last slice again, or air."""
    data_neighbor_mm: float = 0.0
    """Neighbours are the slices nearest to this distance in mm, twice it and so on, whatever lies
    between (0: those next in the series, as also where slices have no position)."""

    data_features: str | None = None
    """Sequence networks: the slice experiments (of --data_fold all) that they see the outputs of,
    such as 0003 or 0003,0004."""
    data_study_thin: float = 0.25
    """Sequence, joint and volume networks: share of series of which training leaves every second
    slice out."""
    data_study_reverse: float = 0.5
    """Sequence, joint and volume networks: share of series that training sees from the other
    end."""
    data_study_crop: int = 0
    """Sequence, joint and volume networks: the most slices of a series in a training sample (0:
    all)."""
    data_bag_slices: int = 32
    """Bag networks: the most slices of a series in a training sample, evenly spaced from a place
    that is drawn (0: all)."""
    data_volume_spacing: float = 0.0
    """Volume networks: pixels of this many mm on a grid of data_img_size, before the transform
    (0: pixels as they are)."""

    def __post_init__(self) -> None:
        between(self, 0, 10, "data_neighbors")
        between(self, 0, 100, "data_neighbor_mm")
        between(self, 0, 4096, "data_img_size")
        at_least(self, 0, "data_study_crop", "data_bag_slices")
        between(self, 0, 1, "data_study_thin", "data_study_reverse")
        rule = "ids of experiments with commas between them, such as 0003,0004"
        matches(self, r"[A-Za-z0-9_-]+(,[A-Za-z0-9_-]+)*", rule, "data_features")
        at_least(self, 1, "data_sampler_num_slices")
        spacing = self.data_volume_spacing
        usable = spacing == 0 or (0.1 <= spacing <= 5 and self.data_img_size > 0)
        rule = "0, or from 0.1 to 5 mm and with --data_img_size"
        require(self, "data_volume_spacing", usable, rule)
        start, end = self.data_sampler_pos_start, self.data_sampler_pos_end
        require(self, "data_sampler_pos_start", 0 < start < 1, "greater than 0, less than 1")
        rule = f"greater than 0, at most --data_sampler_pos_start {start}"
        require(self, "data_sampler_pos_end", 0 < end <= start, rule)
        if isinstance(self.data_fold, int):
            at_least(self, 0, "data_fold")
        if self.data_leave_out_fold is not None:
            at_least(self, 0, "data_leave_out_fold")
            other = self.data_leave_out_fold != self.data_fold
            require(self, "data_leave_out_fold", other, "another fold than --data_fold")
        names_folder(self, "data_dataset")
