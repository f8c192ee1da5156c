"""Whether files may be read whose reading runs code that they bring: pickles, and all of SB3's files hold some."""

from __future__ import annotations

import os
from typing import Any

VARIABLE = "DIPOLE_SAFE"
"""Environment variable: 1 refuses every file whose reading could run code."""


def must_be_safe(trust: bool | None = None) -> bool:
    """Whether only files may be read that cannot run anything.

    :param trust: the caller's word; None: the environment variable decides.
    """
    return os.environ.get(VARIABLE, "") not in ("", "0") if trust is None else not trust


def require_trust(file: Any, what: str, trust: bool | None = None) -> None:
    """Checks that a file may run what it brings.

    :param file: its path, or an open file.
    :param what: what is about to be done with it.
    :raises ValueError: it may not.
    """
    if must_be_safe(trust):
        shown = getattr(file, "name", "the open file") if hasattr(file, "read") else file
        raise ValueError(
            f"{shown}: {what} runs code that the file brings, and only safe files may be read (trust=False or "
            f'{VARIABLE}=1); expected a model written by save(…, format="safe"), or a data file of numbers'
        )
