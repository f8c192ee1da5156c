"""Runs a bundle's test vectors on this machine, through the graph that acts and through its single networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import onnxruntime

from dipole_runtime.bundle import Bundle
from dipole_runtime.errors import GuidedPolicyError
from dipole_runtime.manifest import CRITIC, DETERMINISTIC, GUIDED, Parity
from dipole_runtime.observations import observation_of
from dipole_runtime.parity import compare, compare_actions, compare_plans
from dipole_runtime.plan_spec import CAMERAS
from dipole_runtime.reference import ValuedPolicy, network_by_network
from dipole_runtime.scenes import Scene, SceneNetworks
from dipole_runtime.sessions import Floats, Network, Provider
from dipole_runtime.sight import observation_with, sight_of
from dipole_runtime.vectors import ActionVectors, PlanVectors, TestVectors

Acting = Network | SceneNetworks


def acting_network(bundle: Bundle, threads: int = 1, providers: Sequence[Provider] | None = None) -> Acting:
    """The graph with which a robot acts; of a plan bundle both."""
    if bundle.manifest.plan is not None:
        return SceneNetworks(bundle, threads, providers)
    name = DETERMINISTIC if bundle.manifest.guidance is None else GUIDED
    return Network(name, bundle.files[name], threads, providers)


def recorded_observations(bundle: Bundle) -> Iterator[Any]:
    """The observations of the test vectors, as :meth:`GuidedPolicy.act` takes them."""
    vectors, spec, encoder = bundle.vectors(), bundle.manifest.observation, bundle.manifest.encoder
    for index, flat in enumerate(vectors.observations):
        if encoder is not None and not isinstance(vectors, PlanVectors):
            yield observation_with(encoder, spec, [picture[index] for picture in vectors.pictures], flat)
            continue
        seen: Any = observation_of(spec, flat)
        yield {**seen, CAMERAS: vectors.cameras[index]} if isinstance(vectors, PlanVectors) else seen


def measure_parity(
    bundle: Bundle, acting: Acting, threads: int, options: onnxruntime.RunOptions
) -> Iterator[tuple[str, Parity]]:
    """Name and errors of each path: the graph that acts, then the single networks that it combines.

    :param bundle: a checked bundle.
    :param acting: see :func:`acting_network`.
    :param threads: number of threads for the networks, at least 1.
    :param options: for every run.
    :raises GuidedPolicyError: ONNX Runtime refuses a network or a run.
    """
    vectors = bundle.vectors()
    if isinstance(acting, SceneNetworks):
        assert isinstance(vectors, PlanVectors)

        def plan(scene: Scene, noise: Floats, omegas: Floats) -> Floats:
            return acting.plans(scene, noise, omegas, options)

        yield "encoder, planner", compare_plans(plan, vectors, bundle.manifest)
        return
    sight = sight_of(bundle, threads)
    if isinstance(vectors, ActionVectors):

        def act(observation: Floats) -> tuple[Floats, Floats]:
            action, q = acting.run(["action", "q"], {"observation": observation}, options)
            return action, q

        vectors = vectors if sight is None else sight.seen(vectors, options)
        yield "the policy", compare_actions(act, vectors, bundle.manifest)
        valued = ValuedPolicy(acting, Network(CRITIC, bundle.files[CRITIC], threads), options)
        yield "the critic apart", compare_actions(valued.act, vectors, bundle.manifest)
        return

    assert isinstance(vectors, TestVectors)

    def fused(observation: Floats, noise: Floats, omegas: Floats) -> tuple[Floats, Floats]:
        inputs = {"observation": observation[None], "noise": noise, "omega": omegas}
        action, q = acting.run(["action", "q"], inputs, options)
        return action, q

    vectors = vectors if sight is None else sight.seen(vectors, options)
    yield "the fused graph", compare(fused, vectors, bundle.manifest)
    single = network_by_network(bundle, threads, options)
    yield single.name, compare(single.run, vectors, bundle.manifest)


def require_parity(path: str, measured: Parity) -> None:
    """Refuses errors above the tolerances.

    :param path: name of the measured path, for the message.
    :raises GuidedPolicyError: with the error, the path and the tolerance.
    """
    for name, error, tolerance in (
        ("action", measured.action_error, measured.action_tolerance),
        ("q", measured.q_error, measured.q_tolerance),
    ):
        # Not "error > tolerance": that would be false for NaN.
        if not error <= tolerance:
            raise GuidedPolicyError(
                f"on this machine the test vectors get another {name} from {path} than from the trainer: error "
                f"{error:.3g}, expected at most {tolerance:.3g}"
            )
