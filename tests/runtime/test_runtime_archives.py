"""Zip files: those that other readers accept, and that are not plain bundles."""

from __future__ import annotations

import io
import pathlib
import struct
import zipfile

import pytest
from dipole_runtime import GuidedPolicyError
from dipole_runtime.archive import Archive, archive_bytes
from dipole_runtime.manifest import (
    CRITIC,
)
from runtime_helpers import directory_of, refusal
from small_bundles import PAIR_DATA, zipped

Files = dict[str, bytes]


class TestZipFiles:
    """Archives that other readers accept."""

    @pytest.mark.parametrize(
        "name",
        ["../critic.onnx", "/tmp/critic.onnx", "a/critic.onnx", "critic.onnx/", "C:\\critic.onnx", "critic.onnx\n"],
    )
    def test_names_that_lead_elsewhere(self, files: Files, name: str, tmp_path: pathlib.Path) -> None:
        changed = {name if key == CRITIC else key: content for key, content in files.items()}
        path = tmp_path / "deep" / "b.dipole"
        path.parent.mkdir()
        path.write_bytes(zipped(changed))
        refusal(path, "nothing else")
        assert sorted(tmp_path.rglob("*")) == [path.parent, path]

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_a_name_twice(self, files: Files, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "b.dipole"
        with zipfile.ZipFile(path, "w") as archive:
            for name in (*PAIR_DATA, CRITIC):
                archive.writestr(name, files[name])
        refusal(path, CRITIC, "twice")

    def test_names_that_differ_in_the_two_places(self, files: Files, tmp_path: pathlib.Path) -> None:
        data = archive_bytes(files).replace(b"critic.onnx", b"CRITIC.onnx", 1)
        (tmp_path / "b.dipole").write_bytes(data)
        refusal(tmp_path / "b.dipole", CRITIC)

    def test_encryption(self, files: Files, tmp_path: pathlib.Path) -> None:
        data = bytearray(archive_bytes(files))
        struct.pack_into("<H", data, directory_of(data) + 8, 1)
        (tmp_path / "b.dipole").write_bytes(data)
        refusal(tmp_path / "b.dipole", "encrypted")

    @pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_unusual_compression(self, files: Files, method: int, tmp_path: pathlib.Path) -> None:
        (tmp_path / "b.dipole").write_bytes(zipped(files, method))
        refusal(tmp_path / "b.dipole", "compressed by method")

    def test_a_compressed_member_that_goes_on(self, files: Files, tmp_path: pathlib.Path) -> None:
        """The claim is the manifest's, the content is longer."""
        data = bytearray(zipped({**files, CRITIC: files[CRITIC] + b"more"}, zipfile.ZIP_DEFLATED))
        entry = directory_of(data)
        while not data.startswith(CRITIC.encode(), entry + 46):
            entry = data.index(b"PK\x01\x02", entry + 1)
        struct.pack_into("<L", data, entry + 24, len(files[CRITIC]))
        (tmp_path / "b.dipole").write_bytes(data)
        refusal(tmp_path / "b.dipole", CRITIC, "not as long as it says")

    def test_a_comment(self, files: Files, tmp_path: pathlib.Path) -> None:
        with zipfile.ZipFile(tmp_path / "b.dipole", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
            archive.comment = b"PK\x05\x06"
        refusal(tmp_path / "b.dipole", "zip file")

    def test_a_member_that_claims_more_than_is_allowed(self) -> None:
        """Whatever it is compressed to."""
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            archive = Archive(io.BytesIO(zipped({"a": bytes(100_000)}, method)))
            with pytest.raises(GuidedPolicyError, match="a has 100000 bytes in the zip file, expected at most 99999"):
                archive.read("a", 99_999)
            assert archive.read("a", 100_000) == bytes(100_000)

    def test_a_members_checksum(self) -> None:
        data = bytearray(zipped({"a": b"content"}))
        data[data.index(b"content")] ^= 1
        with pytest.raises(GuidedPolicyError, match="a is damaged"):
            Archive(io.BytesIO(bytes(data))).read("a", 100)

    def test_a_very_long_directory(self) -> None:
        data = zipped({"a": b"content"})
        comment = b"x" * (1 << 16)
        entry = bytearray(data[directory_of(data) : -22] + comment)
        struct.pack_into("<H", entry, 32, 0xFFFF)
        end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(entry), directory_of(data), 0)
        with pytest.raises(GuidedPolicyError, match="its directory is not where it says"):
            Archive(io.BytesIO(data[: directory_of(data)] + entry + end))

    def test_a_directory_that_is_longer_than_its_entries(self) -> None:
        data = zipped({"a": b"content"})
        end = struct.pack(
            "<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(data) - 22 - directory_of(data) + 4, directory_of(data), 0
        )
        with pytest.raises(GuidedPolicyError, match="longer than its entries"):
            Archive(io.BytesIO(data[:-22] + b"more" + end))

    def test_members_that_share_bytes(self) -> None:
        """The second begins inside the first, as in archives that hold one content many times."""
        inner = zipped({"b": b"content"})[:-22]
        inner = inner[: inner.index(b"PK\x01\x02")]
        data = bytearray(zipped({"a": inner, "b": b"content"}))
        second = data.index(b"PK\x01\x02", directory_of(data) + 1)
        struct.pack_into("<L", data, second + 42, data.index(inner))
        with zipfile.ZipFile(io.BytesIO(bytes(data))) as archive:
            entry = archive.getinfo("b")
        assert entry.header_offset == data.index(inner)
        with pytest.raises(GuidedPolicyError, match="overlaps"):
            Archive(io.BytesIO(bytes(data)))
