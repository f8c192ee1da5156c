"""Zip files with known names: written deterministically, and read without exceeding the allowed memory.

The standard library's reader trusts an archive's own statements about its directory, and keeps an object for each of
possibly millions of entries. This reader checks sizes and positions first, and accepts only what a writer of a few
plain files makes.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from dipole_runtime.errors import GuidedPolicyError, shown

_END = struct.Struct("<4s4H2LH")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
MOST_MEMBERS = 16
_MAX_DIRECTORY_SIZE = 1 << 16
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_STORED, _DEFLATED = 0, 8


@dataclass(frozen=True)
class _Member:
    name: str
    method: int
    checksum: int
    compressed: int
    size: int
    start: int


def archive_bytes(members: Mapping[str, bytes]) -> bytes:
    """A zip file that depends only on the members' names and contents: sorted, uncompressed, dated 1980-01-01."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            # Otherwise the file depends on the operating system that writes it.
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, members[name])
    return file.getvalue()


class Archive:
    """A plain zip file of a few members; the directory is checked at once, a member when it is read.

    :param file: seekable; must stay open while members are read.
    :raises GuidedPolicyError: any other file, or a name that occurs twice.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        end = file.seek(0, io.SEEK_END) - _END.size
        directory, entries = self._directory(end)
        self._members: dict[str, _Member] = {}
        place = 0
        for _ in range(entries):
            member, place = self._member(directory, place)
            if member.name in self._members:
                raise GuidedPolicyError(f"the zip file holds {shown(member.name)} twice, expected it once")
            self._members[member.name] = member
        if place != len(directory):
            raise _damaged("its directory is longer than its entries")
        # With members that share bytes, a small archive could contain a large one many times.
        after = 0
        for member in sorted(self._members.values(), key=lambda one: one.start):
            if member.start < after:
                raise _damaged(f"{member.name} overlaps another member")
            after = member.start + _LOCAL.size + member.compressed
        if after > end - len(directory):
            raise _damaged("its members do not fit into it")

    @property
    def names(self) -> list[str]:
        """Names of the members, as written in the directory; as paths, they may lead anywhere."""
        return list(self._members)

    def _directory(self, end: int) -> tuple[bytes, int]:
        if end < 0:
            raise _damaged("it is too short")
        signature, disk, first_disk, here, entries, size, start, comment = _END.unpack(self._bytes(end, _END.size))
        if signature != b"PK\x05\x06" or comment:
            raise _damaged("it does not end as one")
        if disk or first_disk or here != entries or not 1 <= entries <= MOST_MEMBERS:
            raise GuidedPolicyError(f"the zip file has {entries} entries, expected 1 to {MOST_MEMBERS}")
        if size > _MAX_DIRECTORY_SIZE or start + size != end:
            raise _damaged("its directory is not where it says")
        return self._bytes(start, size), entries

    def _member(self, directory: bytes, place: int) -> tuple[_Member, int]:
        if place + _ENTRY.size > len(directory):
            raise _damaged("its directory is cut off")
        fields = _ENTRY.unpack_from(directory, place)
        signature, _, _, flags, method, _, _, checksum, compressed, size, name, extra, comment, disk, _, _, start = (
            fields
        )
        if signature != b"PK\x01\x02" or disk:
            raise _damaged("its directory is unreadable")
        raw = directory[place + _ENTRY.size :][:name]
        following = place + _ENTRY.size + name + extra + comment
        member = _Member(raw.decode("utf-8", "backslashreplace"), method, checksum, compressed, size, start)
        if flags & _ENCRYPTED:
            raise GuidedPolicyError(f"{shown(member.name)} is encrypted in the zip file, expected plain members")
        if method not in (_STORED, _DEFLATED):
            raise GuidedPolicyError(
                f"{shown(member.name)} is compressed by method {method}, expected stored or deflated"
            )
        return member, following

    def read(self, name: str, limit: int) -> bytes:
        """The content of a member.

        :param limit: in bytes; a member that claims or has more is refused without reading further.
        """
        member = self._members[name]
        if member.size > limit or member.compressed > limit + (limit >> 3) + 1024:
            raise GuidedPolicyError(f"{name} has {member.size} bytes in the zip file, expected at most {limit}")
        signature, *_, length, extra = _LOCAL.unpack(self._bytes(member.start, _LOCAL.size))
        start = member.start + _LOCAL.size
        if signature != b"PK\x03\x04" or self._bytes(start, length) != name.encode():
            raise _damaged(f"{name} is not where the directory says")
        data = self._bytes(start + length + extra, member.compressed)
        if member.method == _DEFLATED:
            data = _inflated(name, data, member.size)
        if len(data) != member.size or zlib.crc32(data) != member.checksum:
            raise GuidedPolicyError(f"{name} is damaged in the zip file: its size or checksum is not what it says")
        return data

    def _bytes(self, start: int, size: int) -> bytes:
        self._file.seek(start)
        data = self._file.read(size)
        if len(data) != size:
            raise _damaged("it ends too early")
        return data


def require_names(found: Collection[str], expected: Collection[str]) -> None:
    """Refuses unexpected and missing names.

    :raises GuidedPolicyError: naming the first one.
    """
    unknown = sorted(set(found) - set(expected))
    missing = [name for name in expected if name not in found]
    if unknown:
        raise GuidedPolicyError(f"found {shown(unknown[0])} in it, expected {', '.join(expected)} and nothing else")
    if missing:
        raise GuidedPolicyError(f"found no {missing[0]} in it, expected {', '.join(expected)}")


def _inflated(name: str, data: bytes, size: int) -> bytes:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        # Asks for one byte more, to detect content beyond the size.
        content = stream.decompress(data, size + 1)
    except zlib.error as error:
        raise GuidedPolicyError(f"{name} is damaged in the zip file ({error})") from error
    if not stream.eof or stream.unused_data:
        raise GuidedPolicyError(f"{name} is damaged in the zip file: it is not as long as it says")
    return content


def _damaged(how: str) -> GuidedPolicyError:
    return GuidedPolicyError(f"not a whole zip file ({how}): it is truncated or damaged")
