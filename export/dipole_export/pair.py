"""A policy that samples its actions, as a bundle: two fields, the critic, and the whole policy as one graph with ω.

A policy of one field has two equal ones in its bundle, and ω is 0. Where the policy's own knob is another number for
the same guidance, its form says how much more than ω it is.
"""

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
from dipole_runtime.vectors import VECTOR_CANDIDATES, TestVectors

from dipole_export import graphs
from dipole_export.exported_form import BATCH, SEED, ExportedForm, critic_graph, named_weights, prefixed, worst
from dipole_export.onnx_files import quantized, to_onnx
from dipole_export.rounding import Rounded, rounded_fields
from dipole_export.trainer import trainer_candidates

OMEGA_RANGE = (-1.0, 4.0)
"""Default range of ω."""
PARITY_OMEGAS = (-1.0, 0.0, 0.5, 1.0, 2.0, 4.0)
_PARITY_CANDIDATES = 2


class ExportedPair(ExportedForm):
    """A policy with N candidates from v⁺ and v⁻ at ω, of which the critics choose one.

    :param model: its ω and ``num_candidates`` become the defaults of the bundle.
    :param omega_range: smallest and largest ω that the runtime accepts; None: −1 … 4. A policy of one field has none.
    :raises ValueError: the range does not contain the model's ω, or it goes below −1, or the policy has no ω.
    """

    advice = "export with precision='fp32', a smaller omega_range, or accept more with max_int8_error"
    source: graphs.Source[graphs.SampledForm]
    guidance: Guidance

    def __init__(
        self, model: Any, source: graphs.Source[graphs.SampledForm], omega_range: tuple[float, float] | None = None
    ) -> None:
        self._model, self.source = model, source
        omega = _omega(model, source.form, omega_range)
        self.guidance = Guidance(graphs.flow_steps(source.form), getattr(model, "num_candidates", 1), omega)
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
        layers = list(map(named_weights, rounded_fields(policy, *map(torch.as_tensor, inputs))))
        guided: dict[str, Rounded] = {}
        for name, of_field in zip(policy.fields, layers, strict=True):
            guided |= prefixed(f"{name}.perceptron", of_field)
        named = {
            GUIDED: guided,
            POSITIVE: prefixed("field.perceptron", layers[0]),
            NEGATIVE: prefixed("field.perceptron", layers[-1]),
        }
        return {name: quantized(graph, named[name]) if name in named else graph for name, graph in networks.items()}

    def vectors(self, observations: np.ndarray) -> TestVectors:
        return self._trainer(observations, min(self.guidance.num_candidates, VECTOR_CANDIDATES), SEED)

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


def _omega(model: Any, form: graphs.SampledForm, bounds: tuple[float, float] | None) -> OmegaRange:
    if not isinstance(form, graphs.GuidedForm):
        if bounds is not None:
            raise ValueError(f"omega_range is {bounds}, expected none: {type(model).__name__} acts without greediness")
        return OmegaRange(0.0, 0.0, 0.0)
    (knob,) = (knob for knob in model.policy.knobs if not knob.whole)
    own = getattr(model, knob.name) - form.more_than_omega
    bounds = OMEGA_RANGE if bounds is None else bounds
    low, high = (knob.checked(bound + form.more_than_omega, "omega_range") - form.more_than_omega for bound in bounds)
    if not low <= own <= high:
        value = f"{knob.name} {getattr(model, knob.name):g}"
        value += f", an omega of {own:g}," if form.more_than_omega else ""
        raise ValueError(
            f"the model's {value} is not in omega_range {low:g} … {high:g}: set model.{knob.name}, or give a range "
            "that holds it"
        )
    return OmegaRange(own, low, high)
