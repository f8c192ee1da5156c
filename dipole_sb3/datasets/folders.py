"""Folders that appear under their name only when they are complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.files import cannot_write
from dipole_sb3.common.locks import lock


@contextmanager
def replaced_folder(path: Path, mark: str, overwrite: bool) -> Iterator[Path]:
    """An empty folder that takes the name ``path`` when the block ends well, and vanishes when it does not.

    It lies beside its final place, under a fixed name. What a killed process left there is removed; a process that
    still writes is known by its lock.

    :param path: final name; missing parent folders are made.
    :param mark: a file by which a folder is known that may be replaced.
    :param overwrite: replace such a folder of that name.
    :raises DatasetError: the name is taken, or another process is writing there.
    :raises OSError: one sentence with the folder's name; an earlier folder of that name is untouched.
    """
    partial, replaced = (path.with_name(f".{path.name}.{state}") for state in ("partial", "replaced"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked_folder(path, partial)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        try:
            _finish_replacing(path, replaced)
            _require_free(path, mark, overwrite)
            _empty(partial)
        except OSError as error:
            raise cannot_write(path, error) from error
        yield partial
        try:
            os.fsync(lock)
            if path.exists():
                path.rename(replaced)
            partial.rename(path)
            _synchronize(path.parent)
        except OSError as error:
            raise cannot_write(path, error) from error
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)


def _locked_folder(path: Path, partial: Path) -> int:
    """Makes the folder, or takes over what a killed process left; its descriptor, which holds the lock."""
    while True:
        partial.mkdir(exist_ok=True)
        try:
            descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        try:
            lock(descriptor)
            # Between opening and locking, the folder may have been finished, or removed, by its process.
            if partial.exists() and os.path.samestat(os.fstat(descriptor), partial.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise DatasetError(f"{path}: another process is writing it (into {partial})") from None
        os.close(descriptor)


def _finish_replacing(path: Path, replaced: Path) -> None:
    """Finishes the work of a process that was killed after it had put the earlier folder aside."""
    if replaced.exists():
        if path.exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(path)


def _require_free(path: Path, mark: str, overwrite: bool) -> None:
    if not path.exists():
        return
    if not overwrite:
        raise DatasetError(f"{path}: exists already; expected a new name, or to be told to overwrite it")
    if not (path / mark).is_file():
        raise DatasetError(f"{path}: has no {mark} in it, so it is not overwritten; expected a new name or a data set")


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _synchronize(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
