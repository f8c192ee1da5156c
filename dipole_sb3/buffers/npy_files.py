"""One array in one .npy file: written row by row, read in place."""

from __future__ import annotations

import hashlib
import os
import weakref
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from dipole_sb3.common.errors import DatasetError, first_line

_HEADER_BYTES = 4096
"""Room for any shape, which is known last. Rows begin at a page of memory."""


class NpyWriter:
    """An .npy file that grows by rows, and the SHA-256 of what they hold.

    :param path: the file, made anew.
    :param shape: of one row.
    :param dtype: of the elements.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._shape, self._dtype = shape, np.dtype(dtype)
        self._file = path.open("xb")
        self._file.write(bytes(_HEADER_BYTES))
        self._hash = hashlib.sha256()
        self.rows = 0

    def append(self, rows: np.ndarray) -> None:
        """Adds [n, *shape] of the file's dtype."""
        data = memoryview(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)
        self._hash.update(data)
        self._file.write(data)
        self.rows += len(rows)

    def finish(self) -> dict[str, Any]:
        """Completes the file on the disk; its shape, dtype and SHA-256."""
        shape = (self.rows, *self._shape)
        self._file.seek(0)
        self._file.write(_header(shape, self._dtype))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return {"shape": list(shape), "dtype": self._dtype.str, "sha256": self._hash.hexdigest()}

    def abandon(self) -> None:
        """Closes the file, whatever is in it."""
        with suppress(OSError):  # on a full disk the rest of the buffer cannot be written either
            self._file.close()


class NpyFile:
    """Rows of an .npy file on the disk.

    Rows can be drawn in two ways. Through the map they come at the speed of memory, but every touched page and its
    neighbours count as the process's memory. By reads each row is a system call, and nothing stays in memory.

    :param path: the file.
    :param shape: that it must have, [rows, ...].
    :param dtype: likewise.
    :raises DatasetError: it is missing, truncated, or another array.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path, self.shape, self.dtype = path, shape, dtype
        self.row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        self.drawn_by_reads = False
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise DatasetError(f"{path}: no such file; expected an array of shape {shape}") from error
        weakref.finalize(self, os.close, self._descriptor)
        self._offset = self._require_header()
        found, expected = os.fstat(self._descriptor).st_size, self._offset + self.row_bytes * shape[0]
        if found != expected:
            what = "is truncated" if found < expected else "is longer than its array"
            raise DatasetError(f"{path}: {what}: found {found} bytes, expected {expected}")
        # An empty array cannot be mapped.
        empty = shape[0] == 0
        self.map: np.ndarray = (
            np.empty(shape, dtype) if empty else np.asarray(np.memmap(path, dtype, "r", self._offset, shape))
        )

    @property
    def bytes(self) -> int:
        """Of the rows."""
        return self.row_bytes * self.shape[0]

    def _require_header(self) -> int:
        with open(self._descriptor, "rb", closefd=False) as file:
            try:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, fortran, dtype = read(file)
            except (ValueError, SyntaxError, EOFError) as error:
                raise DatasetError(f"{self.path}: not an .npy file, or damaged ({first_line(error)})") from error
            if fortran or (shape, dtype) != (self.shape, self.dtype):
                order = " in Fortran order" if fortran else ""
                raise DatasetError(
                    f"{self.path}: holds {dtype} of shape {shape}{order}, expected {self.dtype} of shape {self.shape}"
                )
            return file.tell()

    def take(self, rows: np.ndarray, count: int = 1) -> np.ndarray:
        """Copies of the rows, and of the ``count − 1`` that follow each, [n, count, ...].

        :param rows: int64 [n], each in [0, rows − count].
        :raises DatasetError: the file has become shorter.
        """
        if not self.drawn_by_reads:
            return self.map.take(rows[:, None] + np.arange(count), axis=0)
        starts = (rows * self.row_bytes + self._offset).tolist()
        # A bytearray, as torch asks for arrays that may be written.
        data = bytearray().join(map(os.pread, repeat(self._descriptor), repeat(count * self.row_bytes), starts))
        if len(data) != len(rows) * count * self.row_bytes:
            raise DatasetError(f"{self.path}: rows are missing: the file has become shorter since it was opened")
        return np.frombuffer(data, self.dtype).reshape(len(rows), count, *self.shape[1:])

    def sha256(self) -> str:
        """Of what the rows hold, read from the disk."""
        digest = hashlib.sha256()
        rows = max(1, 2**24 // max(self.row_bytes, 1))
        for start in range(0, self.shape[0], rows):
            digest.update(
                memoryview(self.read(start, min(start + rows, self.shape[0])).reshape(-1).view(np.uint8).data)
            )
        return digest.hexdigest()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Copies of consecutive rows, without touching the map.

        :raises DatasetError: the file has become shorter.
        """
        rows = np.empty((stop - start, *self.shape[1:]), self.dtype)
        target = memoryview(rows.reshape(-1).view(np.uint8).data)
        position = self._offset + start * self.row_bytes
        done = 0
        while done < len(target):
            count = os.preadv(self._descriptor, [target[done:]], position + done)
            if count == 0:
                raise DatasetError(f"{self.path}: rows are missing: the file has become shorter since it was opened")
            done += count
        return rows


def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """Of version 1.0 of the .npy format, at a length that does not depend on the shape."""
    text = repr({"descr": dtype.str, "fortran_order": False, "shape": shape}).encode("latin1")
    length = _HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + text.ljust(length - 1) + b"\n"
