"""Who writes the folder of a run: one process at a time, and everybody else is told which."""

from __future__ import annotations

import contextlib
import datetime
import errno
import itertools
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dipole_sb3.common.locks import lock

CLAIM = "claim.json"
"""File of a run's folder that its process keeps locked and that names this process; it stays, naming the last one.

A lock and not the mere file: however a process ends, the system frees what it locked, so that nothing has to be judged
dead. A file and not the folder: network file systems lock files only.
"""


class FolderClaimedError(ValueError):
    """Another process writes the folder."""


@contextmanager
def claimed(folder: Path, advice: str) -> Iterator[None]:
    """Nobody else claims the folder in this block. It is made if it is not there, and removed if it then stays empty.

    :param folder: of one run.
    :param advice: what can be done if it is claimed, the end of the message.
    :raises FolderClaimedError: another process writes it; the message names that process.
    :raises OSError: the folder cannot be made or written.
    """
    file = _locked(folder, advice)
    try:
        _sign(file)
        yield
    finally:
        _remove_if_nothing_was_written(folder)
        os.close(file)


def claim_free(folder: Path, opened: ExitStack, is_used: Callable[[Path], bool]) -> Path:
    """Claims the folder, or the first free one of FOLDER-2, FOLDER-3, …

    :param folder: the name that is wanted.
    :param opened: keeps the claim until it is closed.
    :param is_used: function: a folder → whether a run is in it.
    :return: the claimed folder.
    """
    for number in itertools.count(1):
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        if is_used(candidate):
            continue
        with contextlib.suppress(FolderClaimedError), ExitStack() as trial:
            trial.enter_context(claimed(candidate, ""))
            # Between the look and the claim, a run may have ended there.
            if not is_used(candidate):
                opened.push(trial.pop_all())
                return candidate
    raise AssertionError("there are more names than folders")


def _locked(folder: Path, advice: str) -> int:
    path = folder / CLAIM
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # its last owner has just removed the empty folder
        try:
            lock(file)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), path.stat()):
                    return file
        except BlockingIOError:
            owner = _owner(file)
            os.close(file)
            raise FolderClaimedError(f"{folder}: {owner} is writing a run there; {advice}") from None
        except OSError as error:
            os.close(file)
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            raise OSError(
                f"{folder}: its file system has no locks ({error.strerror}), so that a second process could write the "
                "same run; expected one that has, or a folder on a local disk"
            ) from error
        os.close(file)


def _sign(file: int) -> None:
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    text = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": now})
    os.ftruncate(file, 0)
    os.pwrite(file, f"{text}\n".encode(), 0)


def _owner(file: int) -> str:
    """Who holds the lock. The note is written just after the lock is taken, so that it may still be missing."""
    try:
        note = json.loads(os.pread(file, 4096, 0))
        return f"process {int(note['pid'])} on {note['host']}, since {note['since']},"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _remove_if_nothing_was_written(folder: Path) -> None:
    with contextlib.suppress(OSError):
        if [path.name for path in folder.iterdir()] == [CLAIM]:
            (folder / CLAIM).unlink()
            remove_empty(folder)


def remove_empty(folder: Path) -> None:
    """Removes an empty folder, and the parent folders that were made for it."""
    # With a relative path, removedirs stops at the working directory.
    folder.rmdir() if folder.is_absolute() else os.removedirs(folder)
