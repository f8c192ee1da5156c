"""Nested numbers and arrays in a zip file come back as they were, without pickle."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dipole_sb3.common.archived_state import read_state, write_state

NUMBERS = arrays.arrays(
    st.sampled_from([np.float32, np.float64, np.uint8, np.int64, np.bool_]), arrays.array_shapes(min_dims=0, min_side=0)
)
# Generators of NumPy have states of 128 bits.
LEAVES = st.none() | st.booleans() | st.integers(-(2**130), 2**130) | st.floats(allow_nan=False) | st.text() | NUMBERS
STATES = st.dictionaries(
    st.text(), st.recursive(LEAVES, lambda parts: st.lists(parts) | st.dictionaries(st.text(), parts), max_leaves=8)
)


def there_and_back(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        write_state(archive, "run", state)
    with zipfile.ZipFile(file) as archive:
        return read_state(archive, "run")


@settings(deadline=None, max_examples=40)
@given(state=STATES)
def test_comes_back_as_it_was(state: dict[str, Any]) -> None:
    np.testing.assert_equal(there_and_back(state), state)


@given(array=NUMBERS)
@settings(deadline=None, max_examples=30)
def test_types_stay(array: np.ndarray) -> None:
    back = there_and_back({"array": array})["array"]
    assert (back.dtype, back.shape) == (array.dtype, array.shape)


@pytest.mark.parametrize(
    "value", [np.array([object()]), {1, 2}, np.array("a", object)], ids=["objects", "set", "object"]
)
def test_what_would_need_pickle_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="in the state of a run, expected numbers"):
        there_and_back({"a": [value]})
