"""A predictor made of other predictors: their probabilities are blended, then calibrated.

predictor.json   kind `blend`: the blend, calibrators, and digests of the studies fitted on
member_<i>/      the members, each a predictor folder that stands alone
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from common.ensembling.blending import Blender, Floats
from common.errors import InputError
from common.experiment import JSON_FILE
from common.files import write_json
from common.predictors.base import (
    AbstractPredictor,
    BuildModel,
    PredictOptions,
    RowLogits,
    load_predictor,
)
from common.scoring.calibration import calibrator_from_json, calibrator_to_json
from common.scoring.metrics import DEFAULT_THRESHOLD
from common.scoring.predictions import Calibrator, prior_logits, probabilities_of
from common.scoring.study_calibration import StudyCalibration
from common.slices.table import SliceTable

_MEMBER = "member_{}"


@dataclass
class BlendPredictor(AbstractPredictor):
    """Predictors whose probabilities are blended; see the base for what all have.

    The logits are those of the blend, before calibration. Views are averaged in each member, before
    its calibration. A row that a member can't read gets the prior.

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
        content = {
            **self._shared_json(),
            "model": {"name": f"{self.blender.options.method} of {', '.join(self.member_names)}"},
            "slice_offsets": [],
            "num_members": len(self.members),
            "member_names": list(self.member_names),
            "blend": self.blender.to_json(),
            "calibration": calibrator_to_json(self.calibration),
            "study_calibration": self.study_calibration and self.study_calibration.to_json(),
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
        return cls(
            members=[load_predictor(place, build_model) for place in places],
            member_names=tuple(content["member_names"]),
            blender=Blender.from_json(content["blend"]),
            calibration=calibrator_from_json(content["calibration"]),
            study_calibration=StudyCalibration.from_json(content["study_calibration"]),
            fitted_on=tuple(content["fitted_on"]),
            **cls._shared_fields(content),
        )

    def _predict(
        self, table: SliceTable, rows: NDArray[np.int64], options: PredictOptions
    ) -> RowLogits:
        probabilities, unreadable = [], np.zeros(len(rows), dtype=bool)
        for member in self.members:
            result = member.predict_rows(table, rows, **options.as_arguments())
            probabilities.append(probabilities_of(result.logits, member.calibration))
            unreadable |= result.unreadable
        logits = self.blender.apply(np.stack(probabilities)).astype(np.float32)
        logits[unreadable] = prior_logits(self.prior, self.calibration)
        return RowLogits(logits, unreadable)
