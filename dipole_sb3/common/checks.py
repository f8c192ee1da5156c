"""Checks of recorded arrays before anything is built from them: every failure is one sentence of what and where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from dipole_sb3.common.errors import DatasetError

ObservationArrays = np.ndarray | dict[str, np.ndarray]

BOUND_TOLERANCE = 1e-3
"""How far outside the bounds of a space, as a share of its range, recorded values may lie (rounding to float32)."""

_ROWS_PER_CHECK = 65_536


class RowError(DatasetError):
    """A value that is wrong, with the row that holds it.

    :param before: the sentence up to the row's number.
    :param row: counted from where the checked part begins.
    :param after: the rest of the sentence.
    """

    def __init__(self, before: str, row: int, after: str) -> None:
        super().__init__(f"{before}{row}{after}")
        self.before, self.row, self.after = before, row, after

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are pickled by their message; this one has three parts, and comes out of worker processes too.
        return type(self), (self.before, self.row, self.after)

    def counted_from(self, first: int) -> RowError:
        """The same error, with the row counted from ``first`` rows earlier."""
        return RowError(self.before, self.row + first, self.after)


def named_arrays(key: str, value: ObservationArrays) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of an observation: one pair, or one per key of a Dict observation."""
    if isinstance(value, dict):
        for name, array in value.items():
            yield f"{key}[{name!r}]", array
    else:
        yield key, value


def require_numeric(source: str, key: str, value: Any) -> np.ndarray:
    """The value as a numeric array; refuses objects, strings, ragged lists and empty arrays."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DatasetError(f"{source}: {key} has rows of different shapes, expected one array of numbers") from error
    if array.dtype.kind not in "buif":
        raise DatasetError(f"{source}: {key} has dtype {array.dtype}, expected numbers")
    if array.ndim == 0 or array.shape[0] == 0:
        raise DatasetError(f"{source}: {key} is empty (shape {array.shape}), expected at least one transition")
    return array


def require_finite(source: str, key: str, array: np.ndarray) -> None:
    """Refuses NaN, infinity and what becomes infinite as float32, naming the first row that has one."""
    if array.dtype.kind != "f":
        return
    for start in range(0, len(array), _ROWS_PER_CHECK):
        part = array[start : start + _ROWS_PER_CHECK]
        # NaN compares as False, too.
        finite = (np.abs(part) <= np.finfo(np.float32).max).reshape(len(part), -1).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise RowError(
                f"{source}: {key} has NaN or infinity, first in row ", row, "; expected finite float32 numbers"
            )


def require_shape(source: str, key: str, array: np.ndarray, expected: tuple[int, ...]) -> None:
    if array.shape != expected:
        raise DatasetError(f"{source}: {key} has shape {array.shape}, expected {expected}")


def with_rows_of(shape: tuple[int, ...], array: np.ndarray) -> np.ndarray:
    """One number a row may be written as [T] or [T, 1]: a view in the form that the space's shape asks for."""
    if shape == () and array.shape[1:] == (1,):
        return array[:, 0]
    return array[:, None] if shape == (1,) and array.ndim == 1 else array


def require_kind(source: str, key: str, array: np.ndarray, expected: np.dtype[Any]) -> None:
    """Refuses arrays that would lose or change their meaning as ``expected``: fractions, images of another type."""
    if expected == np.uint8:
        fits = array.dtype == np.uint8
    elif expected.kind in "iu":
        fits = array.dtype.kind in "biu"
    else:
        fits = array.dtype != np.uint8
    if not fits:
        raise DatasetError(f"{source}: {key} has dtype {array.dtype}, expected {expected}")


def require_within(source: str, key: str, array: np.ndarray, space: spaces.Space[Any]) -> None:
    """Refuses values outside the space's finite bounds by more than :data:`BOUND_TOLERANCE` of their range."""
    low, high = _bounds(space)
    shape = low.shape
    span = np.where(np.isfinite(high - low), high - low, np.maximum(1.0, np.abs(np.where(np.isfinite(low), low, high))))
    margin = BOUND_TOLERANCE * np.where(np.isfinite(span), span, 1.0)
    for start in range(0, len(array), _ROWS_PER_CHECK):
        part = array[start : start + _ROWS_PER_CHECK].reshape(-1, *shape)
        outside = (part < low - margin) | (part > high + margin)
        if outside.any():
            index = tuple(int(i) for i in np.argwhere(outside)[0])
            raise RowError(
                f"{source}: {key} row ",
                start + index[0],
                f" holds {part[index]:.6g}, expected a value in [{low[index[1:]]:.6g}, {high[index[1:]]:.6g}]",
            )


def _bounds(space: spaces.Space[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest value of every element, in float64."""
    if isinstance(space, spaces.Box):
        low, high = space.low, space.high
    elif isinstance(space, spaces.Discrete):
        low, high = np.asarray(space.start), np.asarray(space.start + space.n - 1)
    elif isinstance(space, spaces.MultiDiscrete):
        low, high = space.start, space.start + space.nvec - 1
    elif isinstance(space, spaces.MultiBinary):
        low, high = np.zeros(space.shape), np.ones(space.shape)
    else:
        raise ValueError(f"observations of {on_one_line(space)} are not supported: expected a Box or a Dict of Box")
    return low.astype(np.float64), high.astype(np.float64)


def require_zero_or_one(source: str, key: str, column: np.ndarray) -> None:
    """Refuses values other than 0 and 1, naming the first."""
    valid = (column == 0) | (column == 1)
    if not valid.all():
        row = int(np.argmin(valid))
        raise RowError(f"{source}: {key} row ", row, f" holds {float(column[row]):.6g}, expected 0 or 1")


def infer_space(source: str, key: str, array: np.ndarray) -> spaces.Space[Any]:
    """The space of recorded observations: unbounded float32, 0 to 255 for uint8 images, or the integers there are.

    :param array: all observations; where they are integers [T], their least and greatest are enough.
    """
    if array.ndim == 1 and array.dtype.kind in "iu":
        least = int(min(array.min(), 0))
        return spaces.Discrete(int(array.max()) - least + 1, start=least)
    if array.ndim < 2:
        raise DatasetError(f"{source}: {key} has shape {array.shape}, expected [transitions, ...observation]")
    if array.dtype == np.uint8:
        return spaces.Box(0, 255, array.shape[1:], np.uint8)
    return spaces.Box(-np.inf, np.inf, array.shape[1:], np.float32)


def infer_observation_space(
    source: str, observations: ObservationArrays, next_observations: ObservationArrays
) -> spaces.Space[Any]:
    """The space of recorded observations, key by key; see :func:`infer_space`.

    :param next_observations: an integer may be found here alone.
    """

    def inferred(key: str, array: np.ndarray, following: Any) -> spaces.Space[Any]:
        both = isinstance(following, np.ndarray) and array.ndim == following.ndim == 1
        return infer_space(source, key, np.concatenate([array, following]) if both else array)

    if isinstance(observations, dict):
        following = next_observations if isinstance(next_observations, dict) else {}
        return spaces.Dict(
            {
                name: inferred(f"observations[{name!r}]", array, following.get(name))
                for name, array in observations.items()
            }
        )
    return inferred("observations", observations, next_observations)


def infer_action_space(source: str, actions: np.ndarray) -> spaces.Box:
    """Box(−1, 1) for actions inside it; anything larger needs the real bounds, which data alone cannot tell."""
    if actions.ndim < 2:
        raise DatasetError(
            f"{source}: actions has shape {actions.shape}, expected [transitions, action]; "
            "only continuous (Box) actions are supported"
        )
    largest = float(np.abs(actions).max())
    if largest > 1.0 + BOUND_TOLERANCE:
        raise DatasetError(
            f"{source}: actions reach {largest:.6g}, expected values in [-1, 1]; for other units pass the "
            "environment's bounds as action_space=gymnasium.spaces.Box(low, high)"
        )
    return spaces.Box(-1.0, 1.0, actions.shape[1:], np.float32)


def require_box_actions(space: spaces.Space[Any]) -> spaces.Box:
    """The action space as a bounded Box, or one sentence that says what is supported."""
    if not isinstance(space, spaces.Box):
        raise ValueError(
            f"the algorithm needs continuous actions: found action space {on_one_line(space)}, expected a "
            "gymnasium.spaces.Box with finite bounds"
        )
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise ValueError(
            f"the algorithm needs bounded actions: found {on_one_line(space)}, expected a Box with finite low and high"
        )
    if not (space.low < space.high).all():
        raise ValueError(
            f"the algorithm needs actions that can vary: found {on_one_line(space)}, expected a Box with low < high"
        )
    return space


def require_same_spaces(
    source: str,
    found_observation: spaces.Space[Any],
    found_action: spaces.Space[Any],
    expected_observation: spaces.Space[Any],
    expected_action: spaces.Space[Any],
) -> None:
    """Refuses data whose shapes, kinds or action bounds differ from the environment's."""
    found_action, expected_action = require_box_actions(found_action), require_box_actions(expected_action)
    _require_same_observation(source, "observation", found_observation, expected_observation)
    if found_action.shape != expected_action.shape:
        raise DatasetError(
            f"{source}: actions have shape {found_action.shape}, the environment expects {expected_action.shape}"
        )
    same = np.isclose(found_action.low, expected_action.low) & np.isclose(found_action.high, expected_action.high)
    if not same.all():
        index = tuple(int(i) for i in np.argwhere(~same)[0])
        found, expected = (f"[{box.low[index]:.6g}, {box.high[index]:.6g}]" for box in (found_action, expected_action))
        raise DatasetError(
            f"{source}: actions[{', '.join(map(str, index))}] is bounded by {found}, the environment's by {expected}; "
            "if the recorded actions are in the environment's units, load them with action_space=env.action_space"
        )


def _require_same_observation(source: str, name: str, found: spaces.Space[Any], expected: spaces.Space[Any]) -> None:
    if isinstance(expected, spaces.Dict) or isinstance(found, spaces.Dict):
        found_keys = sorted(found.keys()) if isinstance(found, spaces.Dict) else None
        expected_keys = sorted(expected.keys()) if isinstance(expected, spaces.Dict) else None
        if found_keys != expected_keys:
            raise DatasetError(
                f"{source}: {name} keys are {found_keys or 'none'}, the environment has {expected_keys or 'none'}"
            )
        assert isinstance(found, spaces.Dict)
        assert isinstance(expected, spaces.Dict)
        for key in expected:
            _require_same_observation(source, f"{name}[{key!r}]", found[key], expected[key])
        return
    if isinstance(found, spaces.Discrete) and isinstance(expected, spaces.Discrete):
        (low, high), (least, greatest) = _bounds(found), _bounds(expected)
        if low < least or high > greatest:
            raise DatasetError(
                f"{source}: {name} goes from {low:g} to {high:g}, the environment's from {least:g} to {greatest:g}"
            )
    if found.shape != expected.shape:
        # SB3 moves the channels of images to the front; data recorded either way is the same data.
        raise DatasetError(f"{source}: {name} has shape {found.shape}, the environment expects {expected.shape}")
    if (found.dtype == np.uint8) != (expected.dtype == np.uint8):
        raise DatasetError(f"{source}: {name} has dtype {found.dtype}, the environment expects {expected.dtype}")


def on_one_line(space: spaces.Space[Any]) -> str:
    """A space as gymnasium describes it; bounds of many dimensions would run over several lines."""
    return " ".join(str(space).split())


def describe_keys(arrays: Mapping[str, Any]) -> str:
    return ", ".join(sorted(arrays)) or "none"


def stores_as(space: spaces.Space[Any]) -> np.dtype[Any]:
    """Type in which a buffer keeps observations: uint8 images as they are, other numbers as float32."""
    if isinstance(space, spaces.Box) and (is_image_space(space) or space.dtype == np.uint8):
        return np.dtype(np.uint8)
    if space.dtype is not None and np.issubdtype(space.dtype, np.integer):
        return np.dtype(space.dtype)
    return np.dtype(np.float32)


def require_whole_number(name: str, value: Any, least: int | None = None) -> None:
    """Refuses anything but a whole number of at least ``least``.

    :param name: of the argument, for the message.
    :raises ValueError: naming the argument, what was found and what was expected.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or (least is not None and value < least):
        raise ValueError(
            f"{name} is {value!r}, expected a whole number{'' if least is None else f' of at least {least}'}"
        )
