"""Writes bundles to disk: a bundle appears under its name only when it is complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from itertools import chain
from pathlib import Path

from dipole_runtime.archive import archive_bytes
from dipole_runtime.bundle import Bundle
from dipole_runtime.manifest import ENCODER, MANIFEST, NETWORK_FILES, VECTORS

from dipole_sb3.common.files import replaced_when_complete

ARCHIVE_SUFFIX = ".dipole"
_FILES = {MANIFEST, VECTORS, ENCODER, *chain.from_iterable(NETWORK_FILES.values())}
"""Files of bundles of all forms, because a bundle may replace one of another form."""


def require_writable(path: Path) -> None:
    """Checks, before the work starts, that a bundle may be written to this path.

    :raises ValueError: the path is a folder that is not a bundle, a folder where a file is expected, or a file where a
        folder is expected.
    """
    if path.suffix == ARCHIVE_SUFFIX:
        if path.is_dir():
            raise ValueError(f"{path}: is a folder, expected a file, as the name ends in {ARCHIVE_SUFFIX}")
    elif path.is_dir():
        others = sorted({entry.name for entry in path.iterdir()} - _FILES)
        if others or (any(path.iterdir()) and not (path / MANIFEST).is_file()):
            raise ValueError(
                f"{path}: holds {(others or ['an incomplete bundle'])[0]}, expected a bundle or a new folder"
            )
    elif path.exists():
        raise ValueError(f"{path}: is a file, expected a new folder, or a name that ends in {ARCHIVE_SUFFIX}")


def write_bundle(bundle: Bundle, path: Path) -> None:
    """Writes a folder, or one file if the name ends in ``.dipole``; an old bundle is replaced when the new is complete.

    :raises OSError: the bundle cannot be written; an old bundle is unchanged.
    """
    contents = {MANIFEST: bundle.manifest.to_bytes(), **bundle.files}
    if path.suffix == ARCHIVE_SUFFIX:
        with replaced_when_complete(path) as file:
            file.write(archive_bytes(contents))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        for name, content in contents.items():
            with replaced_when_complete(partial / name) as file:
                file.write(content)
        # mkdtemp makes private folders. The umask can only be read by setting it, so a new folder shows the usual mode.
        (partial / "new").mkdir()
        partial.chmod((partial / "new").stat().st_mode)
        (partial / "new").rmdir()
        _exchange(partial, path)
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(partial)


def _exchange(new: Path, path: Path) -> None:
    """Renames the new folder to ``path``; an old one is moved away first, and moved back if the renaming fails."""
    if not path.exists():
        os.rename(new, path)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
    old = aside / path.name
    try:
        os.rename(path, old)
        os.rename(new, path)
    except BaseException:  # Ctrl-C between the two, too
        if old.exists():
            os.rename(old, path)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)
