"""How far a bundle may be from its trainer: bounds that the exporter keeps and that the runtime insists on.

A manifest states its own tolerances, so without these bounds a manifest could switch its own check off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ACTION_TOLERANCE = 1e-4
"""Largest allowed difference of actions in single precision, as a share of each element's range."""
PLAN_TOLERANCE = 1e-3
"""Of plans, in metres and radians: a guided plan of 100 m is rounded to a tenth of that in single precision."""
Q_TOLERANCE = 1e-3
"""As a share of max(1, |q|). It is larger, because Q-values only choose among candidates."""
INT8_MARGIN = 2.0
"""Factor between measured and tolerated int8 errors, because the robot's processor may round differently."""
LARGEST_INT8_ERROR = 0.2
"""Largest error of int8 actions that an exporter may be told to accept, as a share of each element's range. With the
margin it stays below one half: a policy that always commands the middle of the range is nowhere further off."""
LARGEST_INT8_Q_ERROR = 0.4
"""As a share of max(1, |q|). With the margin it stays below one, which is the error of a critic that always says 0."""


@dataclass(frozen=True)
class Tolerances:
    """The largest tolerances that a manifest may state.

    :param action: as a share of each element's range.
    :param q: as a share of max(1, |q|).
    """

    action: float
    q: float


LARGEST_TOLERANCES: Mapping[str, Tolerances] = {
    "fp32": Tolerances(ACTION_TOLERANCE, Q_TOLERANCE),
    "int8": Tolerances(INT8_MARGIN * LARGEST_INT8_ERROR, INT8_MARGIN * LARGEST_INT8_Q_ERROR),
}
"""By precision."""
LARGEST_OF_PLANS = Tolerances(PLAN_TOLERANCE, 0.0)
