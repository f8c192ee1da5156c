"""Reads a bundle (a directory or a .dipole file) into memory and checks it, without running any of it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from dipole_runtime.archive import MOST_MEMBERS, Archive, require_names
from dipole_runtime.errors import GuidedPolicyError, refusing, shown, shown_path
from dipole_runtime.graphs import require_graph
from dipole_runtime.manifest import MANIFEST, MAX_MANIFEST_SIZE, VECTORS, Manifest
from dipole_runtime.vectors import Vectors, read_vectors


@dataclass(frozen=True)
class Bundle:
    """A checked bundle in memory.

    :param manifest: its description.
    :param files: contents of all files except the manifest, by name.
    :param where: the bundle's name, for error messages.
    """

    manifest: Manifest
    files: Mapping[str, bytes]
    where: str

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], where: str) -> Bundle:
        """Checks files in memory like :func:`read_bundle` checks files on disk.

        :param files: contents by name, including the manifest.
        :param where: the bundle's name, for error messages.
        :raises GuidedPolicyError: if :func:`read_bundle` would refuse them.
        """
        with refusing(where):
            _require_manifest_among(files)
            manifest = Manifest.from_bytes(files[MANIFEST], where)
            require_names(files, (MANIFEST, *manifest.data_files))
            bundle = cls(manifest, {name: files[name] for name in manifest.data_files}, where)
            bundle._require_manifest_kept()
        return bundle

    def _require_manifest_kept(self) -> None:
        for name, content in self.files.items():
            expected = self.manifest.files[name]
            _require_size(name, len(content), expected.size)
            found = hashlib.sha256(content).hexdigest()
            if found != expected.sha256:
                raise GuidedPolicyError(
                    f"{name} has sha256 {found[:12]}…, expected {expected.sha256[:12]}… as in the manifest: it was "
                    "exchanged or damaged"
                )
        for name in self.manifest.network_files:
            require_graph(name, self.files[name], self.manifest)
        self.vectors()

    def vectors(self) -> Vectors:
        """The test vectors; views of the file's content, not copies."""
        with refusing(self.where):
            return read_vectors(self.files[VECTORS], self.manifest)


def read_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Reads and checks a bundle; each file is read once, and only up to the size that the manifest states.

    :param path: a directory or a .dipole file; it may be a symbolic link, but its files may not.
    :raises GuidedPolicyError: anything other than a complete bundle as its exporter wrote it.
    """
    # os.stat would take a whole number, or True, for an open file.
    if not isinstance(path, str | os.PathLike):
        raise GuidedPolicyError(f"path is {shown(path)}, expected the name of a directory or a .dipole file")
    where = shown_path(path)
    with refusing(where):
        with _readable("it"):
            is_directory = stat.S_ISDIR(os.stat(path).st_mode)
        manifest, files = (_read_directory if is_directory else _read_archive)(Path(path), where)
        bundle = Bundle(manifest, files, where)
        bundle._require_manifest_kept()
    return bundle


def _read_directory(path: Path, where: str) -> tuple[Manifest, dict[str, bytes]]:
    with _readable("it"), os.scandir(path) as entries:
        # One name too many is enough to refuse the directory.
        names = [entry.name for entry in islice(entries, MOST_MEMBERS + 1)]
    _require_manifest_among(names)
    # Read first: the manifest defines the other names, and a newer format has other names.
    manifest = Manifest.from_bytes(_content_of_file(path / MANIFEST, MAX_MANIFEST_SIZE), where)
    require_names(names, (MANIFEST, *manifest.data_files))
    return manifest, {name: _content_of_file(path / name, manifest.files[name].size) for name in manifest.data_files}


def _read_archive(path: Path, where: str) -> tuple[Manifest, dict[str, bytes]]:
    with _readable("it"), _regular_file(path, "it", os.O_RDONLY) as file:
        archive = Archive(file)
        _require_manifest_among(archive.names)
        manifest = Manifest.from_bytes(archive.read(MANIFEST, MAX_MANIFEST_SIZE), where)
        require_names(archive.names, (MANIFEST, *manifest.data_files))
        return manifest, {name: archive.read(name, manifest.files[name].size) for name in manifest.data_files}


def _require_manifest_among(names: Collection[str]) -> None:
    if len(names) > MOST_MEMBERS:
        raise GuidedPolicyError(
            f"found more than {MOST_MEMBERS} files in it, expected those of a bundle and nothing else"
        )
    if MANIFEST not in names:
        raise GuidedPolicyError(f"found no {MANIFEST} in it, expected a bundle's files")


def _require_size(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise GuidedPolicyError(f"{name} has {found} bytes, expected {expected} as in the manifest")


def _content_of_file(path: Path, limit: int) -> bytes:
    with _readable(path.name):
        if path.is_symlink():
            raise GuidedPolicyError(f"{path.name} is a symbolic link, expected a regular file")
        # The file may have become a symbolic link since the check.
        with _regular_file(path, path.name, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise GuidedPolicyError(f"{path.name} has {size} bytes, expected at most {limit}")
            return file.read(limit + 1)


@contextmanager
def _regular_file(path: Path, name: str, flags: int) -> Iterator[BinaryIO]:
    # Opening a pipe would wait forever for its other end.
    flags |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    with open(path, "rb", opener=lambda file, _: os.open(file, flags)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise GuidedPolicyError(f"{name} is not a regular file")
        yield file


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turns errors of the operating system into one sentence."""
    try:
        yield
    except GuidedPolicyError:
        raise
    # ValueError: a path with a null character in it.
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise GuidedPolicyError(f"{name} cannot be read ({reason})") from error
