"""How recorded observations lie in memory: images with channels first or last, rows that torch can read as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecTransposeImage

from dipole_sb3.common.checks import ObservationArrays

BLOCK_BYTES = 32 * 2**20
"""About the size of a block, where data are read from beginning to end."""


def rows_per_block(row_bytes: int) -> int:
    """Rows of a block, by the bytes of a row."""
    return max(1, min(65_536, BLOCK_BYTES // max(row_bytes, 1)))


def channels_first(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The space with the channels of its images first, as SB3's extractors expect."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: channels_first(part) for key, part in space.spaces.items()})
    if is_image_space(space) and not is_image_space_channels_first(space):  # type: ignore[arg-type]
        return VecTransposeImage.transpose_space(space)  # type: ignore[arg-type]
    return space


def same_shapes(one: spaces.Space[Any], other: spaces.Space[Any]) -> bool:
    """Whether two spaces have the same shapes, key by key."""
    if isinstance(one, spaces.Dict) and isinstance(other, spaces.Dict):
        return one.keys() == other.keys() and all(same_shapes(one[key], other[key]) for key in one)
    return one.shape == other.shape


def transposed(value: ObservationArrays, space: spaces.Space[Any], leading: int = 2) -> ObservationArrays:
    """A view with the last axis moved to the front of each observation, where the shapes of ``space`` ask for it.

    :param value: observations after ``leading`` axes of rows (and environments).
    """
    if isinstance(value, dict):
        assert isinstance(space, spaces.Dict)
        return {key: transposed(array, space[key], leading) for key, array in value.items()}  # type: ignore[misc]
    turned = (value.shape[-1], *value.shape[leading:-1])
    return np.moveaxis(value, -1, leading) if turned == space.shape != value.shape[leading:] else value


def adopted(array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """The array itself where torch can read it as it is, else a contiguous copy."""
    # Batches are rows: each must lie in one piece, so a column-major array is copied.
    readable = array.dtype == dtype and min(array.strides) > 0 and array.strides[0] == max(array.strides)
    return array if readable else np.ascontiguousarray(array, dtype)


def with_channels_of(array: np.ndarray, space: spaces.Space[Any]) -> np.ndarray:
    """Recorded images as they are, or as a view with their last axis first, where that is how ``space`` has them."""
    turned = array.ndim == 4 and (array.shape[3], *array.shape[1:3]) == space.shape != array.shape[1:]
    return np.moveaxis(array, -1, 1) if turned and array.dtype == np.uint8 else array
