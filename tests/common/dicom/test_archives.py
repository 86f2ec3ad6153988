"""Members of zip archives: read as files are, or refused with a true reason."""

import io
import os
import shutil
import struct
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from archive_files import CENTRAL, patch, zip_folder, zip_members
from dicom_factory import write_ct, write_rsna
from hypothesis import given, settings
from hypothesis import strategies as st

from common.dicom import RejectedFile, archives, read_headers, read_hu
from common.dicom.archives import MemberStream, open_archive, open_source_file
from common.preparation import DicomReader, list_files, with_members

IMAGE = np.random.default_rng(0).integers(0, 3000, (16, 12)).astype(np.uint16)


def rejection(folder: Path, source_file: str) -> RejectedFile:
    reader = DicomReader(folder)
    with pytest.raises(RejectedFile) as caught:
        reader.read_headers(source_file)
        reader.read_pixels(source_file)
    assert "\n" not in caught.value.reason
    return caught.value


def ct_bytes(tmp_path: Path, **tags: object) -> bytes:
    return write_ct(tmp_path / "source.dcm", IMAGE, **tags).read_bytes()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_gives_what_the_file_gives(tmp_path: Path, method: int) -> None:
    data = ct_bytes(tmp_path, SOPInstanceUID="1.2.9")
    zip_members(tmp_path / "deep" / "A.ZIP", {"x/b.dcm": data}, method)
    reader = DicomReader(tmp_path)
    member = "deep/A.ZIP!/x/b.dcm"
    assert reader.read_headers(member) == reader.read_headers("source.dcm")
    assert reader.read_ids(member) == reader.read_ids("source.dcm")
    np.testing.assert_array_equal(
        reader.read_pixels(member).image_hu, reader.read_pixels("source.dcm").image_hu
    )


@settings(max_examples=50)
@given(
    st.binary(max_size=300),
    st.lists(
        st.one_of(
            st.tuples(st.just("read"), st.integers(-1, 350)),
            st.tuples(st.just("seek"), st.integers(0, 350)),
            st.tuples(st.just("end"), st.integers(-10, 0)),
        )
    ),
)
def test_a_member_reads_and_seeks_as_a_file_does(data: bytes, steps: list[tuple[str, int]]) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("m", data)
    with zipfile.ZipFile(packed) as file, file.open("m") as opened:
        stream, reference = MemberStream(opened, len(data)), io.BytesIO(data)
        for action, number in steps:
            if action == "read":
                assert stream.read(number) == reference.read(number)
            elif action == "seek":
                assert stream.seek(number) == reference.seek(number)
            elif len(data) + number >= 0:
                assert stream.seek(number, io.SEEK_END) == reference.seek(number, io.SEEK_END)
            assert stream.tell() == reference.tell()


def test_headers_unpack_no_pixels(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 60000, (2048, 1024)).astype(np.uint16)
    write_ct(tmp_path / "in" / "a.dcm", noise)
    zip_folder(tmp_path / "in", tmp_path / "a.zip")
    with open_source_file(tmp_path, "a.zip!/a.dcm") as stream:
        assert isinstance(stream, MemberStream)
        assert read_headers(stream)[0].rows == 2048
        assert len(stream._data) < noise.nbytes / 2
        stream.check()
        assert len(stream._data) == (tmp_path / "in" / "a.dcm").stat().st_size


NAMES = [
    "../x.dcm",
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\x.dcm",
    "..\\x",
    "a\nb",
    "ä\xa0",
    "a/../b",
    "!/b",
    "",
    "x.zip!/y.dcm",
    "-rf",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_only_looked_up_in_its_archive(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ct_bytes(tmp_path)
    zip_members(tmp_path / "in" / "a.zip", {name: data})
    opened: list[str] = []
    sys_open = io.FileIO

    def noting(path: Path, *args: object) -> io.FileIO:
        opened.append(str(path))
        return sys_open(path, *args)

    monkeypatch.setattr("io.FileIO", noting)
    monkeypatch.setattr("builtins.open", lambda *args, **kwargs: pytest.fail("a path was opened"))
    reader = DicomReader(tmp_path / "in")
    assert reader.read_headers(f"a.zip!/{name}")[0].rows == 16
    assert reader.read_pixels(f"a.zip!/{name}").image_hu.shape == (1, 16, 12)
    assert opened == [str(tmp_path / "in" / "a.zip")]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.zip", "in", "source.dcm"]


def test_a_member_of_an_archive_that_is_gone_is_no_path_either(tmp_path: Path) -> None:
    ct_bytes(tmp_path)
    (tmp_path / "in" / "a.zip!").mkdir(parents=True)
    assert rejection(tmp_path / "in", "a.zip!/../../source.dcm").status == "unreadable"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link.dcm")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(info, str(tmp_path / "source.dcm"))
    ct_bytes(tmp_path)
    caught = rejection(tmp_path, "a.zip!/link.dcm")
    assert (caught.status, caught.reason) == (
        "not_dicom",
        "a symbolic link in an archive: not followed",
    )


def test_a_member_that_unpacks_to_much_is_a_bomb(tmp_path: Path) -> None:
    zip_members(tmp_path / "a.zip", {"zeros": bytes(20 << 20)})
    caught = rejection(tmp_path, "a.zip!/zeros")
    assert caught.status == "zip_bomb"
    assert "times its packed size; the limit is 200" in caught.reason
    # Empty slices pack as well as bombs do; small members may.
    empty = write_ct(tmp_path / "e" / "empty.dcm", np.zeros((1024, 1024), np.uint16))
    zip_folder(empty.parent, tmp_path / "e.zip")
    assert DicomReader(tmp_path).read_pixels("e.zip!/empty.dcm").image_hu.max() == -1024


def test_declared_sizes_are_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ct_bytes(tmp_path)
    # Declared larger than any file may be: refused before anything is unpacked.
    patch(zip_members(tmp_path / "large.zip", {"m": data}), size=2**32 - 2)
    assert rejection(tmp_path, "large.zip!/m").status == "zip_bomb"
    # Declared smaller than it is, or larger: unpacked no further, and seen.
    small = patch(zip_members(tmp_path / "small.zip", {"m": data}), size=len(data) - 100)
    assert rejection(tmp_path, f"{small.name}!/m").status in ("bad_archive", "truncated")
    longer = patch(zip_members(tmp_path / "longer.zip", {"m": data}), size=len(data) + 100)
    assert rejection(tmp_path, f"{longer.name}!/m").status == "bad_archive"
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", len(data) - 1)
    zip_members(tmp_path / "limit.zip", {"m": data}, zipfile.ZIP_STORED)
    caught = rejection(tmp_path, "limit.zip!/m")
    assert (caught.status, caught.reason.split()[2]) == ("too_large", str(len(data)))


def test_an_archive_that_unpacks_to_much_is_refused_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zip_members(tmp_path / "a.zip", {f"{k}": bytes(1 << 20) for k in range(4)})
    assert len(open_archive(tmp_path / "a.zip").members) == 4
    with monkeypatch.context() as patched:
        patched.setattr(archives, "TOTAL_RATIO_FROM_BYTES", 1 << 21)
        caught = rejection(tmp_path, "a.zip")
        assert caught.status == "zip_bomb"
        assert "times its size, above the limit of 100" in caught.reason
    with monkeypatch.context() as patched:
        patched.setattr(archives, "MAX_TOTAL_BYTES", 1 << 21)
        assert rejection(tmp_path, "a.zip").reason.startswith("unpacks to 4194304 bytes")
    monkeypatch.setattr(archives, "MAX_DIRECTORY_BYTES", 100)
    assert "a list of members of" in rejection(tmp_path, "a.zip").reason


def test_members_that_share_packed_bytes_are_a_bomb(tmp_path: Path) -> None:
    """As in D. Fifield's bomb: one kernel of packed bytes, quoted by every member."""
    archive = zip_members(tmp_path / "a.zip", {"1": ct_bytes(tmp_path), "2": b"x"})
    data = bytearray(archive.read_bytes())
    second = data.index(CENTRAL, data.index(CENTRAL) + 4)
    struct.pack_into("<L", data, second + 42, 10)
    archive.write_bytes(data)
    assert (
        rejection(tmp_path, "a.zip").reason == "members share packed bytes, or lie beyond the file"
    )


def test_archives_in_archives_are_not_opened(tmp_path: Path) -> None:
    inner = zip_members(tmp_path / "inner.zip", {"m": ct_bytes(tmp_path)}).read_bytes()
    zip_members(tmp_path / "a.zip", {"inner.zip": inner, "disguised.dcm": inner, "no.zip": b"x"})
    for member in ("inner.zip", "disguised.dcm", "no.zip"):
        caught = rejection(tmp_path, f"a.zip!/{member}")
        assert caught.status == "nested_archive", member
        assert "not opened" in caught.reason
    (tmp_path / "IM0001").write_bytes(inner)
    told = rejection(tmp_path, "IM0001").reason
    # A worker copies files under names of its own: "name it .zip" would be no help there.
    assert "an archive (zip): unpack it" in told and "not by a worker" in told


def test_encrypted_and_oddly_packed_members_are_named(tmp_path: Path) -> None:
    patch(zip_members(tmp_path / "a.zip", {"m": ct_bytes(tmp_path)}), flags=1)
    assert str(rejection(tmp_path, "a.zip!/m")) == "encrypted: the member needs a password"
    zip_members(tmp_path / "b.zip", {"m": ct_bytes(tmp_path)}, zipfile.ZIP_BZIP2)
    assert "packed by method 12" in rejection(tmp_path, "b.zip!/m").reason


def test_damaged_archives_have_a_reason(tmp_path: Path) -> None:
    whole = zip_members(tmp_path / "w.zip", {"m": ct_bytes(tmp_path)}).read_bytes()
    for name, data, text in (
        ("cut.zip", whole[:-30], "cut off, or no zip archive"),
        ("text.zip", b"hello", "cut off, or no zip archive"),
        ("nothing.zip", b"", "cut off, or no zip archive"),
    ):
        (tmp_path / name).write_bytes(data)
        caught = rejection(tmp_path, name)
        assert (caught.status, text in caught.reason) == ("bad_archive", True), name
    (tmp_path / "w.zip").write_bytes(whole)
    assert str(rejection(tmp_path, "w.zip")) == (
        "not_dicom: an archive (zip) that was not asked to be opened"
    )
    zip_members(tmp_path / "none.zip", {})
    assert str(rejection(tmp_path, "none.zip")) == "bad_archive: an archive without files"
    # A DICOM file is one whatever it is called.
    shutil.copy(tmp_path / "source.dcm", tmp_path / "ct.zip")
    assert DicomReader(tmp_path).read_headers("ct.zip")[0].rows == 16


def test_names_in_old_and_in_wrong_encodings(tmp_path: Path) -> None:
    """Without a flag, names are in code page 437, where every byte is a letter."""
    archive = zip_members(tmp_path / "a.zip", {"xyz": ct_bytes(tmp_path)})
    archive.write_bytes(archive.read_bytes().replace(b"xyz", b"x\x84\xff"))
    assert list(open_archive(archive).members) == ["xä\xa0"]
    assert DicomReader(tmp_path).read_headers("a.zip!/xä\xa0")[0].rows == 16
    patch(archive, flags=0x800)  # the flag of UTF-8
    assert list(open_archive(archive).members) == ["xä\xa0"]
    assert DicomReader(tmp_path).read_headers("a.zip!/xä\xa0")[0].rows == 16


def test_no_damage_of_packed_pixels_passes(tmp_path: Path) -> None:
    archive = zip_members(tmp_path / "a.zip", {"m": ct_bytes(tmp_path)}, zipfile.ZIP_STORED)
    data = bytearray(archive.read_bytes())
    data[data.index(CENTRAL) - 3] ^= 1
    archive.write_bytes(data)
    assert str(rejection(tmp_path, "a.zip!/m")) == (
        "bad_archive: the member is damaged, or larger than declared"
    )


def test_flipped_bytes_give_the_image_or_a_rejection(tmp_path: Path) -> None:
    data = zip_members(tmp_path / "a.zip", {"m": ct_bytes(tmp_path)}).read_bytes()
    expected = DicomReader(tmp_path).read_pixels("a.zip!/m").image_hu
    rng = np.random.default_rng(1)
    for _ in range(300):
        damaged = np.frombuffer(data, np.uint8).copy()
        positions = rng.integers(0, len(damaged), rng.integers(1, 6))
        damaged[positions] = rng.integers(0, 256, len(positions))
        (tmp_path / "b.zip").write_bytes(damaged.tobytes())
        try:
            names = [f"b.zip!/{name}" for name in open_archive(tmp_path / "b.zip").members]
            for name in names:
                image_hu = DicomReader(tmp_path).read_pixels(name).image_hu
                np.testing.assert_array_equal(image_hu, expected)
        except RejectedFile:
            continue


def test_a_changed_archive_is_opened_anew(tmp_path: Path) -> None:
    reader = DicomReader(tmp_path)
    for rows in (16, 8):
        path = write_ct(tmp_path / "source.dcm", IMAGE[:rows])
        zip_members(tmp_path / "a.zip", {"m": path.read_bytes()})
        os.utime(tmp_path / "a.zip", ns=(rows, rows))
        assert reader.read_headers("a.zip!/m")[0].rows == rows
    caught = rejection(tmp_path, "a.zip!/gone")
    assert str(caught) == "unreadable: the archive has changed since it was listed"


def test_listing_archives_leaves_none_open(tmp_path: Path) -> None:
    zip_members(tmp_path / "a.zip", {"m": b"x"})
    zip_members(tmp_path / "none.zip", {})
    (tmp_path / "broken.zip").write_bytes(b"PK")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        assert len(with_members(list_files(tmp_path), tmp_path)) == 3
        assert rejection(tmp_path, "none.zip").status == "bad_archive"
    archive = open_archive(tmp_path / "a.zip")
    stream = archive.file.fp
    archive.close()
    assert stream is not None and stream.closed


def test_odd_ids_in_members_stay_ids(tmp_path: Path) -> None:
    path = write_rsna(tmp_path / "r.dcm", IMAGE, "../../x", SeriesInstanceUID="/etc/x")
    zip_members(tmp_path / "a.zip", {"m": path.read_bytes()})
    (header,) = DicomReader(tmp_path).read_headers("a.zip!/m")
    assert (header.image_id, header.series_id) == ("../../x", "/etc/x")
    with open_source_file(tmp_path, "a.zip!/m") as stream:
        assert read_hu(stream).image_hu.shape == (1, 16, 12)


READ_BOMB = """
import resource, sys
from pathlib import Path
from common.preparation import DicomReader, list_files, with_members
from common.dicom import RejectedFile
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    DicomReader(Path(sys.argv[1])).read_headers("bomb.zip!/m")
except RejectedFile as rejected:
    print(rejected.status)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.long
def test_a_bomb_costs_no_memory(tmp_path: Path, project_root: Path) -> None:
    """1 GB of zeros in 5 MB."""
    with (
        zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        file.open("m", "w") as member,
    ):
        for _ in range(1024):
            member.write(bytes(1 << 20))
    done = subprocess.run(
        [sys.executable, "-c", READ_BOMB, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=project_root,
        timeout=300,
    )
    status, growth_kb = done.stdout.split()
    assert status == "zip_bomb", done.stderr
    assert int(growth_kb) < 50_000
