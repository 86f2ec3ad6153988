"""Every odd file is accounted for; what became of the named ones was checked by hand."""

import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK

from common.dicom import STATUSES, RejectedFile, read_headers, read_hu

# Looked at one by one with gdcmdump or a hex dump, not taken from what the reader said.
EXPECTED = {
    # transfer syntaxes of one and the same CT slice
    "CTImage.dcm": "ok",
    "CTImage.dcm_BigEndianExplicitTransferSyntax_1.2.840.10008.1.2.2.dcm": "ok",
    "CTImage.dcm_DeflatedExplicitVRLittleEndianTransferSyntax_1.2.840.10008.1.2.1.99.dcm": "ok",
    "CTImage.dcm_JPEG2000LosslessOnlyTransferSyntax_1.2.840.10008.1.2.4.90.dcm": "ok",
    "CTImage.dcm_JPEG2000TransferSyntax_1.2.840.10008.1.2.4.91.dcm": "ok",
    "CTImage.dcm_JPEGLSLosslessTransferSyntax_1.2.840.10008.1.2.4.80.dcm": "ok",
    "CTImage.dcm_JPEGLSLossyTransferSyntax_1.2.840.10008.1.2.4.81.dcm": "ok",
    "CTImage.dcm_JPEGProcess14SV1TransferSyntax_1.2.840.10008.1.2.4.70.dcm": "ok",
    "CTImage.dcm_JPEGProcess14TransferSyntax_1.2.840.10008.1.2.4.57.dcm": "ok",
    "CTImage.dcm_JPEGProcess1TransferSyntax_1.2.840.10008.1.2.4.50.dcm": "ok",
    "CTImage.dcm_RLELosslessTransferSyntax_1.2.840.10008.1.2.5.dcm": "ok",
    # processes 2/4 with 12 bits, 6/8 and 10/12: nothing here decodes them
    "CTImage.dcm_JPEGProcess2_4TransferSyntax_1.2.840.10008.1.2.4.51.dcm": "unsupported_syntax",
    "CTImage.dcm_JPEGProcess6_8TransferSyntax_1.2.840.10008.1.2.4.53.dcm": "unsupported_syntax",
    "CTImage.dcm_JPEGProcess10_12TransferSyntax_1.2.840.10008.1.2.4.55.dcm": "unsupported_syntax",
    "CT0012.fragmented_no_bot_jpeg_baseline.51.dcm": "unsupported_syntax",
    # real CT with a quirk
    "CT1_J2KR": "ok",  # a byte ff after the end marker
    "CT1_JLSN.dcm": "ok",  # the same in JPEG-LS
    "bad_sequence.dcm": "ok",  # a private sequence that cannot be parsed
    "explicit_VR-UN.dcm": "ok",  # every element has VR UN
    "ELSCINT1_JP2vsJ2K.dcm": "ok",
    "TOSHIBA_J2K_SIZ0_PixRep1.dcm": "ok",  # unsigned codestream, signed header
    "TOSHIBA_J2K_SIZ1_PixRep0.dcm": "corrupt",  # signed codestream, unsigned header: 65,535 HU
    "JPEGLossless_1s_1f_i_16_16_bad.dcm": "corrupt",  # decodes to a strip and noise
    "MAROTECH_CT_JP2Lossy.dcm": "localizer",  # ORIGINAL\PRIMARY\LOCALIZER
    "eCT_Supplemental.dcm": "not_hu",  # a perfusion map, RescaleType US
    # other modalities and classes
    "no-pixel-data.dcm": "not_ct",  # a structured report
    "no-pixel-spacing.dcm": "not_ct",  # ultrasound
    "emri_small.dcm": "not_ct",
    "liver.dcm": "not_ct",  # a segmentation
    "parametric_map_float.dcm": "not_ct",
    "SC_rgb.dcm": "not_ct",  # a secondary capture
    "OT-PAL-8-face.dcm": "not_dicom",  # a bare dataset, without preamble
    "JLSL_RGB_ILV0.dcm": "not_dicom",  # the preamble is text, the marker missing
    # made malformed
    "BASELINE_valid_ct.dcm": "no_rescale",  # no (0028,1052) and (0028,1053), all zero
    "TC0233_rows_US_as_UL.dcm": "truncated",  # 132 bytes, nothing after DICM
    "TC0243_pixeldata_OB_as_OW.dcm": "truncated",  # 64 bytes for 64 x 64 pixels
    "TC0285_buf_half.dcm": "truncated",
    "TC0287_buf_2x.dcm": "overlong",
    "TC0291_buf_zero.dcm": "no_pixels",  # a pixel element of length 0
    "TC0295_rows_zero.dcm": "corrupt",
    "TC0299_bits_bsstored_gt_ba.dcm": "corrupt",
    "TC0303_bits_highbit_gt_ba.dcm": "corrupt",
    "TC0309_bits_ba_three.dcm": "corrupt",
    "TC0327_mono2_spp3.dcm": "color",
    "TC0329_rgb_spp1.dcm": "color",
    "TC0331_pi_invalid.dcm": "corrupt",
    "TC0337_mf_nf_zero.dcm": "corrupt",
    "TC0339_mf_nf_million.dcm": "too_large",
    "TC0341_mf_nf1_buf100.dcm": "overlong",
    "TC0343_declares_explicit_data_implicit.dcm": "no_rescale",
    "TC0345_deflate_corrupt.dcm": "truncated",  # the file meta itself is deflated
    "TC0377_no_preamble.dcm": "not_dicom",
    "TC0381_preamble_127.dcm": "not_dicom",  # DICM at byte 127
    "TC0391_meta_glen_zero.dcm": "truncated",  # a length was written over a VR
    "TC0401_invalid_ts.dcm": "unsupported_syntax",
}
NUM_FILES = 150
NUM_OK = 22


@pytest.fixture(scope="module")
def odd_files(test_data: Path) -> dict[str, Path]:
    return {path.name: path for path in (test_data / "odd_dicom").rglob("*") if path.is_file()}


def status_of(path: Path) -> str:
    try:
        read_hu(path)
    except RejectedFile as rejection:
        assert rejection.reason and "\n" not in rejection.reason
        return rejection.status
    return "ok"


def test_the_named_files_get_the_status_that_was_checked_by_hand(
    odd_files: dict[str, Path],
) -> None:
    assert len(EXPECTED) >= 40
    assert {name: status_of(odd_files[name]) for name in EXPECTED} == EXPECTED


def test_every_file_is_accounted_for_without_a_warning(odd_files: dict[str, Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        counts = Counter(status_of(path) for path in odd_files.values())
    assert counts.total() == NUM_FILES
    assert counts["ok"] == NUM_OK
    assert set(counts) <= {"ok", *STATUSES}


def test_reasons_hold_no_patient_name_or_id(odd_files: dict[str, Path]) -> None:
    for path in odd_files.values():
        try:
            read_hu(path)
        except RejectedFile as rejection:
            for value in patient_values(path):
                assert value not in rejection.reason


def patient_values(path: Path) -> list[str]:
    """The patient's name and id in a file that pydicom can read, where long enough to tell."""
    try:
        dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
    except Exception:
        return []
    values = [str(dataset.get(keyword, "")) for keyword in ("PatientName", "PatientID")]
    return [value for value in values if len(value) >= 4]


def test_headers_and_pixels_agree_on_what_is_rejected_early(odd_files: dict[str, Path]) -> None:
    for path in odd_files.values():
        try:
            headers = read_headers(path)
        except RejectedFile as rejection:
            assert status_of(path) == rejection.status
            continue
        if status_of(path) == "ok":
            assert tuple(headers) == read_hu(path).headers


def test_hu_equal_an_independent_reader(odd_files: dict[str, Path]) -> None:
    compared = 0
    for path in odd_files.values():
        try:
            image_hu = read_hu(path).image_hu
        except RejectedFile:
            continue
        reference = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
        reference = np.clip(np.rint(reference.astype(np.float64)), -1024, 31767)
        np.testing.assert_array_equal(image_hu, reference, err_msg=path.name)
        compared += 1
    assert compared == NUM_OK


def test_one_slice_in_all_lossless_syntaxes_is_one_image(odd_files: dict[str, Path]) -> None:
    first = read_hu(odd_files["CTImage.dcm"])
    assert first.num_padding == 55772  # the corners outside the round field of view, raw -2000
    for name, path in odd_files.items():
        if name.startswith("CTImage.dcm_") and status_of(path) == "ok":
            error = np.abs(read_hu(path).image_hu.astype(int) - first.image_hu)
            lossy = {"1.2.840.10008.1.2.4.91": 8, "1.2.840.10008.1.2.4.81": 4}
            limit = next((e for uid, e in lossy.items() if uid in name), 0)
            assert error.max() <= limit or "4.50" in name, name  # 4.50: 8 bits, 32 HU steps


def test_files_of_the_pydicom_package_are_never_fatal() -> None:
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    counts = Counter(status_of(path) for path in folder.rglob("*") if path.is_file())
    assert counts["ok"] >= 12
    assert set(counts) <= {"ok", *STATUSES}
