"""Measures how far a policy is from the trainer's, so that ties between candidates do not count as errors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dipole_runtime.errors import GuidedPolicyError
from dipole_runtime.manifest import Manifest, Parity
from dipole_runtime.plan_spec import POSE
from dipole_runtime.scenes import Scene, scene_of
from dipole_runtime.sessions import Floats
from dipole_runtime.vectors import ActionVectors, PlanVectors, TestVectors

Run = Callable[[Floats, Floats, Floats], tuple[Floats, Floats]]
"""(observation [obs], noise [N, noise], omegas [W]) → (action [W, act], q [W, N])."""

Act = Callable[[Floats], tuple[Floats, Floats]]
"""observation [1, obs] → (action [1, act], q [1])."""

Plan = Callable[[Scene, Floats, Floats], Floats]
"""(scene, noise [1, noise], omegas [W]) → plans [W, act]."""


def compare(run: Run, vectors: TestVectors, manifest: Manifest) -> Parity:
    """The largest errors of ``run`` over all vectors, together with the manifest's tolerances.

    The action is compared with the trainer's candidate to which the run itself gives the largest return: if two
    candidates have nearly equal returns, rounding decides between them. The errors of the returns show whether the run
    values the candidates as the trainer does.

    :return: action_error: |a − a_trainer| as a share of high − low; q_error: |q − q_trainer| / max(1, |q_trainer|);
        infinite if the run gives NaN.
    :raises GuidedPolicyError: the run's results have other shapes.
    """
    width = _width(manifest)
    rows = np.arange(len(vectors.omegas))
    action_error = q_error = 0.0
    # An infinite intermediate value becomes an infinite error in the result, not a warning.
    with np.errstate(all="ignore"):
        for observation, noise, candidates, trainer_q in zip(
            vectors.observations, vectors.noise, vectors.candidates, vectors.q, strict=True
        ):
            action, q = run(observation, noise, vectors.omegas)
            if q.shape != trainer_q.shape or action.shape != (len(rows), candidates.shape[-1]):
                raise GuidedPolicyError(
                    f"action and q have the shapes {action.shape} and {q.shape}, "
                    f"expected {(len(rows), candidates.shape[-1])} and {trainer_q.shape}"
                )
            expected = candidates[rows, q.argmax(axis=1)].astype(np.float64)
            action_error = max(action_error, _largest(np.abs(action - expected) / width))
            q_error = max(q_error, _q_error(q, trainer_q))
    return Parity(action_error, manifest.parity.action_tolerance, q_error, manifest.parity.q_tolerance)


def compare_actions(act: Act, vectors: ActionVectors, manifest: Manifest) -> Parity:
    """The largest errors of a deterministic policy over all vectors; as :func:`compare`."""
    width = _width(manifest)
    action_error = q_error = 0.0
    with np.errstate(all="ignore"):
        # One by one, as on a robot.
        for index in range(len(vectors.observations)):
            at = slice(index, index + 1)
            action, q = act(vectors.observations[at])
            expected, trainer_q = vectors.actions[at], vectors.q[at]
            if q.shape != trainer_q.shape or action.shape != expected.shape:
                raise GuidedPolicyError(
                    f"action and q have the shapes {action.shape} and {q.shape}, "
                    f"expected {expected.shape} and {trainer_q.shape}"
                )
            action_error = max(action_error, _largest(np.abs(action - expected.astype(np.float64)) / width))
            q_error = max(q_error, _q_error(q, trainer_q))
    return Parity(action_error, manifest.parity.action_tolerance, q_error, manifest.parity.q_tolerance)


def compare_plans(plan: Plan, vectors: PlanVectors, manifest: Manifest) -> Parity:
    """The largest errors of a plan bundle over all vectors, in metres and radians; see :func:`compare`."""
    action_error = 0.0
    with np.errstate(all="ignore"):
        for index, expected in enumerate(vectors.plans):
            found = plan(scene_of(manifest, vectors, index), vectors.noise[index], vectors.omegas)
            if found.shape != expected.shape:
                raise GuidedPolicyError(f"plan has shape {found.shape}, expected {expected.shape}")
            differences = np.abs(found - expected.astype(np.float64)).reshape(-1, POSE)
            # Two headings on both sides of ±π are close to each other.
            differences[:, 2] = np.abs((differences[:, 2] + np.pi) % (2 * np.pi) - np.pi)
            action_error = max(action_error, _largest(differences))
    return Parity(action_error, manifest.parity.action_tolerance, 0.0, manifest.parity.q_tolerance)


def _width(manifest: Manifest) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.array(manifest.action.high, np.float64) - np.array(manifest.action.low, np.float64)


def _q_error(q: Floats, trainer_q: Floats) -> float:
    scale = np.maximum(1.0, np.abs(trainer_q.astype(np.float64)))
    return _largest(np.abs(q - trainer_q.astype(np.float64)) / scale)


def _largest(errors: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    largest = float(errors.max())
    return largest if largest == largest else float("inf")
