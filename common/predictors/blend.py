"""A predictor made of other predictors: their probabilities are blended, then calibrated.

predictor.json   kind `blend`: the blend, calibrators, digests of patients and studies fitted on
member_<i>/      the members, each a predictor folder that stands alone
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from common.ensembling.blending import Blender
from common.errors import InputError
from common.predictors.base import (
    AbstractPredictor,
    LoadPart,
    Networks,
    PredictOptions,
    RowLogits,
)
from common.predictors.composed import ComposedPredictor
from common.scoring.metrics import Floats
from common.scoring.predictions import probabilities_of
from common.slices.table import SliceTable


@dataclass
class BlendPredictor(ComposedPredictor):
    """Predictors whose probabilities are blended; see the base for what all have.

    The logits are those of the blend, before calibration. Views are averaged in each member, before
    its calibration. A row that a member can't read gets the prior.

    Attributes:
        members: in the order of the blend's weights; none where tables without predictors were
            blended, and then nothing can be predicted.
        member_names: what each is called.
        blender: makes one logit of the members' probabilities.
        fold_priors: the prior (k,) of each fold, mean over the members.
    """

    asks_alike: ClassVar[bool] = True
    kind: ClassVar[str] = "blend"
    members: Sequence[AbstractPredictor]
    member_names: Sequence[str]
    blender: Blender
    fold_priors: Mapping[int, Floats] = field(default_factory=dict)

    @property
    def parts(self) -> Mapping[str, AbstractPredictor]:
        return {f"member_{number}": member for number, member in enumerate(self.members)}

    def _own_json(self, folder: Path) -> dict[str, Any]:
        return {
            "model": {"name": f"{self.blender.options.method} of {', '.join(self.member_names)}"},
            "slice_offsets": [],
            "num_members": len(self.members),
            "member_names": list(self.member_names),
            "blend": self.blender.to_json(),
            "fold_priors": {str(f): self._by_label(prior) for f, prior in self.fold_priors.items()},
        }

    @classmethod
    def from_folder(
        cls, folder: Path, content: dict[str, Any], networks: Networks, load: LoadPart
    ) -> Self:
        if not content["num_members"]:
            raise InputError(
                f"{folder} blends prediction tables and has no networks: it can't predict; blend "
                f"experiments (--ens_experiments with their ids) instead"
            )
        return cls(
            members=[load(folder / f"member_{n}") for n in range(content["num_members"])],
            member_names=tuple(content["member_names"]),
            blender=Blender.from_json(content["blend"]),
            fold_priors={
                int(fold): np.array([prior[name] for name in content["label_names"]])
                for fold, prior in content.get("fold_priors", {}).items()
            },
            **cls._shared_fields(content),
        )

    def _predict(
        self, table: SliceTable, rows: NDArray[np.int64], options: PredictOptions
    ) -> RowLogits:
        results, unreadable = self._predict_parts(table, rows, options)
        probabilities = [
            probabilities_of(result.logits, member.calibration)
            for member, result in zip(self.members, results, strict=True)
        ]
        logits = self.blender.apply(np.stack(probabilities)).astype(np.float32)
        return self.filled(logits, unreadable)
