"""What the exporter needs for each form of policy; :mod:`pair` and :mod:`deterministic` implement it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from dipole_runtime.bundle import Bundle
from dipole_runtime.manifest import Guidance, Parity
from dipole_runtime.vectors import ActionVectors, TestVectors

from dipole_export import graphs
from dipole_export.observed import Source
from dipole_export.onnx_files import to_onnx
from dipole_export.pictures import Seen
from dipole_export.rounding import LEAST_WIDTH, NOT_ROUNDED, Rounded
from dipole_sb3.networks.acting_forms import ActingForm

SEED = 0
"""Seed of all random numbers in an export."""
BATCH = 2
"""Batch size of the examples that graphs are traced with: PyTorch's exporter treats a size of 1 as fixed."""


class NothingToRoundError(ValueError):
    """No matrix is large enough for 8 bits to pay."""


class ExportedForm(ABC):
    """A model's policy in the form needed to write a bundle."""

    advice: ClassVar[str]
    """What to try if int8 differs too much from the model; the end of an error message."""

    source: Source[ActingForm]
    guidance: Guidance | None

    @abstractmethod
    def networks(self) -> dict[str, bytes]:
        """The graphs in single precision, as file name → ONNX bytes."""

    @abstractmethod
    def in_8_bits(self, networks: Mapping[str, bytes], observations: np.ndarray) -> dict[str, bytes]:
        """The same graphs with the large matrices of the acting networks in 8 bits, fitted to observations.

        The critics stay float: they must distinguish small differences, and they run only once per action.

        :param observations: as the graphs take them, [rows, observation].
        :raises NothingToRoundError: no matrix is large enough.
        """

    @abstractmethod
    def vectors(self, seen: Seen) -> TestVectors | ActionVectors:
        """The trainer's results for observations, as test vectors for a bundle."""

    @abstractmethod
    def errors(self, bundle: Bundle, seen: Seen) -> dict[float | None, Parity]:
        """Errors of a bundle's networks against the trainer, on its test vectors and on these observations.

        :return: errors by ω; the only key is None for a policy without ω.
        """


def critic_graph(source: Source[ActingForm], observation: int) -> bytes:
    """The graph critic.onnx, which bundles of all forms contain.

    :param observation: size of the flat observation.
    """
    valued = {"observation": torch.zeros(BATCH, observation), "action": torch.zeros(BATCH, len(source.low))}
    return to_onnx(graphs.Critic(source), valued, ["q"], dict.fromkeys(valued, "batch"))


def worst(measured: list[Parity]) -> Parity:
    """The largest action and Q errors of all, with the tolerances of the first."""
    return replace(
        measured[0],
        action_error=max(one.action_error for one in measured),
        q_error=max(one.q_error for one in measured),
    )


def named_weights(layers: Sequence[Rounded]) -> dict[str, Rounded]:
    """The rounded layers of a perceptron, by the names of their weights.

    :param layers: all layers after the first.
    :raises NothingToRoundError: no layer is large enough to be rounded.
    """
    named = {f"weights.{index}": layer for index, layer in enumerate(layers) if layer is not NOT_ROUNDED}
    if not named:
        raise NothingToRoundError(
            f"precision is 'int8', but no hidden layer has {LEAST_WIDTH} × {LEAST_WIDTH} weights or more, where 8 bits "
            "begin to pay; export with precision='fp32'"
        )
    return named


def prefixed(prefix: str, layers: Mapping[str, Rounded]) -> dict[str, Rounded]:
    """The same layers with the perceptron's name in the graph before each name."""
    return {f"{prefix}.{name}": layer for name, layer in layers.items()}
