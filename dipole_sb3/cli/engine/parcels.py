"""Files between machines that share no file system: which have changed, and how they are put in their places."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from dipole_sb3.cli.claim import CLAIM
from dipole_sb3.common.files import replaced_when_complete


class Parcel(NamedTuple):
    """What has changed in some folders.

    :param changed: new content of files, by path.
    :param there: every file that is there now.
    """

    changed: Mapping[str, bytes]
    there: frozenset[str]


class Sender:
    """Packs what has changed since the last parcel that was sent.

    :param folders: whose files are sent; they need not be there yet.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._sent: dict[str, tuple[int, int]] = {}
        self._packed: dict[str, tuple[int, int]] = {}

    def sent(self) -> None:
        """The last parcel has arrived, so that the next need not hold it again."""
        self._sent = self._packed

    def pack(self) -> Parcel | None:
        """What has changed; None: nothing."""
        now = {str(path): _state(path) for path in _files(self._folders)}
        changed = {}
        for name, state in now.items():
            if state is not None and self._sent.get(name) != state:
                with suppress(FileNotFoundError):  # a checkpoint that has just been replaced by a newer one
                    changed[name] = Path(name).read_bytes()
        there = frozenset(name for name, state in now.items() if state is not None)
        if not changed and there == self._sent.keys():
            return None
        self._packed = {name: state for name, state in now.items() if state is not None}
        return Parcel(changed, there)


class Receiver:
    """Puts parcels in their places, each file whole or not at all.

    :param there: files that the other side has been given.
    """

    def __init__(self, there: Iterable[str] = ()) -> None:
        self._there = frozenset(there)

    def unpack(self, parcel: Parcel) -> None:
        """Writes what has changed and removes what is gone there, and nothing that has not come from there."""
        for name, content in parcel.changed.items():
            with replaced_when_complete(name) as file:
                file.write(content)
        for name in self._there - parcel.there:
            Path(name).unlink(missing_ok=True)
        self._there = parcel.there


def packed(folders: Sequence[Path]) -> dict[str, bytes]:
    """All of these files, and those in these folders."""
    parcel = Sender(folders).pack()
    return {} if parcel is None else dict(parcel.changed)


def names(folders: Sequence[Path]) -> frozenset[str]:
    """Paths of all files in these folders that parcels carry."""
    return frozenset(map(str, _files(folders)))


def _files(folders: Sequence[Path]) -> list[Path]:
    single = [path for path in folders if path.is_file()]
    found = (*single, *(path for folder in folders for path in folder.rglob("*") if path.is_file()))
    # Files in the making have hidden or temporary names until they are complete.
    return [path for path in found if path.name != CLAIM and not path.name.startswith(".") and path.suffix != ".tmp"]


def _state(path: Path) -> tuple[int, int] | None:
    with suppress(FileNotFoundError):
        status = path.stat()
        return status.st_mtime_ns, status.st_size
    return None
