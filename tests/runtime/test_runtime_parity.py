"""What the measure of agreement with the trainer sees, and what it leaves to rounding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dipole_runtime import GuidedPolicy
from dipole_runtime.manifest import Parity
from dipole_runtime.parity import compare
from dipole_runtime.vectors import TestVectors as Vectors
from runtime_helpers import refusal_of_call
from small_bundles import (
    Array,
    SmallPolicy,
    make_files,
    make_manifest,
    make_vectors,
)


class TestParity:
    """What the measure of agreement sees, and what it leaves to rounding."""

    def run_of(self, vectors: Vectors, row: int = 0) -> Any:
        """The trainer itself, but taking the candidate that is ``row``-th best."""
        index = iter(range(len(vectors.observations)))

        def run(observation: Array, noise: Array, omegas: Array) -> tuple[Array, Array]:
            vector = next(index)
            q = vectors.q[vector]
            order = np.argsort(-q, axis=1)[:, row]
            return vectors.candidates[vector, np.arange(len(omegas)), order], q

        return run

    def test_the_trainer_agrees_with_itself(self, small: SmallPolicy, policy: GuidedPolicy) -> None:
        vectors = make_vectors(small)
        assert compare(self.run_of(vectors), vectors, policy.manifest) == Parity(0.0, 1e-4, 0.0, 1e-4)

    def test_the_second_best_is_an_error(self, small: SmallPolicy, policy: GuidedPolicy) -> None:
        vectors = make_vectors(small)
        measured = compare(self.run_of(vectors, row=1), vectors, policy.manifest)
        assert measured.action_error > 1e-3
        assert measured.q_error == 0

    def test_ties_are_no_errors(self, small: SmallPolicy, policy: GuidedPolicy) -> None:
        vectors = make_vectors(small)
        tied = replace(vectors, q=np.zeros_like(vectors.q))

        def other_way(observation: Array, noise: Array, omegas: Array) -> tuple[Array, Array]:
            (vector,) = np.flatnonzero((vectors.observations == observation).all(axis=1))
            q = np.zeros_like(vectors.q[vector])
            q[:, -1] = 1e-7
            return vectors.candidates[vector, :, -1], q

        measured = compare(other_way, tied, policy.manifest)
        assert measured.action_error == 0
        assert measured.q_error == pytest.approx(1e-7)

    def test_errors_are_shares_of_the_range_and_of_large_returns(self, small: SmallPolicy) -> None:
        manifest = make_manifest(small, make_files(small))
        vectors = make_vectors(small)
        vectors = replace(vectors, q=vectors.q * 0 + np.arange(3, dtype=np.float32) * 50)
        base = self.run_of(vectors)

        def off(observation: Array, noise: Array, omegas: Array) -> tuple[Array, Array]:
            action, q = base(observation, noise, omegas)
            return action + np.array([0.03, 0.0], np.float32), q + np.array([0, 0, 1], np.float32)

        measured = compare(off, vectors, manifest)
        assert measured.action_error == pytest.approx(0.03 / 3, rel=1e-3)
        assert measured.q_error == pytest.approx(1 / 100)

    @pytest.mark.parametrize("which", [0, 1])
    def test_nan_never_agrees(self, small: SmallPolicy, policy: GuidedPolicy, which: int) -> None:
        vectors = make_vectors(small)
        base = self.run_of(vectors)

        def broken(observation: Array, noise: Array, omegas: Array) -> tuple[Array, Array]:
            results = [one.copy() for one in base(observation, noise, omegas)]
            results[which][0, 0] = np.nan
            return results[0], results[1]

        measured = compare(broken, vectors, policy.manifest)
        assert max(measured.action_error, measured.q_error) == float("inf")

    def test_other_shapes(self, small: SmallPolicy, policy: GuidedPolicy) -> None:
        vectors = make_vectors(small)
        base = self.run_of(vectors)
        sentence = refusal_of_call(
            compare, lambda *inputs: (base(*inputs)[0][:1], vectors.q[0]), vectors, policy.manifest
        )
        assert "shapes" in sentence
