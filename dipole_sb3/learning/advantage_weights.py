"""How an algorithm weights recorded transitions by their advantage, for plots and training records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from dipole_sb3.buffers.offline_buffer import Batch


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
