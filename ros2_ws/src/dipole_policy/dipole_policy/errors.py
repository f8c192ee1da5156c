"""Why a contract, a parameter or a bundle is refused, and why the robot is stopped."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from dipole_runtime.errors import GuidedPolicyError, shown

__all__ = ["Cause", "ContractError", "GuidedPolicyError", "Kind", "one_line", "shown"]


def one_line(text: object) -> str:
    """Foreign text on one printable line of at most 500 characters, for logs, diagnostics and responses."""
    printable = "".join(character if character.isprintable() else " " for character in str(text))
    words = " ".join(printable.split())
    return words if len(words) <= 500 else words[:499] + "…"


class ContractError(ValueError):
    """What is wrong with a contract: where, what was found and what was expected, in one sentence."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class Kind(str, Enum):
    """Kinds of faults that stop the robot."""

    MISSING = "missing input"
    STALE = "stale input"
    WRONG_SIZE = "wrongly sized input"
    NON_FINITE = "non-finite input"
    NO_ROTATION = "no rotation"
    BLIND = "blind camera"
    DEADLINE = "missed deadline"
    STALLED = "stalled control loop"
    EXCEPTION = "exception"
    CLOCK = "clock"
    REQUEST = "request"


@dataclass(frozen=True)
class Cause:
    """Why the robot does not drive.

    :param detail: one sentence: which input, what was found, what was expected.
    """

    kind: Kind
    detail: str

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.detail}"


class InputError(ValueError):
    """A message that cannot become part of an observation; its ``cause`` says why."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(str(cause))
        self.cause = cause
