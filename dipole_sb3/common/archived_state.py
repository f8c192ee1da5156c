"""Nested numbers and arrays as members of a zip file: JSON and .npy, no pickle."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

_ARRAY = "array in"


def write_state(archive: zipfile.ZipFile, folder: str, state: Mapping[str, Any]) -> None:
    """Writes ``folder/state.json``, and every array as a .npy file of its own beside it.

    :param archive: open for writing; arrays are stored as they are, without compression.
    :param folder: of the members.
    :param state: mappings with strings as keys, lists, arrays of numbers, numbers, strings, None.
    :raises TypeError: it holds something else.
    """
    arrays: list[np.ndarray] = []
    plain = _without_arrays(state, folder, arrays)
    for index, array in enumerate(arrays):
        with archive.open(_member(folder, index), "w", force_zip64=True) as file:
            np.lib.format.write_array(file, array, allow_pickle=False)
    archive.writestr(f"{folder}/state.json", json.dumps(plain))


def read_state(archive: zipfile.ZipFile, folder: str) -> dict[str, Any]:
    """What :func:`write_state` wrote.

    :raises KeyError: there is none in that folder.
    """
    return dict(_with_arrays(json.loads(archive.read(f"{folder}/state.json")), archive))


def _member(folder: str, index: int) -> str:
    return f"{folder}/{index}.npy"


def _without_arrays(value: Any, folder: str, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_arrays(part, folder, arrays) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_arrays(part, folder, arrays) for part in value]
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.hasobject:
            raise TypeError(f"found an array of {value.dtype} in the state of a run, expected numbers")
        arrays.append(np.asarray(value))
        return {_ARRAY: _member(folder, len(arrays) - 1)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"found a {type(value).__name__} in the state of a run, expected numbers, strings and arrays")


def _with_arrays(value: Any, archive: zipfile.ZipFile) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_ARRAY}:
            with archive.open(value[_ARRAY]) as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
            return array if array.ndim else array[()]
        return {key: _with_arrays(part, archive) for key, part in value.items()}
    return [_with_arrays(part, archive) for part in value] if isinstance(value, list) else value
