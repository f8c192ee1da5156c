"""What may be turned after training: arguments of ``predict`` that change how a policy acts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Knob:
    """One such argument. Evaluations sweep it, models and policies have an attribute of its name.

    :param name: of the argument and of the attribute, e.g. ``"omega"``.
    :param symbol: in tables and pictures, e.g. ``"ω"``.
    :param title: along an axis, e.g. ``"greediness ω"``.
    :param least: the smallest value.
    :param option: of the commands, with the values that an evaluation takes, e.g. ``"omegas"``.
    :param swept: those values where the option is not given.
    :param swept_with_own: whether the model's own value is one of them, too.
    :param whole: whether it is a whole number.
    :param names: (value, name) of values that have one, for pictures.
    :param hint: the same for error messages.
    """

    name: str
    symbol: str
    title: str
    least: float
    option: str
    swept: tuple[float, ...]
    swept_with_own: bool = False
    whole: bool = False
    names: tuple[tuple[float, str], ...] = ()
    hint: str = ""

    def default_sweep(self, own: float) -> list[float]:
        """The values that an evaluation takes where none are given.

        :param own: the model's own value.
        """
        return sorted({*self.swept, own}) if self.swept_with_own else list(self.swept)

    def checked(self, value: Any, name: str | None = None) -> Any:
        """The value as a float, or as an int where the knob is a whole number.

        :param name: for the message, where the value has another name than the knob.
        :raises ValueError: NaN, infinity, a fraction where a whole number is expected, or too small.
        """
        number = float(value)
        if self.whole and not (number.is_integer() and number >= self.least):
            raise ValueError(f"{name or self.name} is {value}, expected a whole number of at least {self.least:g}")
        if not (math.isfinite(number) and number >= self.least):
            hint = f" ({self.hint})" if self.hint else ""
            raise ValueError(
                f"{name or self.name} is {value}, expected a finite number of at least {self.least:g}{hint}"
            )
        return int(number) if self.whole else number


NUM_CANDIDATES = Knob(
    "num_candidates", "N", "candidates N", least=1, option="candidates", swept=(1,), swept_with_own=True, whole=True
)
"""Actions that are drawn, of which the critics' best is taken."""


def knob_property(knob: Knob, meaning: str) -> Any:
    """A property of a model: kept with it as ``_NAME``, and handed to the policy, whose default it is from then on."""

    def get(model: Any) -> Any:
        return getattr(model, f"_{knob.name}")

    def turn(model: Any, value: Any) -> None:
        value = knob.checked(value)
        setattr(model, f"_{knob.name}", value)
        setattr(model.policy, knob.name, value)

    return property(get, turn, doc=meaning)
