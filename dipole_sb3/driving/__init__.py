"""A driving agent that plans from cameras, fine-tuned by two adapters against a driving score.

Needs the extra ``driving``: :class:`DPVLA` and :func:`load_scenes` are imported when they are first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dipole_sb3.driving.agent import DPVLA as DPVLA

_HOMES = {"DPVLA": "dipole_sb3.driving.agent", "load_scenes": "dipole_sb3.driving.scenes"}

__all__ = ["DPVLA", "load_scenes"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("dipole_sb3"):
            raise
        raise ModuleNotFoundError(
            f"{name} needs the package {error.name}, which is not installed: pip install 'dipole-sb3[driving]'",
            name=error.name,
        ) from error
