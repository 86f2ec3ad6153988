import numpy as np
import pandas as pd
from slice_frames import slice_frame

from common.preparation.tables import studies_table

LABELS = ("bleed", "any")


def slices() -> pd.DataFrame:
    return slice_frame(
        image_id=list("abcdef"),
        patient_id=["p", "p", "p", "q", "q", None],
        study_id=["s1", "s1", "s2", "s3", "s3", None],
        bleed=[0.0, 1.0, 0.0, np.nan, 0.0, np.nan],
        any=[0.0, 1.0, 0.0, 1.0, np.nan, np.nan],
    )


def test_a_study_has_what_one_slice_has_and_lacks_what_all_lack() -> None:
    studies = studies_table(slices(), LABELS, None).set_index("study_id")
    assert studies.loc["s1", ["patient_id", "bleed", "any"]].tolist() == ["p", 1, 1]
    assert studies.loc["s2", ["patient_id", "bleed", "any"]].tolist() == ["p", 0, 0]
    assert np.isnan(studies.loc["s3", "bleed"])
    assert studies.loc["s3", "any"] == 1
    assert studies["label_source"].fillna("").tolist() == ["slices", "slices", ""]


def test_labels_of_studies_come_first() -> None:
    given = pd.DataFrame({"study_id": ["s3", "unknown"], "bleed": [1, 0], "any": [1, 0]})
    studies = studies_table(slices(), LABELS, given).set_index("study_id")
    assert studies.loc["s3", ["bleed", "any", "label_source"]].tolist() == [1, 1, "study"]
    assert len(studies) == 3
