"""The codes in result objects: pinned, with sound check digits, and as DICOM has them."""

import pytest
from pydicom.sr._concepts_dict import concepts

from rsna.codes import FINDINGS, NAMES, PROCEDURE, SITES
from rsna_task import LABELS

PINNED = {
    "epidural": ("82999001", None),
    "intraparenchymal": ("274100004", "12738006"),
    "intraventricular": ("50960005", "35764002"),
    "subarachnoid": ("21454007", "33930006"),
    "subdural": ("35486000", None),
    "any": ("1386000", "1101003"),
}
# Wikipedia, Verhoeff algorithm: the dihedral group D5 and powers of the permutation.
FLIPPED = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


def times(a: int, b: int) -> int:
    """The product in D5."""
    if a < 5:
        return (a + b) % 5 if b < 5 else 5 + (a + b) % 5
    return 5 + (a - b) % 5 if b < 5 else (a - b) % 5


def is_sound(number: str) -> bool:
    check = 0
    for place, digit in enumerate(map(int, reversed(number))):
        for _ in range(place % 8):
            digit = FLIPPED[digit]
        check = times(check, digit)
    return check == 0


@pytest.mark.parametrize(
    ("number", "is_right"),
    [
        ("2363", True),  # Wikipedia's example
        ("2364", False),
        ("73211009", True),  # diabetes mellitus, SNOMED's own example
        # Codes of public repositories for these labels that are no SNOMED codes.
        ("83329005", False),
        ("262052002", False),
        ("274110009", False),
        ("95457006", False),
    ],
)
def test_the_check_digit_is_verhoeffs(number, is_right):
    assert is_sound(number) is is_right


def test_the_table_is_pinned():
    assert set(LABELS) == set(FINDINGS) == set(NAMES) == set(PINNED)
    for label, (finding, site) in PINNED.items():
        assert FINDINGS[label].value == finding
        assert (SITES[label].value if label in SITES else None) == site


def test_codes_are_sound_and_of_snomed():
    for code in (*FINDINGS.values(), *SITES.values(), PROCEDURE):
        assert code.scheme_designator == "SCT"
        assert is_sound(code.value), code


@pytest.mark.parametrize(
    "code", [*SITES.values(), PROCEDURE, FINDINGS["any"], FINDINGS["intraventricular"]], ids=str
)
def test_codes_that_dicom_has_mean_what_it_says(code):
    meanings = [
        meaning
        for of_keyword in concepts["SCT"].values()
        for value, (meaning, _) in of_keyword.items()
        if value == code.value
    ]
    assert any(code.meaning.lower() in meaning.lower() for meaning in meanings), meanings
