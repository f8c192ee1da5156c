"""A guided pair as a bundle: two velocity fields, the critic, and the complete policy as one graph with input ω."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from dipole_runtime.bundle import Bundle
from dipole_runtime.manifest import CRITIC, GUIDED, NEGATIVE, POSITIVE, Guidance, OmegaRange, Parity
from dipole_runtime.parity import compare
from dipole_runtime.reference import TwoNetworkPolicy
from dipole_runtime.sessions import Floats, Network
from dipole_runtime.vectors import TestVectors

from dipole_export import graphs
from dipole_export.exported_form import BATCH, SEED, ExportedForm, critic_graph, named_weights, prefixed, worst
from dipole_export.onnx_files import quantized, to_onnx
from dipole_export.rounding import rounded_fields
from dipole_export.trainer import trainer_candidates
from dipole_sb3.networks.acting_forms import GuidedPair

OMEGA_RANGE = (-1.0, 4.0)
"""Default range of ω."""
PARITY_OMEGAS = (-1.0, 0.0, 0.5, 1.0, 2.0, 4.0)
_PARITY_CANDIDATES = 2
_VECTOR_CANDIDATES = 32


class ExportedPair(ExportedForm):
    """A policy with N candidates from v⁺ and v⁻ at ω, of which the critics choose one.

    :param model: its ``omega`` and ``num_candidates`` become the defaults of the bundle.
    :param omega_range: smallest and largest ω that the runtime accepts; None: −1 … 4.
    :raises ValueError: the range does not contain the model's ω, or it goes below −1.
    """

    advice = "export with precision='fp32', a smaller omega_range, or accept more with max_int8_error"
    source: graphs.Source[GuidedPair]
    guidance: Guidance

    def __init__(
        self, model: Any, source: graphs.Source[GuidedPair], omega_range: tuple[float, float] | None = None
    ) -> None:
        self._model, self.source = model, source
        omega = _omega(model, OMEGA_RANGE if omega_range is None else omega_range)
        self.guidance = Guidance(source.form.flow_steps, model.num_candidates, omega)
        measured = (one for one in PARITY_OMEGAS if omega.low <= one <= omega.high)
        self.omegas = sorted({*measured, *vars(omega).values()})

    def networks(self) -> dict[str, bytes]:
        source, observation, size = self.source, graphs.observation_size(self.source), len(self.source.low)
        candidates, omegas = 3, 2
        action = torch.zeros(BATCH, size)
        field = {"observation": torch.zeros(BATCH, observation), "action_t": action, "time": torch.zeros(BATCH, 1)}
        guided = {
            "observation": torch.zeros(1, observation),
            "noise": torch.zeros(candidates, size),
            "omega": torch.zeros(omegas),
        }
        free = {"noise": "candidates", "omega": "omegas"}
        return {
            GUIDED: to_onnx(graphs.GuidedPolicy(source), guided, ["action", "q"], free),
            POSITIVE: to_onnx(graphs.VelocityField(source, 0), field, ["velocity"], dict.fromkeys(field, "batch")),
            NEGATIVE: to_onnx(graphs.VelocityField(source, 1), field, ["velocity"], dict.fromkeys(field, "batch")),
            CRITIC: critic_graph(source, observation),
        }

    def in_8_bits(self, networks: Mapping[str, bytes], observations: np.ndarray) -> dict[str, bytes]:
        noise = np.random.default_rng(SEED).standard_normal((len(observations), len(self.source.low)))
        policy = graphs.GuidedPolicy(self.source).eval()
        inputs = (observations, noise.astype(np.float32), np.asarray(self.omegas, np.float32))
        positive, negative = map(named_weights, rounded_fields(policy, *map(torch.as_tensor, inputs)))
        named = {
            GUIDED: prefixed("positive.perceptron", positive) | prefixed("negative.perceptron", negative),
            POSITIVE: prefixed("field.perceptron", positive),
            NEGATIVE: prefixed("field.perceptron", negative),
        }
        return {name: quantized(graph, named[name]) if name in named else graph for name, graph in networks.items()}

    def vectors(self, observations: np.ndarray) -> TestVectors:
        return self._trainer(observations, min(self.guidance.num_candidates, _VECTOR_CANDIDATES), SEED)

    def errors(self, bundle: Bundle, observations: np.ndarray) -> dict[float | None, Parity]:
        """Compares, for each ω, the fused graph on both, and the two separate networks on the bundle's own vectors."""
        guided, vectors = Network(GUIDED, bundle.files[GUIDED]), bundle.vectors()
        assert isinstance(vectors, TestVectors)
        many = self._trainer(observations, _PARITY_CANDIDATES, SEED + 1)

        def fused(observation: Floats, noise: Floats, omegas: Floats) -> tuple[Floats, Floats]:
            inputs = {"observation": observation[None], "noise": noise, "omega": omegas}
            action, q = guided.run(("action", "q"), inputs)
            return action, q

        compared = [(fused, vectors), (fused, many), (TwoNetworkPolicy(bundle).run, vectors)]
        return {
            float(omega): worst([compare(run, _at_omega(some, index), bundle.manifest) for run, some in compared])
            for index, omega in enumerate(vectors.omegas)
        }

    def _trainer(self, observations: np.ndarray, num_candidates: int, seed: int) -> TestVectors:
        model, form = self._model, self._model.policy.acting_form()
        return trainer_candidates(model, form, observations, num_candidates, self.omegas, seed)


def _at_omega(vectors: TestVectors, index: int) -> TestVectors:
    at = slice(index, index + 1)
    return replace(vectors, omegas=vectors.omegas[at], candidates=vectors.candidates[:, at], q=vectors.q[:, at])


def _omega(model: Any, bounds: tuple[float, float]) -> OmegaRange:
    (knob,) = (knob for knob in model.policy.knobs if knob.name == "omega")
    low, high = (knob.checked(bound, "omega_range") for bound in bounds)
    if not low <= model.omega <= high:
        raise ValueError(
            f"the model's omega {model.omega:g} is not in omega_range {low:g} … {high:g}: set model.omega, or give a "
            "range that holds it"
        )
    return OmegaRange(float(model.omega), low, high)
