"""The only exception that this package raises, and how foreign text is put into its message."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class GuidedPolicyError(ValueError):
    """What went wrong and where, what was found and what was expected, in one sentence on one line."""

    def __init__(self, message: str) -> None:
        self.message = message
        # Damaged bundles and other libraries' messages can contain line breaks and unprintable characters.
        printable = "".join(character if character.isprintable() else " " for character in message)
        super().__init__(" ".join(printable.split()))


def shown(value: Any, limit: int = 60) -> str:
    """A foreign value for a message: its representation, shortened to ``limit`` characters."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        # Python refuses to print integers of more than 4,300 digits.
        if isinstance(value, int) and value.bit_length() > 256:
            return f"a whole number of {value.bit_length()} bits"
        return repr(value)
    if isinstance(value, dict):
        return f"an object of {len(value)} keys"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = repr(value[:limit] if isinstance(value, str) else value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def shown_path(path: str | os.PathLike[str]) -> str:
    """A path for a message; if it is very long, only its end."""
    text = os.fspath(path)
    return text if len(text) <= 160 else "…" + text[-159:]


@contextmanager
def refusing(where: str) -> Iterator[None]:
    """Puts the bundle's name at the beginning of an error raised in the block, once."""
    beginning = f"cannot load {where}: "
    try:
        yield
    except GuidedPolicyError as error:
        if error.message.startswith(beginning):
            raise
        raise GuidedPolicyError(beginning + error.message) from error.__cause__
