"""Large files over HTTP: downloads that go on where they broke off, archives that are unpacked whole or not at all."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import stat
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.progress import progress_bar

ATTEMPTS = 5
"""Connections in a row that may break off without a byte before the download fails."""

FIRST_PAUSE = 1.0
"""Seconds before the second attempt; each later pause is twice as long."""

_TIMEOUT = 60.0
"""Seconds without a byte after which a connection counts as broken."""

_CHUNK = 1 << 20
_WORTH_ANOTHER_TRY = (408, 425, 429)


class DamagedArchiveError(DatasetError):
    """An archive that no further attempt will unpack."""


def download(url: str, target: Path, *, room: int = 0) -> None:
    """Fetches a file; what has arrived stays when it breaks off, and the next call goes on from there.

    If the server does not support ranges, or its file has changed, the download starts anew. The target appears when it
    is complete.

    :param url: of the file.
    :param target: where it goes, in an existing folder.
    :param room: disk space that must be free beyond the file itself, in multiples of the file's size.
    :raises DatasetError: one sentence: not there, broken off, no room, or the folder cannot be written.
    """
    part = _Part(target)
    failures, last = 0, ""
    while not part.is_complete(url):
        before = part.size()
        try:
            _receive(url, part, room)
        except (OSError, http.client.HTTPException) as error:  # urllib's errors are OSErrors, as are those of sockets
            _require_worth_another_try(url, error)
            last = str(getattr(error, "reason", "") or error or type(error).__name__)
        else:
            continue
        failures = 1 if part.size() > before else failures + 1
        if failures >= ATTEMPTS:
            kept = f"; {part.size()} bytes are kept, and the same command goes on from there" if part.size() else ""
            raise DatasetError(f"{url}: the download broke off ({last}){kept}")
        time.sleep(FIRST_PAUSE * 2 ** (failures - 1))
    part.finish()


class _Part:
    """The part of a file that has arrived, and what the server said of the whole."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self.path = target.with_name(f".{target.name}.part")
        self._note = target.with_name(f".{target.name}.part.json")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def known(self, url: str) -> dict[str, Any]:
        """``validator`` and ``total`` of the file at this address, or nothing."""
        try:
            noted = json.loads(self._note.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return noted if isinstance(noted, dict) and noted.get("url") == url else {}

    def is_complete(self, url: str) -> bool:
        return self.path.exists() and self.known(url).get("total") == self.size()

    def start(self, url: str, validator: str | None, total: int) -> None:
        """Begins the file, and forgets what arrived of an earlier one."""
        with self.writing():
            self._note.unlink(missing_ok=True)
            self.path.write_bytes(b"")
            self._note.write_text(json.dumps({"url": url, "validator": validator, "total": total}))

    def append(self, chunk: bytes) -> None:
        with self.writing(), self.path.open("ab") as file:
            file.write(chunk)

    def finish(self) -> None:
        with self.writing():
            self.path.replace(self._target)
            self._note.unlink(missing_ok=True)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Tells the disk's failures from the network's, which are OSErrors as well."""
        try:
            yield
        except OSError as error:
            raise DatasetError(
                f"{self.path}: cannot be written ({error.strerror or error}); what has arrived is kept"
            ) from error


def _receive(url: str, part: _Part, room: int) -> None:
    """Takes what one connection gives, from where the last one ended if the server still has that file."""
    known, size = part.known(url), part.size()
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity", "User-Agent": "dipole-sb3"})
    if known.get("validator") and 0 < size < known["total"]:
        request.add_header("Range", f"bytes={size}-")
        request.add_header("If-Range", known["validator"])
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        if response.status == 206:
            expected = f"bytes {size}-{known['total'] - 1}/{known['total']}"
            if response.headers.get("Content-Range") != expected:
                raise DatasetError(
                    f"{url}: the server sends {response.headers.get('Content-Range')}, expected {expected}"
                )
        else:
            total = _length(url, response.headers)
            part.start(url, _validator(response.headers), total)
            known, size = part.known(url), 0
        require_room(part.path.parent, known["total"] - size + room * known["total"], f"the download of {url}")
        name = url.rpartition("/")[2]
        with progress_bar(total=known["total"], initial=size, desc=name, unit="B", unit_scale=True) as progress:
            while chunk := response.read(min(_CHUNK, known["total"] - size)):
                part.append(chunk)
                size += len(chunk)
                progress.update(len(chunk))
    if size < known["total"]:
        raise ConnectionError(f"{size} of {known['total']} bytes arrived")


def _length(url: str, headers: Any) -> int:
    length = headers.get("Content-Length") or ""
    if not re.fullmatch(r"[1-9]\d*", length):
        raise DatasetError(f"{url}: the server does not say how long the file is; expected a Content-Length")
    return int(length)


def _validator(headers: Any) -> str | None:
    """What If-Range may hold: weak tags promise the same meaning, not the same bytes."""
    tag: str | None = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _require_worth_another_try(url: str, error: Exception) -> None:
    if isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code not in _WORTH_ANOTHER_TRY:
        raise DatasetError(f"{url}: the server answers {error.code} {error.reason}; expected the file") from error


def require_room(folder: Path, needed: int, what: str) -> None:
    """Refuses work that would fill the disk.

    :param folder: on that disk.
    :param needed: bytes.
    :param what: needs them, for the message.
    :raises DatasetError: fewer are free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DatasetError(
            f"{folder}: {free / 1e9:.2f} GB are free, {what} needs {needed / 1e9:.2f} GB; make room, or choose another "
            "folder"
        )


def unpack(archive: Path, folder: Path, wanted: Callable[[str], bool]) -> int:
    """Unpacks the wanted files of a zip archive, checking every one against its checksum.

    :param archive: the file.
    :param folder: an empty one, for the files with their paths in the archive.
    :param wanted: tells by a file's path in the archive.
    :return: how many files were unpacked.
    :raises DamagedArchiveError: it is not whole, or holds a path that leads out of the folder.
    :raises DatasetError: it does not fit on the disk; what was unpacked by then is the caller's to remove.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                _require_inside(archive, member)
            members = [member for member in opened.infolist() if wanted(member.filename)]
            require_room(folder, sum(member.file_size for member in members), f"what {archive.name} holds")
            for member in progress_bar(iterable=members, desc=f"unpacking {archive.name}", unit=" files"):
                path = folder / member.filename
                path.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as source, path.open("xb") as target:
                    shutil.copyfileobj(source, target, _CHUNK)
    # Damaged bytes also claim encryption (RuntimeError) or methods that nobody knows (NotImplementedError).
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, FileExistsError) as error:
        raise DamagedArchiveError(f"{archive}: the archive is damaged ({error})") from error
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return len(members)


def _require_inside(archive: Path, member: zipfile.ZipInfo) -> None:
    name = member.filename
    leads_out = ".." in (*PurePosixPath(name).parts, *PureWindowsPath(name).parts)
    if (
        leads_out
        or PurePosixPath(name).anchor
        or PureWindowsPath(name).anchor
        or stat.S_ISLNK(member.external_attr >> 16)
    ):
        raise DamagedArchiveError(f"{archive}: holds {name!r}, which leads out of the folder it is unpacked to")
