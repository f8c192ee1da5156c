"""How an algorithm weights recorded transitions by their advantage, for plots and training records."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.learning.value_losses import LARGEST_WEIGHT, exponential_weights


@dataclass(frozen=True)
class AdvantageWeights:
    """How the losses turn an advantage into weights.

    :param advantage: function: batch, normalised as the networks see it → advantages, shape [batch], in units of
        return; called without gradients.
    :param formula: the advantage's formula, e.g. ``"A = min(Q₁, Q₂) − V"``.
    :param curves: name → function from advantages of any shape to weights of that shape. The range in ``saturation``
        is that of the first one.
    :param largest: the largest weight.
    :param saturation: the advantages below and above which the first weight hardly changes.
    :param note: function: shares of the data below and above that range → a sentence on what they mean.
    :param title: title of the plot.
    """

    advantage: Callable[[Batch], Tensor]
    formula: str
    curves: Mapping[str, Callable[[Tensor], Tensor]]
    largest: float
    saturation: tuple[float, float]
    note: Callable[[float, float], str]
    title: str


def exponential(advantage: Callable[[Batch], Tensor], formula: str, alpha: float) -> AdvantageWeights:
    """The weights min(exp(αA), 100).

    :param advantage: as of :class:`AdvantageWeights`, like ``formula``.
    :param alpha: α ≥ 0.
    """
    # Below the first end, a transition's weight is under 0.01; above the second, the weight is cut off.
    low, high = (math.log(x) / alpha if alpha > 0 else math.copysign(math.inf, x - 1) for x in (0.01, LARGEST_WEIGHT))
    return AdvantageWeights(
        advantage,
        formula,
        {"weight: min(exp(αA), 100)": lambda value: exponential_weights(value, alpha)},
        largest=LARGEST_WEIGHT,
        saturation=(low, high),
        note=lambda below, above: (
            f"{100 * below:.1f} % of the data weigh less than 0.01, {100 * above:.1f} % are cut off at 100"
        ),
        title=f"How the advantage weights the data (α = {alpha:g})",
    )
