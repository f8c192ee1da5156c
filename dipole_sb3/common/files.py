"""Files that appear under their name only when they are complete."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import pathlib
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from stable_baselines3.common.save_util import open_path


@contextmanager
def replaced_when_complete(path: str | pathlib.Path) -> Iterator[io.BufferedIOBase]:
    """An open binary file that takes the name ``path`` when the block ends well, and vanishes when it does not.

    :param path: final name; missing parent folders are made, an existing file is replaced in one step.
    :raises OSError: one sentence with the file's name; an earlier file of that name is untouched.
    """
    path = pathlib.Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; the final one gets the permissions of an ordinary new file.
        os.chmod(partial, 0o666 & ~_umask())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(partial)


def sha256_of(file: io.BufferedIOBase) -> str:
    """SHA-256 of an open file from its beginning, read in parts: hexadecimal."""
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def write_csv(path: str | pathlib.Path, rows: Iterable[Iterable[Any]]) -> None:
    """A table as CSV, its header being the first row. The file appears when it is complete.

    :raises OSError: it cannot be written; an earlier file of that name is untouched.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    with replaced_when_complete(path) as file:
        file.write(text.getvalue().encode())


def require_model_file(path: str | pathlib.Path | io.BufferedIOBase) -> None:
    """Refuses files that are not models as SB3 writes them, or are damaged, before anything is read from them.

    :param path: as in SB3's ``load``: a file (``.zip`` may be left out) or an open binary file.
    :raises OSError: there is no such file.
    :raises ValueError: it is not a zip file, not whole, or has no policy in it.
    """
    file = open_path(path, "r", suffix="zip")
    try:
        problem = problem_of_model(file)
    finally:
        # A file that the caller opened is the caller's to close.
        if file is not path:
            file.close()
    if problem is not None:
        name = getattr(file, "name", "the open file")
        problem = " ".join(problem.splitlines())  # damaged names of members may hold line breaks
        raise ValueError(f"cannot load {name}: it {problem}; expected a whole .zip file written by a model's save()")


def problem_of_model(file: io.BufferedIOBase) -> str | None:
    """What is wrong with a model file, after "it"; None when all of it is whole."""
    try:
        with zipfile.ZipFile(file) as archive:
            missing = {"data", "policy.pth"} - set(archive.namelist())
            if missing:
                return f"is truncated or not a saved model (no {' and no '.join(sorted(missing))} in it)"
            damaged = archive.testzip()
            return None if damaged is None else f"is damaged (at {damaged})"
    # Damaged bytes also claim encryption or unknown methods (RuntimeError) and places outside the file (OSError).
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
        return f"is truncated or not a .zip file ({error})"


def cannot_write(path: pathlib.Path, error: OSError) -> OSError:
    """The error as one sentence with the name of what was to be written."""
    return OSError(error.errno, f"cannot write {path}: {error.strerror or error}; nothing was changed")


def _sync_folder(folder: pathlib.Path) -> None:
    """Without this a machine that loses power may forget the new name, although the bytes are on its disk."""
    if os.name == "posix" and os.access(folder, os.R_OK):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
