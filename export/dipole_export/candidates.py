"""Policies that draw N candidates from noise, of which the critics choose: what their bundles have in common."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from dipole_runtime.bundle import Bundle
from dipole_runtime.manifest import GUIDED, Guidance, OmegaRange, Parity
from dipole_runtime.parity import compare
from dipole_runtime.reference import network_by_network
from dipole_runtime.sessions import Floats, Network
from dipole_runtime.sight import sight_of
from dipole_runtime.vectors import VECTOR_CANDIDATES, TestVectors

from dipole_export import graphs
from dipole_export.exported_form import SEED, ExportedForm, worst
from dipole_export.observed import Source
from dipole_export.onnx_files import to_onnx
from dipole_export.pictures import Seen
from dipole_export.trainer import trainer_candidates
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm

PARITY_OMEGAS = (-1.0, 0.0, 0.5, 1.0, 2.0, 4.0)
_PARITY_CANDIDATES = 2


class ExportedCandidates(ExportedForm):
    """A policy with N candidates, of which the critics choose one.

    :param model: its ``num_candidates`` becomes the default of the bundle.
    :param omega: the bundle's range of ω.
    """

    source: Source[graphs.CandidateForm]
    guidance: Guidance

    def __init__(self, model: OfflineAlgorithm, source: Source[graphs.CandidateForm], omega: OmegaRange) -> None:
        self._model, self.source = model, source
        steps, betas = graphs.steps_and_betas(source.form)
        self.guidance = Guidance(steps, getattr(model, "num_candidates", 1), omega, betas)
        measured = (one for one in PARITY_OMEGAS if omega.low <= one <= omega.high)
        self.omegas = sorted({*measured, *vars(omega).values()})

    @property
    def noise_size(self) -> int:
        """Numbers that a candidate starts from."""
        return len(self.source.low) * max(1, len(self.guidance.betas))

    def acting_graph(self, policy: graphs.CandidatePolicy) -> bytes:
        """The graph with which a robot acts."""
        candidates, omegas = 3, 2
        inputs = {
            "observation": torch.zeros(1, self.source.seen_size),
            "noise": torch.zeros(candidates, self.noise_size),
            "omega": torch.zeros(omegas),
        }
        return to_onnx(policy, inputs, ["action", "q"], {"noise": "candidates", "omega": "omegas"})

    def vectors(self, seen: Seen) -> TestVectors:
        return self._trainer(seen, min(self.guidance.num_candidates, VECTOR_CANDIDATES), SEED)

    def errors(self, bundle: Bundle, seen: Seen) -> dict[float | None, Parity]:
        """Compares, for each ω, the fused graph on both, and the single networks on the bundle's own vectors."""
        guided, vectors = Network(GUIDED, bundle.files[GUIDED]), bundle.vectors()
        assert isinstance(vectors, TestVectors)
        many = self._trainer(seen, _PARITY_CANDIDATES, SEED + 1)
        sight = sight_of(bundle)
        if sight is not None:
            vectors, many = sight.seen(vectors), sight.seen(many)

        def fused(observation: Floats, noise: Floats, omegas: Floats) -> tuple[Floats, Floats]:
            inputs = {"observation": observation[None], "noise": noise, "omega": omegas}
            action, q = guided.run(("action", "q"), inputs)
            return action, q

        compared = [(fused, vectors), (fused, many), (network_by_network(bundle).run, vectors)]
        return {
            float(omega): worst([compare(run, _at_omega(some, index), bundle.manifest) for run, some in compared])
            for index, omega in enumerate(vectors.omegas)
        }

    def _trainer(self, seen: Seen, num_candidates: int, seed: int) -> TestVectors:
        policy: Any = self._model.policy
        noise = np.random.default_rng(seed).standard_normal((len(seen), num_candidates, self.noise_size))
        form = policy.acting_form()
        return trainer_candidates(self._model, form, seen, noise.astype(np.float32), self.omegas)


def _at_omega(vectors: TestVectors, index: int) -> TestVectors:
    at = slice(index, index + 1)
    return replace(vectors, omegas=vectors.omegas[at], candidates=vectors.candidates[:, at], q=vectors.q[:, at])
