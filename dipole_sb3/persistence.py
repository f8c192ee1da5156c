"""Files that appear under their name only when they are complete."""

from __future__ import annotations

import io
import os
import pathlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress


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
        raise _cannot_write(path, error) from error
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; the final one gets the permissions of an ordinary new file.
        os.chmod(partial, 0o666 & ~_umask())
        os.replace(partial, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(partial)


def _cannot_write(path: pathlib.Path, error: OSError) -> OSError:
    return OSError(error.errno, f"cannot write {path}: {error.strerror or error}; nothing was changed")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
