"""Flags of preprocessing.py."""

from dataclasses import dataclass, field
from typing import Literal

from flags.parsing import Switch, at_least, matches, require


@dataclass(frozen=True)
class PreprocessingConfig:
    """How DICOM becomes a dataset."""

    pre_source: Literal["demo", "rsna", "ct_ich", "cq500", "dicom"] = "demo"
    """Kind of the data in pre_folder; demo makes its own."""
    pre_folder: str | None = None
    """Folder of the original files (demo: made there; default <data_input_folder>/demo); for dicom
    also a zip archive."""
    pre_num_folds: int = 5
    """Number of patient folds."""
    pre_fold_seed: int = 4667
    """Seed of the folds."""
    pre_valid_fraction: float = 0.0
    """Share of the patients that one split validates on, as --data_fold 0, instead of folds (0)."""
    pre_fold_by: Literal["patient", "source"] = "patient"
    """source: each fold is one hospital or scanner, for external validation: the column source of
    pre_labels, else the folders directly in pre_folder, else InstitutionName (as a hash)."""
    pre_drop_overlap: Switch = 0
    """1: training slices of patients that are in the test too, or that share pixels with patients
    of another fold, are not trained on."""
    pre_remove: Switch = 0
    """1: remove volumes of which files are not seen this time, or make them of the others, instead
    of keeping them as they were stored: such files may lie on a disk that is not mounted."""
    pre_labels: str | None = None
    """csv file of labels for pre_source dicom: a column SOPInstanceUID, StudyInstanceUID,
    AccessionNumber or PatientID, and any of the six labels (0, 1 or empty)."""
    pre_address: str | None = None
    """Address of a Dask scheduler whose workers do the work, such as tcp://host:8786, in place of
    n_jobs processes of this machine. docs/how_to/preprocessing_cluster.md lists what they need."""
    pre_series_timeout_s: float = 900
    """Seconds that a series, or the header of a file, may take before it is given up (0: no
    limit). Not with --n_jobs 0."""
    pre_series_memory_mb: float = 4000
    """Memory in MB that a process may take for one series before it is given up (0: no limit but
    an equal share of this machine's). Not with --n_jobs 0."""
    pre_check: Switch = 0
    """1: verify the prepared dataset instead of preparing it; status 3 where something is wrong."""
    pre_report: Switch = 0
    """1: write report.html about the dataset into its folder. A prepared dataset needs neither
    pre_source nor pre_folder."""
    pre_brain_min: float = 0.0
    """Leave training slices out of training that lie below the first or above the last slice of
    their series with this share of pixels from 0 to 80 HU, such as 0.05 (0: none)."""
    pre_head_crop: Switch = 0
    """1: set what is not head to air, and cut each series to the box of its head."""
    pre_brain_crop: Switch = 0
    """1: set all outside the skull to air (scalp, head rest), and cut each series to the box of its
    brain and the bone around it; in place of pre_head_crop."""
    pre_spacing: float = 0.0
    """Resample slices to this pixel spacing in mm (0: as they are)."""
    pre_size: int = 0
    """Store slices of this many rows and columns (0: as they are): padded to a square and resized,
    or, with --pre_spacing, padded or cut around the middle."""
    pre_export: Literal["npy", "png"] | None = None
    """Write an 8-bit image per slice: npy in the window of its header, stretched to 0-255 for each
    image (as takmanman did; absolute HU are lost), or png in fixed windows."""
    pre_export_folder: str | None = None
    """Folder of these images (default: export_<kind> in the folder of the dataset)."""
    pre_export_windows: list[str] = field(default_factory=lambda: ["brain", "subdural", "soft"])
    """Windows of png: brain, subdural, soft, bone or header; three become red, green and blue,
    such as [brain,subdural,bone], one becomes grey."""

    def __post_init__(self) -> None:
        at_least(self, 2, "pre_num_folds")
        require(self, "pre_brain_min", 0 <= self.pre_brain_min < 1, "at least 0, less than 1")
        is_one = not (self.pre_head_crop and self.pre_brain_crop)
        require(self, "pre_brain_crop", is_one, "0 with --pre_head_crop 1: give one of both")
        usable = self.pre_spacing == 0 or 0.1 <= self.pre_spacing <= 5
        require(self, "pre_spacing", usable, "0, or from 0.1 to 5 mm")
        usable = self.pre_size == 0 or 32 <= self.pre_size <= 2048
        require(self, "pre_size", usable, "0, or from 32 to 2048 pixels")
        inside = 0 <= self.pre_valid_fraction < 1
        require(self, "pre_valid_fraction", inside, "at least 0, less than 1")
        by_patient = not self.pre_valid_fraction or self.pre_fold_by == "patient"
        require(self, "pre_fold_by", by_patient, "patient with --pre_valid_fraction")
        windows = self.pre_export_windows
        known = set(windows) <= {"brain", "subdural", "soft", "bone", "header"}
        rule = "one or three of brain, subdural, soft, bone, header"
        require(self, "pre_export_windows", known and len(windows) in (1, 3), rule)
        at_least(self, 0, "pre_fold_seed", "pre_series_timeout_s", "pre_series_memory_mb")
        rule = "of a Dask scheduler, such as tcp://host:8786"
        matches(self, r"(tcp|tls)://.+:\d+", rule, "pre_address")
