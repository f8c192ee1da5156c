"""What treats observations alike, be they one array (or tensor) or, in a Dict space, a dict of those."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from gymnasium import spaces

Fields = TypeVar("Fields", bound=NamedTuple)


def space_parts(space: spaces.Space[Any]) -> dict[str | None, spaces.Space[Any]]:
    """The spaces of a Dict by key; another space under None."""
    return dict(space.spaces.items()) if isinstance(space, spaces.Dict) else {None: space}


def mapped(function: Callable[..., Any], *values: Any) -> Any:
    """The function of one value, or of the values under each key; of several observations with the same keys."""
    first = values[0]
    if isinstance(first, dict):
        return {key: function(*(value[key] for value in values)) for key in first}
    return function(*values)


def merged(function: Callable[..., Any], *tuples: Fields) -> Fields:
    """The function of several named tuples, field by field (and key by key); fields that are None stay None."""
    values = [None if field[0] is None else mapped(function, *field) for field in zip(*tuples, strict=True)]
    made: Any = type(tuples[0])
    return made(*values)  # type: ignore[no-any-return]


def together(*values: Any) -> Iterator[tuple[Any, ...]]:
    """The arrays of several observations that belong together: one tuple, or one per key."""
    if isinstance(values[0], dict):
        for key in values[0]:
            yield tuple(value[key] for value in values)
    else:
        yield values
