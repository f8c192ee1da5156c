"""Policies computed network by network, as in their equations; slow, but easy to verify."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import onnxruntime

from dipole_runtime.bundle import Bundle
from dipole_runtime.errors import GuidedPolicyError, refusing
from dipole_runtime.manifest import CRITIC, DETERMINISTIC, NEGATIVE, POSITIVE, PREDICTOR, Guidance, PolicyForm
from dipole_runtime.sessions import Floats, Network


class NetworkByNetwork(ABC):
    """N candidates in a loop over single networks, then the critic. The fused graph must give the same results.

    :param bundle: a checked bundle of this form of policy.
    :param threads: number of threads for each network, at least 1.
    :param options: for every run; see :func:`dipole_runtime.sessions.time_limit`.
    :raises GuidedPolicyError: ONNX Runtime refuses a network, or the bundle's policy has another form.
    """

    form: ClassVar[PolicyForm]
    acting: ClassVar[tuple[str, ...]]
    """Files of the networks that act."""
    name: ClassVar[str]
    """What messages call them."""

    def __init__(self, bundle: Bundle, threads: int = 1, options: onnxruntime.RunOptions | None = None) -> None:
        guidance = bundle.manifest.guidance
        if guidance is None or bundle.manifest.policy != self.form:
            raise GuidedPolicyError(f"{bundle.where} holds a {bundle.manifest.policy} policy, expected a {self.form}")
        self._guidance: Guidance = guidance
        self._manifest = bundle.manifest
        self._options = options
        with refusing(bundle.where):
            self._networks = [Network(name, bundle.files[name], threads) for name in self.acting]
            self._critic = Network(CRITIC, bundle.files[CRITIC], threads)

    def run(self, observation: Floats, noise: Floats, omegas: Floats) -> tuple[Floats, Floats]:
        """Actions [W, act] and returns [W, N] for one observation [obs], noise [N, noise] and ω [W]."""
        candidates = self.candidates(observation, noise, omegas)
        q = self.q(observation, candidates)
        return candidates[np.arange(len(omegas)), q.argmax(axis=1)], q

    def candidates(self, observation: Floats, noise: Floats, omegas: Floats) -> Floats:
        """All actions in the robot's units.

        :param observation: raw, shape [obs].
        :param noise: shape [N, noise].
        :param omegas: shape [W].
        :return: shape [W, N, act].
        """
        action = self._manifest.action
        rows = np.tile(noise, (len(omegas), 1))
        x = self._sampled(np.tile(observation, (len(rows), 1)), rows, np.repeat(omegas, len(noise))[:, None])
        low, high = np.asarray(action.low, np.float32), np.asarray(action.high, np.float32)
        scaled = low + (np.clip(x, -1, 1) + 1) / 2 * (high - low)
        return np.clip(scaled, low, high).reshape(len(omegas), len(noise), action.size)

    @abstractmethod
    def _sampled(self, observations: Floats, noise: Floats, omega: Floats) -> Floats:
        """Observations [rows, obs], noise [rows, noise] and ω [rows, 1] → actions [rows, act], clipped or not."""

    def q(self, observation: Floats, candidates: Floats) -> Floats:
        """Returns [W, N] of candidates [W, N, act] in the robot's units at one observation [obs]."""
        actions = candidates.reshape(-1, candidates.shape[-1])
        inputs = {"observation": np.tile(observation, (len(actions), 1)), "action": actions}
        (q,) = self._critic.run(["q"], inputs, self._options)
        return q.reshape(candidates.shape[:2])


class TwoNetworkPolicy(NetworkByNetwork):
    """A pair: x ← x + ((1 + ω)·v⁺ − ω·v⁻) / K from t = 0 to 1."""

    form = "pair"
    acting = (POSITIVE, NEGATIVE)
    name = "the two networks"

    def _sampled(self, observations: Floats, noise: Floats, omega: Floats) -> Floats:
        x, steps = noise, self._guidance.flow_steps
        for step in range(steps):
            inputs = {
                "observation": observations,
                "action_t": x,
                "time": np.full((len(x), 1), step / steps, np.float32),
            }
            positive, negative = (network.run(["velocity"], inputs, self._options)[0] for network in self._networks)
            x = x + ((1 + omega) * positive - omega * negative) / np.float32(steps)
        return x


class DiffusionSteps(NetworkByNetwork):
    """A diffusion policy: x ← clip((x − β/√(1 − ᾱ)·ε̂) / √(1 − β) + √β·z) from t = T to 1, without z in the last step.

    ᾱ_t is the product of 1 − β from step 1 to step t.
    """

    form = "diffusion"
    acting = (PREDICTOR,)
    name = "the noise predictor"

    def _sampled(self, observations: Floats, noise: Floats, omega: Floats) -> Floats:
        betas, (predictor,) = self._guidance.betas, self._networks
        x, *added = np.split(noise, len(betas), axis=1)
        for step in range(len(betas), 0, -1):
            beta, kept = betas[step - 1], math.prod(1.0 - beta for beta in betas[:step])
            inputs = {
                "observation": observations,
                "action_t": np.ascontiguousarray(x),
                "step": np.full((len(x), 1), step, np.float32),
            }
            (predicted,) = predictor.run(["noise"], inputs, self._options)
            x = (x - np.float32(beta / math.sqrt(1.0 - kept)) * predicted) / np.float32(math.sqrt(1.0 - beta))
            if step > 1:
                x = x + np.float32(math.sqrt(beta)) * added[len(betas) - step]
            x = np.clip(x, -1, 1)
        return x


def network_by_network(
    bundle: Bundle, threads: int = 1, options: onnxruntime.RunOptions | None = None
) -> NetworkByNetwork:
    """The policy of a checked bundle that has candidates; arguments as for :class:`NetworkByNetwork`."""
    kind = TwoNetworkPolicy if bundle.manifest.policy == "pair" else DiffusionSteps
    return kind(bundle, threads, options)


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
