"""A deterministic policy as a bundle: one graph from observations to actions and Q-values, and a separate critic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from dipole_runtime.bundle import Bundle
from dipole_runtime.manifest import CRITIC, DETERMINISTIC, Parity
from dipole_runtime.parity import compare_actions
from dipole_runtime.reference import ValuedPolicy
from dipole_runtime.sessions import Floats, Network
from dipole_runtime.sight import sight_of
from dipole_runtime.vectors import ActionVectors

from dipole_export import graphs
from dipole_export.exported_form import BATCH, ExportedForm, critic_graph, named_weights, prefixed, worst
from dipole_export.observed import Source
from dipole_export.onnx_files import quantized, to_onnx
from dipole_export.pictures import Seen
from dipole_export.rounding import rounded_actor
from dipole_export.trainer import trainer_actions
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm
from dipole_sb3.networks.acting_forms import Deterministic


class ExportedDeterministic(ExportedForm):
    """A policy that gives one action per observation.

    :param model: the bundle is compared with its policy's ``predict``.
    """

    advice = "export with precision='fp32', or accept more with max_int8_error"
    source: Source[Deterministic]
    guidance = None

    def __init__(self, model: OfflineAlgorithm, source: Source[Deterministic]) -> None:
        self._model, self.source = model, source

    def networks(self) -> dict[str, bytes]:
        size = self.source.seen_size
        observation = {"observation": torch.zeros(BATCH, size)}
        policy = graphs.DeterministicPolicy(self.source)
        return {
            DETERMINISTIC: to_onnx(policy, observation, ["action", "q"], {"observation": "batch"}),
            CRITIC: critic_graph(self.source, size),
        }

    def in_8_bits(self, networks: Mapping[str, bytes], observations: np.ndarray) -> dict[str, bytes]:
        policy = graphs.DeterministicPolicy(self.source).eval()
        layers = named_weights(rounded_actor(policy, torch.as_tensor(observations)))
        return {**networks, DETERMINISTIC: quantized(networks[DETERMINISTIC], prefixed("actor", layers))}

    def vectors(self, seen: Seen) -> ActionVectors:
        policy: Any = self._model.policy
        return trainer_actions(self._model, policy.acting_form(), seen)

    def errors(self, bundle: Bundle, seen: Seen) -> dict[float | None, Parity]:
        """Compares the acting graph on both, and the separate critic on the bundle's own vectors."""
        network, vectors = Network(DETERMINISTIC, bundle.files[DETERMINISTIC]), bundle.vectors()
        assert isinstance(vectors, ActionVectors)

        def act(observation: Floats) -> tuple[Floats, Floats]:
            action, q = network.run(("action", "q"), {"observation": observation})
            return action, q

        many, sight = self.vectors(seen), sight_of(bundle)
        if sight is not None:
            vectors, many = sight.seen(vectors), sight.seen(many)
        compared = [(act, vectors), (act, many), (ValuedPolicy.of(bundle).act, vectors)]
        return {None: worst([compare_actions(run, some, bundle.manifest) for run, some in compared])}
