"""How many missed deadlines do not stop the robot, as a contract says it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from dipole_policy.contract_table import Table
from dipole_policy.errors import ContractError, shown

_MISSES = re.compile(r"(\d{1,4}) of (\d{1,5})")
_TOLERATED_SILENCE_S = 0.05


@dataclass(frozen=True)
class Tolerance:
    """How many missed deadlines do not stop the robot.

    :param allowed: of them in any ``of`` periods that follow each other.
    """

    allowed: int
    of: int

    def __str__(self) -> str:
        return f"{self.allowed} of {self.of}"


def tolerated(table: Table, rate_hz: float, deadline_s: float) -> Tolerance:
    """Takes ``deadline_misses`` from a contract; if it is not given, as many as pass in 0.05 s, in a second."""
    text = table.text("deadline_misses", None)
    if text is None:
        # Rounding must not take one from 0.05 s / 0.01 s.
        of = max(1, round(rate_hz))
        allowed = math.floor(_TOLERATED_SILENCE_S / max(deadline_s, 1.0 / rate_hz) + 1e-9)
        return Tolerance(min(allowed, of - 1), of)
    match = _MISSES.fullmatch(text)
    if match is None or not int(match[1]) < int(match[2]):
        raise ContractError(f"deadline_misses is {shown(text)}, expected fewer misses than periods such as '3 of 100'")
    return Tolerance(int(match[1]), int(match[2]))
