"""How an algorithm weights recorded transitions by their advantage: for pictures and records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from dipole_sb3.buffers.offline_buffer import Batch


@dataclass(frozen=True)
class AdvantageWeights:
    """What the losses do with an advantage.

    :param advantage: of a batch as the networks see it, shape [batch], in units of return; without gradient.
    :param formula: of the advantage, e.g. ``"A = min(Q₁, Q₂) − V"``.
    :param curves: name → weight of an advantage, of any shape. The first one is that of the data's share that counts.
    :param largest: the largest weight.
    :param saturation: the advantages below and above which the first weight hardly changes.
    :param note: shares of the data (below, above) → what they mean, for a reader.
    :param title: of a picture.
    """

    advantage: Callable[[Batch], Tensor]
    formula: str
    curves: Mapping[str, Callable[[Tensor], Tensor]]
    largest: float
    saturation: tuple[float, float]
    note: Callable[[float, float], str]
    title: str
