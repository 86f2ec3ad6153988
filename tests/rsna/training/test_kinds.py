"""Which parts a network has: the prefix of its name decides."""

import pytest

from config import Config
from rsna.training.kinds import parts_class
from rsna.training.parts import SliceParts
from rsna.training.sequence import SequenceParts
from rsna.training.series import JointParts, VolumeParts


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("tf_efficientnet_lite0", SliceParts),
        ("rsna-resnet-18", SliceParts),
        ("study-bigru", SequenceParts),
        ("joint-resnet18", JointParts),
        ("volume-resnet18", VolumeParts),
    ],
)
def test_the_prefix_chooses_the_parts(name: str, parts: type) -> None:
    assert parts_class(Config().with_flags(net_model=name)) is parts
