"""Flags of prediction and of its views."""

from dataclasses import dataclass
from typing import Literal

from common.errors import InputError
from common.scoring.kaggle_client import COMPETITION_PATTERN
from common.transforms.views import view_names
from flags.parsing import Switch, at_least, ids_in, matches, require


@dataclass(frozen=True)
class PredictorConfig:
    """A predictor in place of an experiment."""

    pr_predictor: str | None = None
    """Folder of a predictor, with its predictor.json, in place of --experiment_id."""


@dataclass(frozen=True)
class EngineConfig:
    """What runs the networks of a predictor."""

    pr_engine: Literal["torch", "openvino"] = "torch"
    """openvino: the engines that scripts/export.py wrote into the predictor, on the CPU. Neither
    torch nor a GPU is used."""
    pr_precision: Literal["float32", "bf16"] = "float32"
    """openvino: bf16 is faster where the processor has it. How far that changes probabilities was
    measured when the engines were exported."""

    @property
    def precision(self) -> Literal["float32", "bf16"] | None:
        """That of the engine; None for torch."""
        return None if self.pr_engine == "torch" else self.pr_precision


@dataclass(frozen=True)
class CalibrationConfig:
    """What scripts/calibrate.py writes."""

    cal_overwrite: Switch = 0
    """1: a calibrated predictor that is there already is replaced; 0: it is refused."""


@dataclass(frozen=True)
class PredictionConfig:
    """What predict.py reads and writes."""

    pr_input: str | None = None
    """Folder of DICOM files or zip archives, one zip archive, or a prepared dataset."""
    pr_output: str | None = None
    """Folder for the predictions."""
    pr_overwrite: Switch = 0
    """1: predictions that lie in --pr_output are replaced; 0: they are refused."""
    pr_pages: int = 50
    """Most studies that get a page with all their slices, study_<number>.html: those with the
    highest probability of any (0: no pages and no index.html)."""
    pr_dataframe: str | None = None
    """sample_submission.csv: writes submission.csv with its ids in its order."""
    pr_submit: str | None = None
    """Competition that the submission is sent to, with the kaggle client and its credentials, such
    as rsna-intracranial-hemorrhage-detection (none: it is only written)."""

    def __post_init__(self) -> None:
        at_least(self, 0, "pr_pages")
        rule = "the competition's name as in its address: small letters, digits and -"
        matches(self, COMPETITION_PATTERN, rule, "pr_submit")
        if self.pr_submit is not None and self.pr_dataframe is None:
            raise InputError(
                f"--pr_submit {self.pr_submit} needs --pr_dataframe: the competition's "
                f"sample_submission.csv"
            )


@dataclass(frozen=True)
class ReleaseConfig:
    """A published network that becomes an experiment."""

    im_source: str | None = None
    """Folder of the release, or its address on the model hub, such as
    ianpan/ct-head-hemorrhage-detection."""


@dataclass(frozen=True)
class ValidationConfig:
    """What scripts/validate.py scores."""

    ev_datasets: str | None = None
    """Datasets with commas between them, such as cq500,ct_ich."""
    ev_protocol: str | None = None
    """File of a frozen protocol: where there is none it is written and nothing is scored; else a
    run that differs from it, or data that have changed since, are refused."""

    def __post_init__(self) -> None:
        rule = "names of datasets with commas between them, such as cq500,ct_ich"
        matches(self, r"[\w.-]+(,[\w.-]+)*", rule, "ev_datasets")
        different = len(set(self.names)) == len(self.names)
        require(self, "ev_datasets", different, "each dataset once")

    @property
    def names(self) -> list[str]:
        """The datasets; none without the flag."""
        return [] if self.ev_datasets is None else self.ev_datasets.split(",")


@dataclass(frozen=True)
class SelectConfig:
    """Series that are used whatever the rules say."""

    pre_select: str | None = None
    """SeriesInstanceUIDs, separated by commas, or a file with one a line: they are not left out for
    what their headers name, and each is chosen for its study."""

    @property
    def ids(self) -> frozenset[str]:
        """The ids; none without the flag."""
        if self.pre_select is None:
            return frozenset()
        return ids_in("pre_select", self.pre_select)


@dataclass(frozen=True)
class ViewsConfig:
    """Test-time augmentation: other views of a slice, averaged with the plain one.

    Of predict.py, of evaluate.py on another dataset, and of the predictions that a training leaves.
    """

    pr_tta: int = 0
    """Extra passes with the test transform, averaged with the plain one."""
    pr_tta_views: str | None = None
    """Extra passes with deterministic views, such as flip_lr,rot90: flip_lr, flip_ud, rot90,
    rot180, rot270, transpose, transverse, swap (neighbours in reverse order), crop_tl, crop_tr,
    crop_bl, crop_br, crop_center; or the sets flip (flip_lr), d4 and crops."""
    pr_tta_mean: Literal["logits", "probabilities"] = "logits"
    """What is averaged over the views; given to --data_fold all, over the folds too."""

    def __post_init__(self) -> None:
        at_least(self, 0, "pr_tta")
        view_names(self.pr_tta_views)

    @property
    def names(self) -> tuple[str, ...]:
        return view_names(self.pr_tta_views, self.pr_tta)
