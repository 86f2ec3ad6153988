"""Damaged files never crash, hang, eat memory, or pass for sound with pixels of their own."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from dicom_damages import CUT, PIXELS
from dicom_elements import Sound, encode
from dicom_fuzzer import Case, make_case, sound_files
from fuzz_process import MAX_RSS_BYTES, LimitedProcess, Prepared
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from common.dicom import STATUSES, SliceHeader

NUM_QUICK = 120
NUM_LONG = 500
FIRST_LONG = 1000 * np.arange(1, 7)


@pytest.fixture(scope="module")
def files() -> list[Sound]:
    return sound_files()


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LimitedProcess]:
    with LimitedProcess(tmp_path_factory.mktemp("fuzz")) as limited:
        yield limited


def test_files_without_damage_are_stored(files: list[Sound], process: LimitedProcess) -> None:
    whole = [encode(sound, sound.elements) for sound in files]
    for sound, prepared in zip(files, process.prepare(whole)):
        assert [found["status"] for found in prepared.slices] == ["ok"] * len(sound.stored)
        stack = np.stack([found["hu"] for found in prepared.slices])
        np.testing.assert_array_equal(stack, sound.stored.astype(int) - 1024)


def test_a_case_is_a_function_of_its_number(files: list[Sound]) -> None:
    again = sound_files()
    for number in range(60):
        one, other = make_case(number, files), make_case(number, again)
        assert (one.damage, one.data) == (other.damage, other.data)


def test_damaged_files_a_few(files: list[Sound], process: LimitedProcess) -> None:
    check_cases(range(NUM_QUICK), files, process)


@pytest.mark.long
@pytest.mark.parametrize("first", FIRST_LONG)
def test_damaged_files_thousands(first: int, files: list[Sound], process: LimitedProcess) -> None:
    counts = check_cases(range(first, first + NUM_LONG), files, process)
    # Damage that is never noticed, or always refused, would test nothing.
    assert counts["ok"] > NUM_LONG / 10
    assert len(counts) >= 8


def check_cases(numbers: range, files: list[Sound], process: LimitedProcess) -> Counter[str]:
    """Prepare the cases, fail with a list of what went wrong, and return counts by status."""
    wrong, counts = [], Counter[str]()
    cases = [make_case(number, files) for number in numbers]
    for case, prepared in zip(cases, process.prepare([case.data for case in cases])):
        wrong += [f"case {case.number}, {case.damage}: {x}" for x in problems(case, prepared)]
        counts.update(found["status"] for found in prepared.slices)
    assert not wrong, f"{len(wrong)} problems\n" + "\n".join(wrong)
    return counts


def problems(case: Case, prepared: Prepared) -> list[str]:
    """Return what must not have become of a damaged file."""
    if prepared.fatal:
        return [prepared.fatal]
    found = []
    if prepared.rss_bytes > MAX_RSS_BYTES:
        found.append(f"{prepared.rss_bytes >> 20} MiB")
    if not all(re.fullmatch(r"[0-9a-f]{24}\.b2nd", name) for name in prepared.names):
        found.append("a store file with a name of its own")
    for entry in prepared.slices:
        if entry["status"] == "ok":
            found += stored_problems(case, entry)
        elif entry["status"] not in STATUSES:
            found.append(f"status {entry['status']}")
        elif not entry["reason"] or len(entry["reason"].splitlines()) != 1:
            found.append(f"reason {entry['reason']!r}")
    return found


def stored_problems(case: Case, entry: dict[str, Any]) -> list[str]:
    """Return what is wrong with a slice that was stored."""
    header: SliceHeader = entry["header"]
    found = []
    for name in ("position_mm", "tilt_deg", "window_center", "window_width"):
        value = getattr(header, name)
        if value is not None and not math.isfinite(value):
            found.append(f"{name} is {value}")
    for name in ("spacing_row", "spacing_column"):
        value = getattr(header, name)
        if value is not None and not 0 < value < 1000:
            found.append(f"{name} is {value}")
    expected = expected_images(case, header)
    if expected is None:
        return found
    if not any(is_image(entry["hu"], stored, header) for stored in expected):
        found.append("pixels that are not those of the file")
    return found


def expected_images(case: Case, header: SliceHeader) -> list[np.ndarray] | None:
    """Return the stored values that a header can rightly give the pixels of a file.

    None where the bytes of the pixels themselves were changed under a codec: DICOM has no
    checksum, so nobody can know. An empty list where no image may come of the file.
    """
    sound = case.sound
    encapsulated = UID(sound.syntax).is_encapsulated
    if case.kind == PIXELS and (encapsulated or sound.syntax == DeflatedExplicitVRLittleEndian):
        return None
    frame = header.frame or 0
    shape = header.num_frames, header.rows, header.columns
    if encapsulated:
        return [*readings(sound.stored[frame], header)] if shape == sound.stored.shape else []
    value = sound.elements[-1].value
    if case.kind == PIXELS:
        start = len(encode(sound, sound.elements)) - len(value)
        value = case.data[start : start + len(value)]
    order = ">" if sound.syntax == ExplicitVRBigEndian else "<"
    kind = "i" if header.pixel_representation else "u"
    dtype = np.dtype(f"{order}{kind}{header.bits_allocated // 8}")
    if math.prod(shape) * dtype.itemsize > len(value):
        return []
    if case.kind == CUT and shape != sound.stored.shape:
        return []
    stored = np.frombuffer(value, dtype, math.prod(shape)).reshape(shape)
    return [*readings(stored[frame], header)]


def readings(stored: np.ndarray, header: SliceHeader) -> Iterator[np.ndarray]:
    """Yield stored values as they are and with BitsStored and the sign of the header."""
    values = stored.astype(np.int64)
    yield values
    modulus = 1 << header.bits_stored
    unsigned = values % modulus
    yield unsigned
    yield np.where(unsigned >= modulus // 2, unsigned - modulus, unsigned)


def is_image(image_hu: np.ndarray, stored: np.ndarray, header: SliceHeader) -> bool:
    """Return whether HU are those of stored values; declared padding may have become air."""
    slope, intercept = header.rescale_slope, header.rescale_intercept
    values = stored
    is_unsigned_12bit = header.bits_stored == 12 and not header.pixel_representation
    if is_unsigned_12bit and slope == 1 and intercept > -100:  # RSNA's wrapped files
        values, intercept = (stored + 1000) % 4096 - 1000, 0.0
    hu = np.clip(np.rint(values * slope + intercept), -1024, 31767)
    differs = image_hu != hu
    if header.padding_value is not None:
        modulus = 1 << header.bits_allocated
        limit = header.padding_value if header.padding_limit is None else header.padding_limit
        signed = header.pixel_representation == 1
        ends = [
            value - modulus if signed and value >= modulus // 2 else value
            for value in (header.padding_value % modulus, limit % modulus)
        ]
        is_padding = (stored >= min(ends)) & (stored <= max(ends)) & (image_hu == -1024)
        differs &= ~is_padding
    return not differs.any()
