"""A predictor made of other predictors: their probabilities are blended, then calibrated.

predictor.json   kind `blend`: the blend, calibrators, and digests of the studies fitted on
member_<i>/      the members, each a predictor folder that stands alone
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike

from common.blending import Blender, Floats
from common.calibration import calibrator_from_json, calibrator_to_json
from common.errors import InputError
from common.files import write_json
from common.metrics import DEFAULT_THRESHOLD
from common.predictions import Calibrator, prior_logits, probabilities_of
from common.predictor import (
    FORMAT_VERSION,
    JSON_FILE,
    AbstractPredictor,
    BuildModel,
    RowLogits,
    load_predictor,
)
from common.slices import SliceTable
from common.study_calibration import StudyCalibration
from common.views import PLAIN, Mean

_MEMBER = "member_{}"


@dataclass
class BlendPredictor(AbstractPredictor):
    """Predictors whose probabilities are blended; see the base for what all have.

    The logits are those of the blend, before calibration.

    Attributes:
        members: in the order of the blend's weights; none where tables without predictors were
            blended, and then nothing can be predicted.
        member_names: what each is called.
        blender: makes one logit of the members' probabilities.
        study_calibration: for probabilities of studies; None for the largest of the slices.
        fitted_on: digests of the studies that weights and calibrators were fitted on.
    """

    kind: ClassVar[str] = "blend"
    members: Sequence[AbstractPredictor]
    member_names: Sequence[str]
    blender: Blender
    label_names: Sequence[str]
    label_weights: Sequence[float]
    prior: Floats
    calibration: Calibrator | None = None
    study_calibration: StudyCalibration | None = None
    threshold: float = DEFAULT_THRESHOLD
    training: dict[str, Any] = field(default_factory=dict)
    fitted_on: Sequence[str] = ()

    @property
    def num_networks(self) -> int:
        """Networks that see each slice."""
        return sum(member.num_networks for member in self.members)

    def save(self, folder: Path) -> None:
        """Writes the members into folders of their own, then predictor.json."""
        for number, member in enumerate(self.members):
            member.save(folder / _MEMBER.format(number))
        prior = dict(zip(self.label_names, np.asarray(self.prior).tolist(), strict=True))
        content = {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "model": {"name": f"{self.blender.options.method} of {', '.join(self.member_names)}"},
            "label_names": list(self.label_names),
            "label_weights": list(self.label_weights),
            "prior": prior,
            "slice_offsets": [],
            "num_members": len(self.members),
            "member_names": list(self.member_names),
            "blend": self.blender.to_json(),
            "calibration": calibrator_to_json(self.calibration),
            "study_calibration": self.study_calibration and self.study_calibration.to_json(),
            "threshold": self.threshold,
            "training": self.training,
            "fitted_on": list(self.fitted_on),
        }
        write_json(folder / JSON_FILE, content)

    @classmethod
    def from_folder(cls, folder: Path, content: dict[str, Any], build_model: BuildModel) -> Self:
        """Returns the blend in `folder`, its members with it."""
        if not content["num_members"]:
            raise InputError(
                f"{folder} blends prediction tables and has no networks: it can't predict; blend "
                f"experiments (--ens_experiments with their ids) instead"
            )
        places = [folder / _MEMBER.format(number) for number in range(content["num_members"])]
        names = tuple(content["label_names"])
        return cls(
            members=[load_predictor(place, build_model) for place in places],
            member_names=tuple(content["member_names"]),
            blender=Blender.from_json(content["blend"]),
            label_names=names,
            label_weights=tuple(content["label_weights"]),
            prior=np.array([content["prior"][name] for name in names]),
            calibration=calibrator_from_json(content["calibration"]),
            study_calibration=StudyCalibration.from_json(content["study_calibration"]),
            threshold=content["threshold"],
            training=content["training"],
            fitted_on=tuple(content["fitted_on"]),
        )

    def predict_rows(
        self,
        table: SliceTable,
        rows: ArrayLike,
        *,
        batch_size: int = 64,
        num_workers: int = 0,
        num_views: int = 0,
        seed: int = 0,
        device: torch.device | str = "cpu",
        on_batch: Callable[[int], object] | None = None,
        views: Sequence[str] = (PLAIN,),
        mean: Mean = "logits",
        with_features: bool = False,
    ) -> RowLogits:
        """Returns the blended logits of rows; a row that a member can't read gets the prior.

        Views are averaged in each member, before its calibration.
        """
        if with_features:
            raise InputError("a blend has no features: ask one of its members for them")
        rows = np.asarray(rows, dtype=np.int64)
        probabilities, unreadable = [], np.zeros(len(rows), dtype=bool)
        for member in self.members:
            result = member.predict_rows(
                table,
                rows,
                batch_size=batch_size,
                num_workers=num_workers,
                num_views=num_views,
                seed=seed,
                device=device,
                on_batch=on_batch,
                views=views,
                mean=mean,
            )
            probabilities.append(probabilities_of(result.logits, member.calibration))
            unreadable |= result.unreadable
        logits = self.blender.apply(np.stack(probabilities)).astype(np.float32)
        logits[unreadable] = prior_logits(self.prior, self.calibration)
        return RowLogits(logits, unreadable)
