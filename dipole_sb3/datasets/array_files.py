"""Named arrays in .npz and .hdf5 files, read a part at a time."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dipole_sb3.common.errors import DatasetError

HDF5_SUFFIXES = (".hdf5", ".h5")


class ArrayInFile(Protocol):
    """An array that is read when it is sliced. Slices in ascending order read the file once."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, rows: slice) -> np.ndarray: ...


Arrays = dict[str, ArrayInFile | dict[str, ArrayInFile]]


@contextmanager
def opened(path: Path) -> Iterator[Arrays]:
    """The arrays of a file by name; ``observations/joints`` becomes ``{"observations": {"joints": …}}``.

    Pickled objects are never loaded.

    :param path: of an .npz file, or of an HDF5 file by one of :data:`HDF5_SUFFIXES`.
    :raises DatasetError: no such file, another format, truncated, or objects instead of numbers; also while the
        arrays are read.
    :raises ImportError: h5py is not installed.
    """
    kind = "HDF5" if path.suffix in HDF5_SUFFIXES else ".npz"
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; expected an {kind} file of recorded transitions")
    if path.stat().st_size == 0:
        raise DatasetError(f"{path}: the file is empty (0 bytes); expected an {kind} file of recorded transitions")
    with (_opened_hdf5 if kind == "HDF5" else _opened_npz)(path) as arrays:
        yield _nested(path, arrays)


def _nested(path: Path, arrays: Mapping[str, ArrayInFile]) -> Arrays:
    nested: dict[str, Any] = {}
    for name, array in arrays.items():
        key, _, part = name.partition("/")
        if not part:
            nested[key] = array
        elif isinstance(nested.setdefault(key, {}), dict):
            nested[key][part] = array
        else:
            raise DatasetError(f"{path}: has both {key} and {name}; expected one array or several by key")
    return nested


@contextmanager
def _opened_npz(path: Path) -> Iterator[dict[str, ArrayInFile]]:
    with path.open("rb") as file:
        if file.read(6) == b"\x93NUMPY":
            raise DatasetError(f"{path}: holds one bare array (.npy format); expected an .npz file with named arrays")
    try:
        archive = zipfile.ZipFile(path)
    except OSError:
        raise
    except Exception as error:  # zipfile raises errors of many kinds for damaged bytes
        raise DatasetError(
            f"{path}: not a complete .npz file (other format or truncated); expected a file written by numpy.savez"
        ) from error
    with archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        yield {name.removesuffix(".npy"): _NpzArray(path, archive, name) for name in names}


class _NpzArray:
    """A member of an .npz file, decompressed as it is read."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, name: str) -> None:
        self._path, self._archive, self._name = path, archive, name
        self._whole: np.ndarray | None = None
        with self._failures_named():
            self._rewind()

    @contextmanager
    def _failures_named(self) -> Iterator[None]:
        try:
            yield
        except DatasetError:
            raise
        except Exception as error:  # zipfile and NumPy raise errors of many kinds for damaged bytes
            text = " ".join(str(error).split())
            raise DatasetError(
                f"{self._path}: {self._name.removesuffix('.npy')} cannot be read ({text}); the file is damaged or "
                "truncated"
            ) from error

    def _rewind(self) -> None:
        self._stream: Any = self._archive.open(self._name)
        version = np.lib.format.read_magic(self._stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        self.shape, self._fortran, self.dtype = read(self._stream)
        self._row = 0
        if self.dtype.hasobject:
            raise DatasetError(
                f"{self._path}: {self._name.removesuffix('.npy')} holds pickled Python objects, which are never "
                "loaded; expected a numeric array"
            )

    def __getitem__(self, rows: slice) -> np.ndarray:
        with self._failures_named():
            # Rows of column-major arrays do not lie in one piece, and single numbers have none.
            if self._fortran or not self.shape:
                return self._all()[rows] if self.shape else self._all()
            start, stop, _ = rows.indices(self.shape[0])
            if start < self._row:
                self._rewind()
            width = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
            for skipped in range(self._row, start, 65_536):
                self._fill(bytearray(width * (min(skipped + 65_536, start) - skipped)))
            part = np.empty((max(stop - start, 0), *self.shape[1:]), self.dtype)
            self._fill(part.reshape(-1).view(np.uint8).data)
            self._row = start + len(part)
            return part

    def _fill(self, target: Any) -> None:
        view = memoryview(target)
        done = 0
        while done < len(view):
            count = self._stream.readinto(view[done : done + 2**20])
            if count == 0:
                raise EOFError("it ends too early")
            done += count

    def _all(self) -> np.ndarray:
        if self._whole is None:
            with self._archive.open(self._name) as stream:
                self._whole = np.lib.format.read_array(stream, allow_pickle=False)
        return self._whole


@contextmanager
def _opened_hdf5(path: Path) -> Iterator[dict[str, ArrayInFile]]:
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if not os.access(path, os.R_OK):
            raise
        raise DatasetError(
            f"{path}: not a complete HDF5 file (other format or truncated: {' '.join(str(error).split())})"
        ) from error
    with file:
        arrays: dict[str, ArrayInFile] = {}

        def collect(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                arrays[name] = _HdfArray(path, name, item)

        try:
            file.visititems(collect)
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise DatasetError(f"{path}: the file is damaged ({' '.join(str(error).split())})") from error
        yield arrays


class _HdfArray:
    """A data set of an HDF5 file."""

    def __init__(self, path: Path, name: str, dataset: Any) -> None:
        self._path, self._name, self._dataset = path, name, dataset
        self.shape: tuple[int, ...] = dataset.shape or ()
        self.dtype: np.dtype[Any] = dataset.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        try:
            return np.asarray(self._dataset[rows] if self.shape else self._dataset[()])
        except (OSError, RuntimeError, ValueError) as error:
            raise DatasetError(
                f"{self._path}: {self._name} cannot be read ({' '.join(str(error).split())}); the file is damaged"
            ) from error
