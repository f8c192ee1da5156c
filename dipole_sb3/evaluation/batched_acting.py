"""How trained models act on raw observations: one by its ``predict``, several of one architecture by one product."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dipole_sb3.algorithms.dipole.policies import CnnPolicy, DIPOLEPolicy, MultiInputPolicy, sample_guided
from dipole_sb3.buffers.normalization import ObservationStatistics, normalized
from dipole_sb3.common.random_state import TorchSequence
from dipole_sb3.networks.heads import QEnsemble, VelocityPair
from dipole_sb3.networks.network_stack import is_stackable, stacked_head


class ActingModel(Protocol):
    """What acting needs of a model: a :class:`~dipole_sb3.DIPOLE`, or a snapshot of one."""

    policy: DIPOLEPolicy

    @property
    def observation_statistics(self) -> Mapping[str | None, ObservationStatistics]:
        """How its networks see observations; empty: as they are."""

    @property
    def predict(self) -> Callable[..., tuple[np.ndarray, Any]]:
        """As :meth:`DIPOLEPolicy.predict`."""


class ActingStack(NamedTuple):
    """The networks that R policies act with, as one: copies, made by :func:`stack_policies`; outputs begin with [R]."""

    policies: Sequence[DIPOLEPolicy]
    pairs: VelocityPair
    critics: QEnsemble


def stack_policies(policies: Sequence[DIPOLEPolicy]) -> ActingStack | None:
    """The policies' present parameters as one stack; None where they are not of one architecture.

    Features extractors may differ in all but the number of features: each policy keeps its own.

    :param policies: at least one.
    """
    if len({_architecture(policy) for policy in policies}) > 1 or _architecture(policies[0]) is None:
        return None
    for policy in policies:
        policy.set_training_mode(False)
    return ActingStack(
        list(policies),
        stacked_head([policy.actor.head for policy in policies]),
        stacked_head([policy.critic.head for policy in policies]),
    )


def act_together(
    stack: ActingStack,
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

        candidates = sample_guided(
            stack.pairs,
            features([policy.actor for policy in policies]),
            pad_sequence(list(noise), batch_first=True),
            omega,
            policies[0].flow_steps,
        )
        if num_candidates > 1:
            values = stack.critics(features([policy.critic for policy in policies]), candidates).amin(-2)
            # [R, batch, N], with a last axis for the action
            best = torch.unflatten(values, 1, (-1, num_candidates)).argmax(dim=2)[:, :, None, None]
            candidates = torch.unflatten(candidates, 1, (-1, num_candidates)).take_along_dim(best, dim=2).squeeze(2)
    scaled = candidates.cpu().numpy()
    return [
        policy.in_units(rows[: len(own) // num_candidates])
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
    heads = (policy.actor.head, policy.critic.head)
    if not all(map(is_stackable, heads)):
        return None
    shapes = tuple((name, tensor.shape, tensor.dtype) for head in heads for name, tensor in head.state_dict().items())
    return shapes, policy.activation_fn, policy.time_features, policy.flow_steps, policy.device


def _rows(observations: Any) -> int:
    return len(next(iter(observations.values())) if isinstance(observations, dict) else observations)
