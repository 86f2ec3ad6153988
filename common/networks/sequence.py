"""Networks that give each slice of a series a probability per label: from outputs, or images."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from common.networks.classifier import ImageClassifierNetwork
from common.networks.state import StepOutput


class SequenceClassifierNetwork(ImageClassifierNetwork):
    """Multi-label classification of the slices of series of different lengths.

    A batch is made by `SequenceDataset`. A term of the loss is a slice with a label: padded steps
    and slices that are context only are none, so accumulated and uneven batches stay exact. The
    outputs of a step have one row per such slice; `features` are among them if asked for.

    Where the model gives `series_logits`, a series with a label of its own (`series_labels`) is one
    more term, beside those of its slices: a batch may hold series of both kinds. The outputs then
    have `series_logits` and `series_labels`, and `sample`, the series of each slice.

    Args:
        auxiliary_weight: of the loss of `auxiliary` logits, in training only.
        options: see `ImageClassifierNetwork`; `sample_ids` name the series.
    """

    inputs: ClassVar[tuple[str, ...]] = ("features", "logits", "metadata", "position_mm", "lengths")

    def __init__(self, *arguments: Any, auxiliary_weight: float = 1.0, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.auxiliary_weight = auxiliary_weight

    def to_device(self, batch: Any) -> Any:
        """Move a batch to the device, but for `lengths`, with the `places` of its slices.

        What depends on lengths is found on the host: there it makes nobody wait.
        """
        moved = super().to_device({**batch, "places": _places(batch)})
        return {**moved, "lengths": batch["lengths"]}

    def training_step(self, batch: Mapping[str, Tensor]) -> StepOutput:
        """Return the weighted loss of the smoothed labels, with that of auxiliary logits."""
        outputs = self._forward(batch)
        step = self._loss_of_all(batch, outputs, self.label_smoothing)
        if "auxiliary" not in outputs or not self.auxiliary_weight:
            return step
        other = self._slice_loss(batch, outputs["auxiliary"], self.label_smoothing)
        loss_sum = step.loss_sum + self.auxiliary_weight * other.loss_sum
        return StepOutput(loss_sum, step.num_terms, step.outputs)

    def validation_step(self, batch: Mapping[str, Tensor]) -> StepOutput:
        return self._loss_of_all(batch, self._forward(batch), 0.0)

    def prediction_step(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        places, outputs = _places(batch), self._forward(batch)
        if "series_logits" in outputs:  # one row per slice, as of all others
            of_series = outputs["series_logits"][:, None]
            outputs["series_logits"] = of_series.expand_as(outputs["logits"])
        names = ["logits", *(["series_logits"] if "series_logits" in outputs else [])]
        names += ["features"] if self.with_features else []
        found = {name: outputs[name].flatten(0, 1)[places] for name in names}
        return {**found, "index": batch["index"].flatten()[places]}

    def batch_ids(self, batch: Mapping[str, Tensor]) -> list[str]:
        if not len(self.sample_ids):
            return []
        return [self.sample_ids[i] for i in batch["sample"].tolist()]

    def _forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return self.forward({name: batch[name] for name in self.inputs})

    def _loss_of_all(
        self, batch: Mapping[str, Tensor], outputs: Mapping[str, Tensor], smoothing: float
    ) -> StepOutput:
        """Return the loss of slices and, where the model gives their logits, of series."""
        step = self._slice_loss(batch, outputs["logits"], smoothing)
        if "series_logits" not in outputs:
            return step
        logits, labels = outputs["series_logits"], batch["series_labels"]
        of_series = self._loss_of(logits, labels, batch["sample"], smoothing)
        num_slices = (batch["index"] >= 0).sum(dim=1)
        found = {"series_logits": logits.detach(), "series_labels": labels}
        found["sample"] = batch["sample"]
        num_all = len(_places(batch))
        repeated = {
            name: values.repeat_interleave(num_slices, dim=0, output_size=num_all)
            for name, values in found.items()
        }
        return StepOutput(
            step.loss_sum + of_series.loss_sum,
            step.num_terms + of_series.num_terms,
            {**step.outputs, **repeated},
        )

    def _slice_loss(
        self, batch: Mapping[str, Tensor], logits: Tensor, smoothing: float
    ) -> StepOutput:
        places = _places(batch)
        logits, labels = (v.flatten(0, 1)[places] for v in (logits, batch["labels"]))
        return self._loss_of(logits, labels, batch["index"].flatten()[places], smoothing)


class SeriesImageNetwork(SequenceClassifierNetwork):
    """The same for images of whole series: a batch is made by `SeriesImageDataset`."""

    inputs: ClassVar[tuple[str, ...]] = ("images", "metadata", "position_mm", "lengths")


def _places(batch: Mapping[str, Tensor]) -> Tensor:
    """Return which steps of a batch, one series after the other, count in loss and metrics."""
    if "places" in batch:
        return batch["places"]
    return (batch["index"].flatten() >= 0).nonzero().squeeze(1)
