"""A predictor of whole series: slice networks, and a sequence network over what they say.

    predictor.json   everything but the weights, in plain JSON
    model.pt         the weights of the sequence network, and the scaling of features
    slices_<n>/      the predictor of the n-th slice network

The slice predictors are those of the fold that the sequence network was validated on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from common.datasets.sequence import SequenceDataset
from common.features.slice_outputs import FeaturesInMemory, Scaling, SliceOutputs
from common.predictors.base import (
    WEIGHTS_FILE,
    AbstractPredictor,
    LoadPart,
    Networks,
    PredictOptions,
    RowLogits,
)
from common.predictors.composed import ComposedPredictor, predict_all
from common.predictors.engine import outputs_of
from common.scoring.predictions import Mean
from common.scoring.study_calibration import OWN_OF_SERIES
from common.slices.table import SliceTable

# Slices whose features are held at once: 160 MB of 2048 features.
_SLICES_AT_ONCE = 40_000
_SERIES_BATCH = 32


@dataclass
class StudyPredictor(ComposedPredictor):
    """A sequence network with the slice predictors that feed it; see the base.

    Rows are predicted within their whole series, whichever of its rows are asked for. Views are of
    the slices. A row that is read from a damaged store is left out of its series.

    Attributes:
        network: a `SeriesModel` of slice outputs, or what runs it in another engine; it may give
            `series_logits` of its own too.
        slice_predictors: in the order of its inputs.
        scalings: of the features of each slice predictor; None where they are not used.
        slice_views: the views of each slice predictor that its outputs in training were the mean
            of, and what was averaged; they are always part of what is predicted with.
        kept: of rows of `table`, what each slice predictor has said already in these views; of
            these it is not asked again. Not saved.
    """

    kind: ClassVar[str] = "study"
    network: Any
    slice_predictors: Sequence[AbstractPredictor]
    scalings: Sequence[Scaling | None]
    slice_views: Sequence[tuple[Sequence[str], Mean]]
    kept: Sequence[SliceOutputs | None] = ()
    table: SliceTable | None = None

    def __post_init__(self) -> None:
        assert len(self.slice_predictors) == len(self.scalings) == len(self.slice_views)
        for predictor in self.slice_predictors:
            assert tuple(predictor.label_names) == tuple(self.label_names)

    @property
    def parts(self) -> Mapping[str, AbstractPredictor]:
        return {f"slices_{n}": predictor for n, predictor in enumerate(self.slice_predictors)}

    @property
    def series_rule(self) -> str | None:
        """The network's own, where it gives logits of series."""
        return OWN_OF_SERIES if "series_logits" in self.network.output_names else None

    def _own_json(self, folder: Path) -> dict[str, Any]:
        import torch  # which takes seconds, and no prediction by an engine needs

        from common.checkpoint import save_weights

        scalings = [
            None if s is None else {"mean": torch.tensor(s.mean), "spread": torch.tensor(s.spread)}
            for s in self.scalings
        ]
        state = {"network": self.network.state_dict(), "scalings": scalings}
        return {
            "model": self.network.specification,
            "num_slice_predictors": len(self.slice_predictors),
            "slice_views": [{"views": list(v), "mean": mean} for v, mean in self.slice_views],
            "weights_sha256": save_weights(folder / WEIGHTS_FILE, state),
        }

    @classmethod
    def from_folder(
        cls, folder: Path, content: dict[str, Any], networks: Networks, load: LoadPart
    ) -> Self:
        network, scalings = networks.sequence_network(folder, content)
        return cls(
            network=network,
            slice_predictors=[
                load(folder / f"slices_{n}") for n in range(content["num_slice_predictors"])
            ],
            scalings=scalings,
            slice_views=[(tuple(item["views"]), item["mean"]) for item in content["slice_views"]],
            **cls._shared_fields(content),
        )

    def _predict(
        self, table: SliceTable, rows: NDArray[np.int64], options: PredictOptions
    ) -> RowLogits:
        shape = (len(table), len(self.label_names))
        found = {name: np.zeros(shape, np.float32) for name in self.network.output_names}
        is_read = np.zeros(len(table), dtype=bool)
        groups = table.groups_of(rows[table.readable[rows]])
        for part in _parts(groups, len(self.slice_predictors)):
            said = self._slice_outputs(table, part, options)
            known = np.logical_and.reduce([output.is_known for output in said])
            part = part[known[part]]
            dataset = SequenceDataset(table, part, said, ())
            if len(dataset):
                plain = PredictOptions(device=options.device)
                outputs = outputs_of(self.network, "outputs", dataset, _SERIES_BATCH, plain)
                for name, values in found.items():
                    values[dataset.rows] = outputs[name]
            is_read[part] = True
        of_series = found.get("series_logits")
        return self.filled(
            found["logits"][rows],
            ~is_read[rows],
            series_logits=None if of_series is None else of_series[rows],
        )

    def _slice_outputs(
        self, table: SliceTable, rows: NDArray[np.int64], options: PredictOptions
    ) -> list[SliceOutputs]:
        """Return what each slice predictor says of rows, or has said."""
        said: dict[int, SliceOutputs] = {}
        asked: dict[int, tuple[AbstractPredictor, PredictOptions]] = {}
        for number, predictor in enumerate(self.slice_predictors):
            own_views, own_mean = self.slice_views[number]
            views = tuple(dict.fromkeys([*own_views, *options.views]))
            mean = own_mean if len(own_views) > 1 else options.mean
            kept = self.kept[number] if self.kept and table is self.table else None
            if kept is None or len(views) > len(own_views) or not kept.is_known[rows].all():
                with_features = self.scalings[number] is not None
                own = replace(options, views=views, mean=mean, with_features=with_features)
                asked[number] = predictor, own
                continue
            said[number] = kept
            if options.on_batch is not None:
                options.on_batch(len(rows) * len(views) * predictor.num_networks)
        for number, found in zip(asked, predict_all(list(asked.values()), table, rows)):
            said[number] = self._outputs_of(number, table, rows, found)
        return [said[number] for number in range(len(self.slice_predictors))]

    def _outputs_of(
        self, number: int, table: SliceTable, rows: NDArray[np.int64], found: RowLogits
    ) -> SliceOutputs:
        """Return the prediction of a slice predictor as the sequence network sees it."""
        predictor, scaling = self.slice_predictors[number], self.scalings[number]
        logits = np.full((len(table), len(self.label_names)), np.nan, np.float32)
        logits[rows] = found.logits
        folds = np.full(len(table), -1, np.int64)
        folds[rows[~found.unreadable]] = 0
        name = str(predictor.training.get("experiment_id", ""))
        if scaling is None:
            return SliceOutputs(name, logits, folds)
        assert found.features is not None
        feature_rows = np.full(len(table), -1, np.int64)
        feature_rows[rows] = np.arange(len(rows))
        features = FeaturesInMemory(found.features.astype(self.network.feature_dtype))
        return SliceOutputs(name, logits, folds, features, feature_rows, {0: scaling})


def _parts(groups: list[NDArray[np.int64]], num_networks: int = 1) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of whole series, about as many at a time as may be held."""
    part: list[NDArray[np.int64]] = []
    num_slices = 0
    for group in groups:
        part.append(group)
        num_slices += len(group)
        if num_slices * num_networks >= _SLICES_AT_ONCE:
            yield np.concatenate(part)
            part, num_slices = [], 0
    if part:
        yield np.concatenate(part)
