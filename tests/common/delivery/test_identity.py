"""UIDs follow from what they are made of, and from nothing else."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from common.delivery.identity import Identity


@given(st.lists(st.text(), min_size=1), st.sampled_from([None, "1.2.3", "1" + ".2" * 18]))
def test_uids_are_valid_and_the_same_again(made_of, root):
    uid = Identity(made_of, root).uid("series", "report")
    assert uid == Identity(list(made_of), root).uid("series", "report")
    assert UID(uid).is_valid
    assert uid.startswith("2.25." if root is None else f"{root}.")


@pytest.mark.parametrize(
    "other", [["a", "c"], ["ab"], ["b", "a"], ["a", "b", ""], ["a", "b", "c"]], ids=str
)
def test_another_content_gives_other_uids(other):
    assert Identity(["a", "b"]).uid("x") != Identity(other).uid("x")


def test_things_of_one_set_have_uids_of_their_own():
    identity = Identity(["a"])
    kinds = [("series", "report"), ("instance", "report"), ("instance", "map"), ()]
    assert len({identity.uid(*kind) for kind in kinds}) == len(kinds)


def test_a_uid_without_a_root_is_that_of_a_uuid_made_of_a_name():
    number = int(Identity(["a"]).uid("x").removeprefix("2.25."))
    assert re.fullmatch(r"[0-9a-f]{12}5[0-9a-f]{3}[89ab][0-9a-f]{15}", f"{number:032x}")
