"""Knobs: arguments of ``predict`` that change how a trained policy acts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Knob:
    """An argument of ``predict``. Evaluations sweep it; models and policies have an attribute of the same name.

    :param name: name of the argument and of the attribute, e.g. ``"omega"``.
    :param symbol: symbol in tables and plots, e.g. ``"ω"``.
    :param title: label of an axis, e.g. ``"greediness ω"``.
    :param least: the smallest value allowed.
    :param option: option of the commands that lists the values of a sweep, e.g. ``"omegas"``.
    :param swept: values of a sweep when the option is not given.
    :param swept_with_own: whether the model's own value is then added to them.
    :param whole: whether only whole numbers are allowed.
    :param names: (value, name) pairs: labels of special values in plots.
    :param hint: what special values mean, for error messages.
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
        """The values of a sweep when none are given.

        :param own: the model's own value.
        """
        return sorted({*self.swept, own}) if self.swept_with_own else list(self.swept)

    def checked(self, value: Any, name: str | None = None) -> Any:
        """The value as a float, or as an int where the knob is a whole number.

        :param name: the value's name in the message, if it is not the knob's.
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
"""Number of actions drawn, of which the critics choose the best."""


def one_per_row(name: str, values: Tensor, features: Tensor) -> Tensor:
    """Values of a knob for every observation as a column.

    :param values: shape [batch].
    :param features: of the observations, shape [..., batch, features].
    :return: shape [batch, 1].
    :raises ValueError: another number of values than of observations.
    """
    rows = features.shape[-2]
    if values.shape != (rows,):
        raise ValueError(f"{name} has shape {tuple(values.shape)}, expected one value for each of {rows} observations")
    return values.reshape(-1, 1)


def knob_property(knob: Knob, meaning: str) -> Any:
    """A property of a model: setting it stores ``_NAME`` in the model and changes the policy's default."""

    def get(model: Any) -> Any:
        return getattr(model, f"_{knob.name}")

    def turn(model: Any, value: Any) -> None:
        value = knob.checked(value)
        setattr(model, f"_{knob.name}", value)
        setattr(model.policy, knob.name, value)

    return property(get, turn, doc=meaning)
