"""Policies computed network by network, as in their equations; slow, but easy to verify."""

from __future__ import annotations

import numpy as np
import onnxruntime

from dipole_runtime.bundle import Bundle
from dipole_runtime.errors import GuidedPolicyError, refusing
from dipole_runtime.manifest import CRITIC, DETERMINISTIC, NEGATIVE, POSITIVE
from dipole_runtime.sessions import Floats, Network


class TwoNetworkPolicy:
    """A pair: two networks in a loop, then the critic. The fused graph must give the same results.

    :param bundle: a checked bundle of a pair.
    :param threads: number of threads for each network, at least 1.
    :param options: for every run; see :func:`dipole_runtime.sessions.time_limit`.
    :raises GuidedPolicyError: ONNX Runtime refuses a network, or the bundle's policy is not a pair.
    """

    def __init__(self, bundle: Bundle, threads: int = 1, options: onnxruntime.RunOptions | None = None) -> None:
        if bundle.manifest.guidance is None:
            raise GuidedPolicyError(f"{bundle.where} holds a deterministic policy, expected a pair")
        self._steps = bundle.manifest.guidance.flow_steps
        self._manifest = bundle.manifest
        self._options = options
        with refusing(bundle.where):
            self._positive, self._negative, self._critic = (
                Network(name, bundle.files[name], threads) for name in (POSITIVE, NEGATIVE, CRITIC)
            )

    def run(self, observation: Floats, noise: Floats, omegas: Floats) -> tuple[Floats, Floats]:
        """Actions [W, act] and returns [W, N] for one observation [obs], noise [N, act] and ω [W]."""
        candidates = self.candidates(observation, noise, omegas)
        q = self.q(observation, candidates)
        return candidates[np.arange(len(omegas)), q.argmax(axis=1)], q

    def candidates(self, observation: Floats, noise: Floats, omegas: Floats) -> Floats:
        """All guided actions: x ← x + ((1 + ω)·v⁺ − ω·v⁻) / K from t = 0 to 1, clipped, in the robot's units.

        :param observation: raw, shape [obs].
        :param noise: shape [N, act].
        :param omegas: shape [W].
        :return: shape [W, N, act].
        """
        steps, action = self._steps, self._manifest.action
        x = np.tile(noise, (len(omegas), 1))
        rows = np.tile(observation, (len(x), 1))
        omega = np.repeat(omegas, len(noise))[:, None]
        for step in range(steps):
            inputs = {
                "observation": rows,
                "action_t": x,
                "time": np.full((len(x), 1), step / steps, np.float32),
            }
            (positive,) = self._positive.run(["velocity"], inputs, self._options)
            (negative,) = self._negative.run(["velocity"], inputs, self._options)
            x = x + ((1 + omega) * positive - omega * negative) / np.float32(steps)
        low, high = np.asarray(action.low, np.float32), np.asarray(action.high, np.float32)
        scaled = low + (np.clip(x, -1, 1) + 1) / 2 * (high - low)
        return np.clip(scaled, low, high).reshape(len(omegas), *noise.shape)

    def q(self, observation: Floats, candidates: Floats) -> Floats:
        """Returns [W, N] of candidates [W, N, act] in the robot's units at one observation [obs]."""
        actions = candidates.reshape(-1, candidates.shape[-1])
        inputs = {"observation": np.tile(observation, (len(actions), 1)), "action": actions}
        (q,) = self._critic.run(["q"], inputs, self._options)
        return q.reshape(candidates.shape[:2])


class ValuedPolicy:
    """A deterministic policy whose actions are valued by the separate critic; its graph's own q must give the same.

    :param policy: the policy's graph.
    :param critic: the critic's graph.
    :param options: for every run; see :func:`dipole_runtime.sessions.time_limit`.
    """

    def __init__(self, policy: Network, critic: Network, options: onnxruntime.RunOptions | None = None) -> None:
        self._policy, self._critic, self._options = policy, critic, options

    @classmethod
    def of(cls, bundle: Bundle) -> ValuedPolicy:
        """From a checked bundle of a deterministic policy."""
        with refusing(bundle.where):
            return cls(*(Network(name, bundle.files[name]) for name in (DETERMINISTIC, CRITIC)))

    def act(self, observations: Floats) -> tuple[Floats, Floats]:
        """Actions [V, act] in the robot's units and returns [V] for raw observations [V, obs]."""
        (actions,) = self._policy.run(["action"], {"observation": observations}, self._options)
        (q,) = self._critic.run(["q"], {"observation": observations, "action": actions}, self._options)
        return actions, q
