"""Checks of numbers that trainings and plans are asked for with."""

from __future__ import annotations

import math


def require_number(name: str, value: float) -> None:
    """:raises ValueError: it is no finite number."""
    if not _is_number(value):
        raise ValueError(f"{name} is {value}, expected a number")


def require_positive(name: str, value: float) -> None:
    """:raises ValueError: it is no finite number above 0."""
    if not (_is_number(value) and value > 0):
        raise ValueError(f"{name} is {value}, expected a number above 0")


def require_omega(name: str, value: float) -> None:
    """:raises ValueError: it is no finite number of at least −1."""
    if not (_is_number(value) and value >= -1):
        raise ValueError(f"{name} is {value}, expected a number of at least -1")


def _is_number(value: object) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(value)  # type: ignore[arg-type]
    except TypeError:
        return False
