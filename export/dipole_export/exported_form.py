"""What an exporter needs to know of a form in which policies act; :mod:`pair` and :mod:`deterministic` know it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from dipole_runtime.bundle import Bundle
from dipole_runtime.manifest import Guidance, Parity
from dipole_runtime.vectors import Vectors

from dipole_export import graphs
from dipole_export.onnx_files import to_onnx
from dipole_export.rounding import LEAST_WIDTH, NOT_ROUNDED, Rounded
from dipole_sb3.networks.acting_forms import ActingForm

SEED = 0
"""Of whatever an export draws."""
BATCH = 2
"""Of the examples that graphs are traced with: PyTorch's exporter takes a size of 1 for a fixed one."""


class ExportedForm(ABC):
    """A model's policy on its way into a bundle."""

    advice: ClassVar[str]
    """What to try where int8 differs too much."""

    source: graphs.Source[ActingForm]
    guidance: Guidance | None

    @abstractmethod
    def networks(self) -> dict[str, bytes]:
        """The graphs in single precision, by file name."""

    @abstractmethod
    def in_8_bits(self, networks: Mapping[str, bytes], observations: np.ndarray) -> dict[str, bytes]:
        """The same graphs with the large matrices of what acts in 8 bits, fitted to flat observations.

        The critics, which tell small differences apart and run once, stay float.

        :raises ValueError: where there are none.
        """

    @abstractmethod
    def vectors(self, observations: np.ndarray) -> Vectors:
        """What the trainer does about flat observations, for a bundle's test vectors."""

    @abstractmethod
    def errors(self, bundle: Bundle, observations: np.ndarray) -> dict[float | None, Parity]:
        """How far a bundle's networks are from the trainer, on its test vectors and on these flat observations.

        :return: by ω; the key None where there is none.
        """


def critic_graph(source: graphs.Source[ActingForm], observation: int) -> bytes:
    """critic.onnx, which all forms have.

    :param observation: size of the flat observation.
    """
    valued = {"observation": torch.zeros(BATCH, observation), "action": torch.zeros(BATCH, len(source.low))}
    return to_onnx(graphs.Critic(source), valued, ["q"], dict.fromkeys(valued, "batch"))


def worst(measured: list[Parity]) -> Parity:
    """The largest errors of all, beside the first one's tolerances."""
    return replace(
        measured[0],
        action_error=max(one.action_error for one in measured),
        q_error=max(one.q_error for one in measured),
    )


def named_weights(layers: Sequence[Rounded]) -> dict[str, Rounded]:
    """The rounded ones of a perceptron's later layers, by their names in it.

    :raises ValueError: none is large enough.
    """
    named = {f"weights.{index}": layer for index, layer in enumerate(layers) if layer is not NOT_ROUNDED}
    if not named:
        raise ValueError(
            f"precision is 'int8', but no hidden layer has {LEAST_WIDTH} × {LEAST_WIDTH} weights or more, where 8 bits "
            "begin to pay; export with precision='fp32'"
        )
    return named


def prefixed(prefix: str, layers: Mapping[str, Rounded]) -> dict[str, Rounded]:
    """The same with the perceptron's place in a graph before each name."""
    return {f"{prefix}.{name}": layer for name, layer in layers.items()}
