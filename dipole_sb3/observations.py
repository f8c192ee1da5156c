"""Observations are one array (or tensor), or a dict of those where the space is a Dict: the same done to either."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def mapped(function: Callable[..., Any], *values: Any) -> Any:
    """The function of one value, or of the values under each key; of several observations with the same keys."""
    first = values[0]
    if isinstance(first, dict):
        return {key: function(*(value[key] for value in values)) for key in first}
    return function(*values)


def together(*values: Any) -> Iterator[tuple[Any, ...]]:
    """The arrays of several observations that belong together: one tuple, or one per key."""
    if isinstance(values[0], dict):
        for key in values[0]:
            yield tuple(value[key] for value in values)
    else:
        yield values
