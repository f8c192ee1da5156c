"""Runs a bundle's test vectors through both of its paths on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import onnxruntime

from dipole_runtime.bundle import Bundle
from dipole_runtime.errors import GuidedPolicyError
from dipole_runtime.manifest import Parity
from dipole_runtime.parity import compare
from dipole_runtime.reference import TwoNetworkPolicy
from dipole_runtime.sessions import Floats, Network


def measure_parity(
    bundle: Bundle, guided: Network, threads: int, options: onnxruntime.RunOptions
) -> Iterator[tuple[str, Parity]]:
    """Name and errors of each path: the fused graph, then the two networks in a loop.

    :param bundle: a checked bundle.
    :param guided: its fused graph.
    :param threads: of the two networks, at least 1.
    :param options: of every run.
    :raises GuidedPolicyError: when ONNX Runtime refuses a network or a run.
    """
    vectors = bundle.vectors()

    def fused(observation: Floats, noise: Floats, omegas: Floats) -> tuple[Floats, Floats]:
        inputs = {"observation": observation[None], "noise": noise, "omega": omegas}
        action, q = guided.run(["action", "q"], inputs, options)
        return action, q

    yield "the fused graph", compare(fused, vectors, bundle.manifest)
    yield "the two networks", compare(TwoNetworkPolicy(bundle, threads, options).run, vectors, bundle.manifest)


def require_parity(path: str, measured: Parity) -> None:
    """Refuses errors above the tolerances.

    :param path: which way of running was measured, for the message.
    :raises GuidedPolicyError: naming the error, where, and what is accepted.
    """
    for name, error, tolerance in (
        ("action", measured.action_error, measured.action_tolerance),
        ("q", measured.q_error, measured.q_tolerance),
    ):
        # Not "error > tolerance": a comparison with NaN must not pass.
        if not error <= tolerance:
            raise GuidedPolicyError(
                f"on this machine {path} gives the test vectors another {name} than the trainer's: error {error:.3g}, "
                f"expected at most {tolerance:.3g}"
            )
