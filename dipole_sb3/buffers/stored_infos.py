"""Infos of environments as bytes, for checkpoints: JSON, in which arrays are base64; no pickle.

Not :mod:`dipole_sb3.common.archived_state`: that makes a file of every array, of which infos have one or more in every
step, and a list of every tuple, which ``compute_reward`` may tell apart.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np

Infos = list[list[dict[str, Any]]]
"""[rows][n_envs]."""


def infos_to_bytes(infos: Infos) -> np.ndarray:
    """What :func:`infos_from_bytes` reads, uint8 [bytes].

    :param infos: of every row and environment: numbers, strings, None, arrays, and lists, tuples or dicts of them.
    :raises ValueError: one holds something else.
    """
    plain: Infos = []
    for row, of_row in enumerate(infos):
        plain.append([])
        for column, info in enumerate(of_row):
            try:
                plain[-1].append({_key(key): _plain(value, f" in {key!r}") for key, value in info.items()})
            except _NotKept as error:
                raise ValueError(
                    f"copy_info_dict=True: the info of row {row}, environment {column} holds {error}, expected "
                    "numbers, strings, arrays, and lists, tuples or dicts of them, as checkpoints hold nothing else; "
                    "save_replay_buffer keeps any"
                ) from None
    return np.frombuffer(json.dumps(plain).encode("ascii"), np.uint8)


def infos_from_bytes(data: np.ndarray) -> Infos:
    """What was given to :func:`infos_to_bytes`, with the same types; arrays are copies in the order of C."""
    return [[_restored(info) for info in of_row] for of_row in json.loads(data.tobytes())]


class _NotKept(Exception):
    """Something that has no form in JSON here; the message says what and where."""


def _key(key: Any, place: str = "") -> str:
    if type(key) is not str:
        raise _NotKept(f"a key of type {type(key).__name__}{place}")
    return key


def _plain(value: Any, place: str) -> Any:
    """Dicts are objects; everything else that JSON does not know is a list that begins with its kind."""
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.hasobject or value.dtype.names is not None:
            raise _NotKept(f"an array of {value.dtype}{place}")
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        return [kind, value.dtype.str, list(value.shape), base64.b64encode(value.tobytes()).decode("ascii")]
    if isinstance(value, dict):
        return {_key(key, place): _plain(part, place) for key, part in value.items()}
    if type(value) in (list, tuple):
        return [type(value).__name__, *(_plain(part, place) for part in value)]
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise _NotKept(f"a {type(value).__name__}{place}")


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _restored(part) for key, part in value.items()}
    if not isinstance(value, list):
        return value
    kind, *parts = value
    if kind in ("list", "tuple"):
        restored = [_restored(part) for part in parts]
        return restored if kind == "list" else tuple(restored)
    dtype, shape, text = parts
    array = np.ndarray(shape, np.dtype(dtype), bytearray(base64.b64decode(text)))
    return array if kind == "array" else array[()]
