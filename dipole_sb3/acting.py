"""How trained models act on raw observations: one by its ``predict``, several of one architecture by one product."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from dipole_sb3 import flow
from dipole_sb3.generators import TorchSequence
from dipole_sb3.networks import (
    StackedLayerNorm,
    StackedLinear,
    StackedMLP,
    time_embedding,
)
from dipole_sb3.normalization import ObservationStatistics, normalized
from dipole_sb3.policies import CnnPolicy, DIPOLEPolicy, MultiInputPolicy


class ActingModel(Protocol):
    """What acting needs of a model: a :class:`~dipole_sb3.DIPOLE`, or a snapshot of one."""

    policy: DIPOLEPolicy

    @property
    def observation_statistics(self) -> Mapping[str | None, ObservationStatistics]:
        """How its networks see observations; empty: as they are."""

    @property
    def predict(self) -> Callable[..., tuple[np.ndarray, Any]]:
        """As :meth:`DIPOLEPolicy.predict`."""


class PolicyStack(NamedTuple):
    """The networks that R policies act with, as one; see :func:`stack_policies`.

    ========  ==============================================
    policies  R, from whose parameters the stacks were copied
    pairs     members: v⁺ of every policy, then v⁻ of every one
    critics   members: Q₁ of every policy, then Q₂ of every one
    ========  ==============================================
    """

    policies: Sequence[DIPOLEPolicy]
    pairs: StackedMLP
    critics: StackedMLP


def stack_policies(policies: Sequence[DIPOLEPolicy]) -> PolicyStack | None:
    """The policies' present parameters as one stack; None where they are not of one architecture.

    Features extractors may differ in all but the number of features: each policy keeps its own.

    :param policies: at least one.
    """
    if len({_architecture(policy) for policy in policies}) > 1 or _architecture(policies[0]) is None:
        return None
    for policy in policies:
        policy.set_training_mode(False)
    pairs = _joined([policy.actor.head.mlp for policy in policies])
    return PolicyStack(list(policies), pairs, _joined([policy.critic.head.mlp for policy in policies]))


def act_together(
    stack: PolicyStack,
    observations: Sequence[Any],
    noise: Sequence[Tensor],
    omega: float,
    num_candidates: int,
) -> list[np.ndarray]:
    """What each policy's ``predict`` gives for its own observations and noise, within rounding, by one product.

    :param observations: of each policy, as its networks see them: shape [batch, *observation], or a dict of those.
        Policies may have batches of different sizes; each costs as much as the largest.
    :param noise: x₀ of each policy, shape [batch · N, action].
    :param omega: ω ≥ −1, of all of them.
    :param num_candidates: N ≥ 1, of all of them.
    :return: of each policy: actions in the environment's units, shape [batch, *action].
    """
    policies = stack.policies
    with torch.no_grad():
        tensors = [policy.obs_to_tensor(each)[0] for policy, each in zip(policies, observations, strict=True)]

        def features(networks: list[Any]) -> Tensor:
            """Of every candidate, filled up to the largest batch: [R, batch · N, features]."""
            each = [network.features(of_one) for network, of_one in zip(networks, tensors, strict=True)]
            return pad_sequence([one.repeat_interleave(num_candidates, dim=0) for one in each], batch_first=True)

        candidates = flow.sample_actions(
            _velocity(stack, features([policy.actor for policy in policies]), omega),
            pad_sequence(list(noise), batch_first=True),
            policies[0].flow_steps,
        )
        if num_candidates > 1:
            inputs = torch.cat([features([policy.critic for policy in policies]), candidates], dim=-1)
            values = torch.minimum(*stack.critics(inputs.repeat(2, 1, 1)).chunk(2))
            # [R, batch, N, …]
            best = torch.unflatten(values, 1, (-1, num_candidates)).argmax(dim=2, keepdim=True)
            candidates = torch.unflatten(candidates, 1, (-1, num_candidates)).take_along_dim(best, dim=2).squeeze(2)
    scaled = candidates.cpu().numpy()
    return [
        _in_units_of(policy.action_space, policy, rows[: len(own) // num_candidates])
        for policy, rows, own in zip(policies, scaled, noise, strict=True)
    ]


class Acting:
    """Acts for several models at once, each on observations and from noise of its own.

    :param models: whose parameters do not change meanwhile.
    :param omega: ω of all of them.
    :param num_candidates: N of all of them.
    :param deterministic: their noise is fixed instead of drawn.
    """

    def __init__(self, models: Sequence[ActingModel], omega: float, num_candidates: int, deterministic: bool) -> None:
        self._models, self._omega, self._num_candidates = models, omega, num_candidates
        self._deterministic = deterministic
        self._stack = stack_policies([model.policy for model in models]) if len(models) > 1 else None

    def __call__(self, observations: Sequence[Any], sequences: Sequence[TorchSequence]) -> list[np.ndarray]:
        """Actions of every model, in the environment's units.

        :param observations: of each model: raw, shape [batch, *observation], or a dict of those.
        :param sequences: from which each model draws its noise.
        """
        seen = [normalized_observations(*pair) for pair in zip(self._models, observations, strict=True)]
        if self._stack is None:
            return [self._alone(*own) for own in zip(self._models, seen, sequences, strict=True)]
        noise = []
        for policy, own, sequence in zip(self._stack.policies, seen, sequences, strict=True):
            with sequence.drawing():
                noise.append(policy._noise(_rows(own), self._num_candidates, self._deterministic))
        return act_together(self._stack, seen, noise, self._omega, self._num_candidates)

    def _alone(self, model: ActingModel, observations: Any, sequence: TorchSequence) -> np.ndarray:
        with sequence.drawing():
            actions, _ = model.predict(
                observations,
                deterministic=self._deterministic,
                omega=self._omega,
                num_candidates=self._num_candidates,
            )
        return actions


def normalized_observations(model: ActingModel, observations: Any) -> Any:
    """Observations as the model's networks expect them.

    :param observations: raw, shape [batch, *observation], or a dict of those.
    :return: normalised by the statistics of the model's VecNormalize, or by those that were saved with it; unchanged
        where it has learned without.
    :raises ValueError: it has learned from normalised observations, and no statistics are there.
    """
    return normalized(observations, model.observation_statistics)


def stack_observations(observations: Sequence[Any]) -> Any:
    """Single observations (arrays, or dicts of arrays) as one batch."""
    if isinstance(observations[0], dict):
        return {key: np.stack([each[key] for each in observations]) for key in observations[0]}
    return np.stack(observations)


def _architecture(policy: DIPOLEPolicy) -> tuple[Any, ...] | None:
    """Equal for policies whose networks fit into one stack; None for one that has none or acts in a way of its own."""
    if type(policy) not in (DIPOLEPolicy, CnnPolicy, MultiInputPolicy):
        return None
    actor, critic = policy.actor.head, policy.critic.head
    activations = (actor.mlp.activation, critic.mlp.activation)
    if any(isinstance(each, nn.Module) and [*each.parameters(), *each.buffers()] for each in activations):
        return None
    shapes = tuple(
        (name, tensor.shape, tensor.dtype) for head in (actor, critic) for name, tensor in head.state_dict().items()
    )
    return shapes, policy.activation_fn, policy.time_features, policy.flow_steps, policy.device


def _joined(perceptrons: Sequence[StackedMLP]) -> StackedMLP:
    """One stack of several: the first member of each, then the second of each, and so on."""
    joined = copy.deepcopy(perceptrons[0])
    for name, layer in joined.named_modules():
        if isinstance(layer, StackedLinear | StackedLayerNorm):
            for own in ("weight", "bias"):
                parts = [getattr(each.get_submodule(name), own).detach() for each in perceptrons]
                setattr(layer, own, nn.Parameter(torch.stack(parts, dim=1).flatten(0, 1), requires_grad=False))
    return joined


def _velocity(stack: PolicyStack, features: Tensor, omega: float) -> flow.Velocity:
    """The guided velocities of all policies at fixed features; only the networks that ω needs are evaluated.

    :param features: [R, rows, features].
    :return: (x, t) → v, of shapes [R, rows, action] and a scalar.
    """
    runs = len(stack.policies)
    members = {0.0: slice(0, runs), -1.0: slice(runs, 2 * runs)}.get(omega)
    copies = 2 if members is None else 1
    perceptrons = stack.pairs.with_fixed(features.repeat(copies, 1, 1), members)
    time_features = stack.policies[0].time_features

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        embedded = time_embedding(time.reshape(1), time_features)
        velocities = perceptrons(torch.cat([x, embedded.expand(*x.shape[:-1], -1)], dim=-1).repeat(copies, 1, 1))
        if copies == 1:
            return velocities
        positive, negative = velocities.chunk(2)
        return flow.guide(positive, negative, omega)

    return velocity


def _in_units_of(space: spaces.Space[Any], policy: DIPOLEPolicy, scaled: np.ndarray) -> np.ndarray:
    """Actions in [−1, 1] as :meth:`DIPOLEPolicy.predict` returns them."""
    assert isinstance(space, spaces.Box)
    actions = policy.unscale_action(scaled.reshape(-1, *space.shape))
    return np.clip(actions, space.low, space.high)  # type: ignore[no-any-return]


def _rows(observations: Any) -> int:
    return len(next(iter(observations.values())) if isinstance(observations, dict) else observations)
