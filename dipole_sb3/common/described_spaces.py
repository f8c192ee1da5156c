"""Observation and action spaces as JSON, and back to the same spaces."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from dipole_sb3.common.checks import on_one_line


def describe(space: spaces.Space[Any]) -> dict[str, Any]:
    """A space as a JSON-ready dictionary; :func:`restore` makes an equal space of it.

    :raises ValueError: a space that replay buffers do not hold.
    """
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {key: describe(part) for key, part in space.spaces.items()}}
    if isinstance(space, spaces.Box):
        bounds = {"low": _numbers(space.low), "high": _numbers(space.high)}
        return {"type": "Box", "shape": list(space.shape), "dtype": np.dtype(space.dtype).name, **bounds}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": _name(space)}
    if isinstance(space, spaces.MultiDiscrete):
        return {
            "type": "MultiDiscrete",
            "nvec": space.nvec.tolist(),
            "start": space.start.tolist(),
            "dtype": _name(space),
        }
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "shape": list(space.shape)}
    raise ValueError(
        f"{on_one_line(space)} cannot be stored: expected a Box, Discrete, MultiDiscrete, MultiBinary or Dict"
    )


def restore(description: dict[str, Any]) -> spaces.Space[Any]:
    """The space of a dictionary that :func:`describe` made.

    :raises ValueError: it describes none; other damage surfaces as KeyError or TypeError.
    """
    kind = description["type"]
    if kind == "Dict":
        return spaces.Dict({key: restore(part) for key, part in description["spaces"].items()})
    if kind == "Box":
        dtype, shape = np.dtype(description["dtype"]), tuple(description["shape"])
        low, high = (_array(description[bound], shape, dtype) for bound in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(description["n"], start=description["start"], dtype=_integer(description))
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(description["nvec"], start=description["start"], dtype=_integer(description))
    if kind == "MultiBinary":
        shape = description["shape"]
        return spaces.MultiBinary(shape if len(shape) > 1 else shape[0])
    raise ValueError(f"unknown type of space {kind!r}")


def _name(space: spaces.Space[Any]) -> str:
    return str(np.dtype(space.dtype).name)


def _integer(description: dict[str, Any]) -> Any:
    return np.dtype(description["dtype"]).type


def _numbers(bounds: np.ndarray) -> Any:
    """One number where all are the same (images have thousands); infinities as text, which JSON has no number for."""
    if bounds.size and (bounds == bounds.flat[0]).all():
        return _number(bounds.flat[0])
    return [_number(value) for value in bounds.flat]


def _number(value: np.generic) -> float | int | str:
    plain: float | int = value.item()
    return plain if np.isfinite(plain) else str(plain)


def _array(numbers: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    if isinstance(numbers, list):
        return np.array([float(value) if isinstance(value, str) else value for value in numbers], dtype).reshape(shape)
    return np.full(shape, float(numbers) if isinstance(numbers, str) else numbers, dtype)
