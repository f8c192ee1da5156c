"""Infos as numbers in a checkpoint: what comes back is what was there, with the same types."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dipole_sb3.buffers.stored_infos import infos_from_bytes, infos_to_bytes

DTYPES = st.sampled_from(["bool", "int8", "uint16", "int64", "float32", "float64", "complex64", "<U3", "S2", "M8[ns]"])
ARRAYS = DTYPES.flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0)))
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | ARRAYS | ARRAYS.filter(np.size).map(np.ravel)
) | DTYPES.flatmap(lambda dtype: arrays.arrays(dtype, (1,)).map(lambda array: array[0]))  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda part: st.lists(part) | st.lists(part).map(tuple) | st.dictionaries(st.text(), part),
    max_leaves=8,
)
INFOS = st.dictionaries(st.text(), VALUES, max_size=4)


def alike(one: Any, other: Any) -> bool:
    """Of the same types throughout, NaN like NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, np.ndarray | np.generic):
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    return bool(one == other or (one != one and other != other))


@given(st.integers(1, 3).flatmap(lambda n: st.lists(st.lists(INFOS, min_size=n, max_size=n), max_size=4)))
def test_they_come_back(rows: list[list[dict[str, Any]]]) -> None:
    data = infos_to_bytes(rows)
    assert (data.dtype, data.ndim) == (np.uint8, 1)
    assert alike(infos_from_bytes(data), rows)


def test_arrays_that_come_back_may_be_written_to() -> None:
    (((info),),) = infos_from_bytes(infos_to_bytes([[{"force": np.zeros((2, 2), order="F")}]]))
    info["force"][1, 0] = 1


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"wind": {1, 2}}, "row 1, environment 0 holds a set in 'wind'"),
        ({"wind": {3: 4}}, "row 1, environment 0 holds a key of type int in 'wind'"),
        ({"wind": np.array([None])}, "row 1, environment 0 holds an array of object in 'wind'"),
        ({"wind": np.zeros(2, [("x", "f4")])}, r"row 1, environment 0 holds an array of \[\('x', '<f4'\)\] in 'wind'"),
        ({5: 4}, "row 1, environment 0 holds a key of type int"),
    ],
)
def test_what_cannot_be_kept_is_refused(info: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"copy_info_dict=True: the info of {words}"):
        infos_to_bytes([[{}], [info]])
