"""A predictor: weights, transform, labels, prior and calibration as one folder that stands alone.

    predictor.json   everything but the weights, in plain JSON
    model.pt         the plain state dict
    engine.*         the same network for another engine (`common.predictors.engine`), if exported

Whoever predicts loads this folder and needs nothing of the training run that wrote it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError
from common.experiment import COPY_AGAIN, FORMAT_VERSION, JSON_FILE, WEIGHTS_FILE
from common.features.slice_outputs import Scaling
from common.files import file_sha256
from common.scoring.calibration import calibrator_from_json, calibrator_to_json
from common.scoring.metrics import DEFAULT_THRESHOLD, Floats
from common.scoring.predictions import Calibrator, Mean, prior_logits
from common.scoring.study_calibration import StudyCalibration, study_rule
from common.slices.table import SliceTable
from common.transforms.views import PLAIN

if TYPE_CHECKING:
    import torch
    from torch import nn

BuildModel = Callable[[dict[str, Any]], "nn.Module"]
LoadPart = Callable[[Path], "AbstractPredictor"]


class Networks(Protocol):
    """Opens the network of a predictor folder, in torch or in another engine.

    Both raise InputError where a file is missing or is not what was written.
    """

    def slice_network(self, folder: Path, content: dict[str, Any]) -> Any:
        """Return the network of a folder whose predictor.json has `content`."""

    def sequence_network(
        self, folder: Path, content: dict[str, Any]
    ) -> tuple[Any, list[Scaling | None]]:
        """Return the sequence network of a folder, and the scaling of features that it sees."""


@dataclass(frozen=True)
class RowLogits:
    """The prediction of n rows of a slice table.

    Attributes:
        logits: float32 (n, labels), the mean over views; the prior's where nothing could be read.
        unreadable: bool (n,): the rows that have the prior.
        features: float32 (n, dim), the mean over views, 0 where nothing could be read; None where
            they were not asked for.
        series_logits: float32 (n, labels), of the series of each row, for predictors that have
            their own; None where the series follow from their slices.
    """

    logits: NDArray[np.float32]
    unreadable: NDArray[np.bool_]
    features: NDArray[np.float32] | None = None
    series_logits: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class PredictOptions:
    """How rows are predicted.

    Attributes:
        batch_size: slices that go through a network at once.
        num_workers: processes that read and transform.
        views: names of the views that are averaged; see `common.transforms.views`. `(PLAIN,)` is
            the view of validation.
        mean: whether logits or probabilities are averaged over the views.
        seed: of random views; one of an image depends on it, the view and the image id.
        device: where networks run.
        amp_dtype: mixed precision of the networks that see images; None for float32.
        compile: whether these networks are compiled.
        on_batch: called with the number of slices of each finished batch, all views counted.
        with_features: return features too; InputError where there are none.
        known: predictions of the rows that have been made, by the `id` of their predictor.
        share: predicts the rows together with other processes, asked instead of the predictor
            itself; None where this process is alone (`common.predictors.sharing`).
    """

    batch_size: int = 64
    num_workers: int = 0
    views: Sequence[str] = (PLAIN,)
    mean: Mean = "logits"
    seed: int = 0
    device: "torch.device | str" = "cpu"
    amp_dtype: Literal["bf16", "fp16"] | None = None
    compile: bool = False
    on_batch: Callable[[int], object] | None = None
    with_features: bool = False
    known: "Mapping[int, RowLogits]" = field(default_factory=dict)
    share: "Share | None" = None


Share = Callable[["AbstractPredictor", SliceTable, NDArray[np.int64], PredictOptions], RowLogits]
_DEFAULT_OPTIONS = PredictOptions()
# Fields that predictor.json holds as they are, and that folders of earlier versions lack.
_OPTIONAL = ("fitted_on_salt", "calibrated_on", "operating_points", "conformal")
_NOT_FINITE = "the network gives logits that are not finite: its weights are bad"


@dataclass(kw_only=True)
class AbstractPredictor(ABC):
    """What predicts the rows of a slice table, kept in a folder that stands alone.

    A kind of predictor is a subclass and an entry in `PREDICTORS` (common/predictors/loading.py):
    a network, or something made of other predictors (`ComposedPredictor`).

    Attributes:
        kind: its name in predictor.json.
        gives_features: whether `predict_rows` can be asked for features.
        label_names: the labels, in the order of the logits.
        label_weights: their weights in the weighted log loss.
        prior: share of positives per label in training, clipped (`metrics.training_prior`).
        calibration: turns logits into calibrated ones; None where the logits are used as they are.
        study_prior: share of positive studies per label in training, clipped; None where an
            earlier version wrote the folder, which did not record it.
        study_calibration: makes probabilities of studies of those of slices; None for the largest.
        threshold: from which probability on a label is called present.
        training: where it comes from (experiment, dataset, fold, ...); plain types.
        fitted_on: digests of the patients, and of their studies, that blends and calibrators were
            fitted on.
        fitted_on_salt: of these digests; empty where an earlier version wrote a blend, and then
            they are of studies.
        calibrated_on: whose labels its calibrators were fitted to, and what that gains
            (`rsna.evaluation.calibrating`); None for those that its own experiment fitted.
        operating_points: from which probability on a study is called, by label
            (`rsna.evaluation.deciding`); None where none was chosen.
        conformal: below and above which probability a study is ruled out and in; None where
            nothing was calibrated.
    """

    kind: ClassVar[str]
    gives_features: ClassVar[bool] = False
    label_names: Sequence[str]
    label_weights: Sequence[float]
    prior: Floats
    study_prior: Floats | None = None
    calibration: Calibrator | None = None
    study_calibration: StudyCalibration | None = None
    threshold: float = DEFAULT_THRESHOLD
    training: dict[str, Any] = field(default_factory=dict)
    fitted_on: Sequence[str] = ()
    fitted_on_salt: str = ""
    calibrated_on: dict[str, Any] | None = None
    operating_points: dict[str, Any] | None = None
    conformal: dict[str, Any] | None = None

    @property
    def num_networks(self) -> int:
        """Networks that see each slice, for progress."""
        return 1

    @property
    def sees_whole_series(self) -> bool:
        """Whether rows are predicted within their series, which then must not be cut."""
        return True

    @property
    def series_rule(self) -> str | None:
        """How series get logits of their own, in words; None where they have none."""
        return None

    @property
    def study_rule(self) -> str:
        """How probabilities of studies come about, in words."""
        if self.series_rule is None:
            return study_rule(self.study_calibration)
        if self.study_calibration is None:
            return self.series_rule
        return f"{self.series_rule}, calibrated together with its largest slices"

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write predictor.json and what belongs to it, each in one step."""

    @classmethod
    @abstractmethod
    def from_folder(
        cls, folder: Path, content: dict[str, Any], networks: Networks, load: LoadPart
    ) -> Self:
        """Return the predictor of this kind in `folder`."""

    def predict_rows(
        self, table: SliceTable, rows: ArrayLike, options: PredictOptions = _DEFAULT_OPTIONS
    ) -> RowLogits:
        """Return the logits of rows of a slice table, int (n,), in their order.

        A row without readable pixels gets the prior. The default options are those of validation.
        """
        if options.with_features and not self.gives_features:
            raise InputError(
                f"a predictor of the kind {self.kind!r} has no features of slices: ask the slice "
                f"predictors in it"
            )
        if id(self) in options.known:
            return options.known[id(self)]
        wanted = np.asarray(rows, dtype=np.int64)
        try:
            if options.share is not None:
                return options.share(self, table, wanted, replace(options, share=None))
            return self._predict(table, wanted, options)
        except FloatingPointError as error:  # its advice is for who trains
            raise InputError(_NOT_FINITE) from error

    @abstractmethod
    def _predict(
        self, table: SliceTable, rows: NDArray[np.int64], options: PredictOptions
    ) -> RowLogits:
        """Return what `predict_rows` returns."""

    def filled(
        self,
        logits: NDArray[Any],
        unreadable: NDArray[np.bool_],
        features: NDArray[np.float32] | None = None,
        series_logits: NDArray[np.float32] | None = None,
    ) -> RowLogits:
        """Return logits (n, labels) with the prior's in the rows that could not be read."""
        if not np.isfinite(logits[~unreadable]).all():
            raise InputError(_NOT_FINITE)
        logits[unreadable] = prior_logits(self.prior, self.calibration)
        return RowLogits(logits.astype(np.float32), unreadable, features, series_logits)

    def _shared_json(self) -> dict[str, Any]:
        """Return the content of predictor.json that every kind has."""
        return {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "label_names": list(self.label_names),
            "label_weights": list(self.label_weights),
            "prior": self._by_label(self.prior),
            "study_prior": None if self.study_prior is None else self._by_label(self.study_prior),
            "calibration": calibrator_to_json(self.calibration),
            "study_calibration": self.study_calibration and self.study_calibration.to_json(),
            "threshold": self.threshold,
            "training": self.training,
            "fitted_on": list(self.fitted_on),
            **{name: getattr(self, name) for name in _OPTIONAL},
        }

    def _by_label(self, values: Floats) -> dict[str, float]:
        return dict(zip(self.label_names, np.asarray(values).tolist(), strict=True))

    @staticmethod
    def _shared_fields(content: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of `_shared_json`."""
        names = tuple(content["label_names"])
        of_studies = content.get("study_prior")
        return {
            "label_names": names,
            "label_weights": tuple(content["label_weights"]),
            "prior": np.array([content["prior"][name] for name in names]),
            "study_prior": of_studies and np.array([of_studies[name] for name in names]),
            "calibration": calibrator_from_json(content["calibration"]),
            "threshold": content["threshold"],
            "training": content["training"],
            # Folders of earlier versions lack these; blends had the first three.
            "study_calibration": StudyCalibration.from_json(content.get("study_calibration")),
            "fitted_on": tuple(content.get("fitted_on", ())),
            **{name: content[name] for name in _OPTIONAL if name in content},
        }


def checked_weights(folder: Path, content: Mapping[str, Any]) -> Path:
    """Return the weights file of a predictor; InputError unless it is what was written."""
    weights = folder / content.get("weights", WEIGHTS_FILE)
    if not weights.is_file():
        raise InputError(f"{weights} is missing: copy the whole predictor folder")
    if file_sha256(weights) != content["weights_sha256"]:
        raise InputError(
            f"{weights} is damaged, or not the file that {JSON_FILE} was written for: "
            f"{COPY_AGAIN}, or let its experiment write it (--tr_resume 1)"
        )
    return weights
