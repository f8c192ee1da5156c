"""How trained models act on raw observations: one by its ``predict``, several of one architecture in one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dipole_sb3.buffers.normalization import ObservationStatistics, normalized
from dipole_sb3.common.random_state import TorchSequence
from dipole_sb3.learning.offline_policy import OfflinePolicy
from dipole_sb3.networks.feature_network import FeatureNetwork
from dipole_sb3.networks.network_stack import is_stackable, stacked_head


class ActingModel(Protocol):
    """The part of a model's interface that acting needs; models of this package and snapshots of them have it."""

    @property
    def policy(self) -> OfflinePolicy: ...

    @property
    def observation_statistics(self) -> Mapping[str | None, ObservationStatistics]:
        """Statistics that normalise the observations for the networks; empty: observations are not normalised."""

    @property
    def predict(self) -> Callable[..., tuple[np.ndarray, Any]]:
        """As :meth:`OfflinePolicy.predict`."""


class ActingStack:
    """The networks that several policies act with, stacked; copies, made by :func:`stack_policies`.

    Each network is an attribute with a ``head``, whose outputs have [policies] as their first axis.
    """

    def __init__(self, policies: Sequence[OfflinePolicy]) -> None:
        self.policies = list(policies)
        for name in _acting_networks(policies[0]):
            setattr(self, name, _Stacked(stacked_head([policy.networks()[name].head for policy in policies])))

    def act(self, observations: Sequence[Any], noise: Sequence[Tensor], **setting: Any) -> list[np.ndarray]:
        """What each policy's ``predict`` gives for its own observations and noise, up to rounding, in one batched pass.

        :param observations: for each policy, as its networks expect them: shape [batch, *observation], or a dict of
            those. Batches may differ in size between policies; each costs as much as the largest.
        :param noise: for each policy, as its ``acting_noise`` draws it.
        :param setting: a value of every knob, the same for all policies.
        :return: for each policy, actions in the environment's units, shape [batch, *action].
        """
        with torch.no_grad():
            tensors = [policy.obs_to_tensor(own)[0] for policy, own in zip(self.policies, observations, strict=True)]

            def features(name: str) -> Tensor:
                """Padded to the largest batch: [policies, batch, features]."""
                return pad_sequence(
                    [getattr(policy, name).features(own) for policy, own in zip(self.policies, tensors, strict=True)],
                    batch_first=True,
                )

            scaled = self.policies[0].act(self, features, pad_sequence(list(noise), batch_first=True), **setting)
        return [
            policy.in_units(rows[: rows_of(own)])
            for policy, rows, own in zip(self.policies, scaled.cpu().numpy(), observations, strict=True)
        ]


class _Stacked:
    def __init__(self, head: Any) -> None:
        self.head = head


def stack_policies(policies: Sequence[OfflinePolicy]) -> ActingStack | None:
    """Stacks the policies' current parameters; None if their architectures differ.

    Features extractors may differ in everything but the number of features: each policy keeps its own.

    :param policies: at least one.
    """
    if len({_architecture(policy) for policy in policies}) > 1 or _architecture(policies[0]) is None:
        return None
    for policy in policies:
        policy.set_training_mode(False)
    return ActingStack(policies)


class Acting:
    """Acts for several models at once, each with its own observations and noise.

    :param models: their parameters must not change during acting.
    :param setting: a value of every knob, the same for all models.
    :param deterministic: the noise is fixed instead of drawn.
    """

    def __init__(self, models: Sequence[ActingModel], setting: Mapping[str, Any], deterministic: bool) -> None:
        self._models, self._setting = models, dict(setting)
        self._deterministic = deterministic
        self._stack = stack_policies([model.policy for model in models]) if len(models) > 1 else None

    def __call__(self, observations: Sequence[Any], sequences: Sequence[TorchSequence]) -> list[np.ndarray]:
        """Actions of every model, in the environment's units.

        :param observations: for each model: raw, shape [batch, *observation], or a dict of those.
        :param sequences: the random sequence from which each model draws its noise.
        """
        seen = [normalized_observations(*pair) for pair in zip(self._models, observations, strict=True)]
        if self._stack is None:
            return [self._alone(*own) for own in zip(self._models, seen, sequences, strict=True)]
        noise = []
        for policy, own, sequence in zip(self._stack.policies, seen, sequences, strict=True):
            with sequence.drawing():
                noise.append(policy.acting_noise(rows_of(own), self._deterministic, **self._setting))
        return self._stack.act(seen, noise, **self._setting)

    def _alone(self, model: ActingModel, observations: Any, sequence: TorchSequence) -> np.ndarray:
        with sequence.drawing():
            actions, _ = model.predict(observations, deterministic=self._deterministic, **self._setting)
        return actions


def normalized_observations(model: ActingModel, observations: Any) -> Any:
    """Observations as the model's networks expect them.

    :param observations: raw, shape [batch, *observation], or a dict of those.
    :return: normalised by the statistics of the model's VecNormalize, or by those saved with the model; unchanged if it
        was trained without normalisation.
    :raises ValueError: the model was trained on normalised observations, but the statistics are missing.
    """
    return normalized(observations, model.observation_statistics)


def stack_observations(observations: Sequence[Any]) -> Any:
    """Single observations (arrays, or dicts of arrays) as one batch."""
    if isinstance(observations[0], dict):
        return {key: np.stack([each[key] for each in observations]) for key in observations[0]}
    return np.stack(observations)


def rows_of(observations: Any) -> int:
    """Number of observations in a batch."""
    return len(next(iter(observations.values())) if isinstance(observations, dict) else observations)


def _architecture(policy: OfflinePolicy) -> tuple[Any, ...] | None:
    """Equal for policies whose networks fit into one stack; None if a head or the policy's class rules that out."""
    heads = {name: network.head for name, network in _acting_networks(policy).items()}
    if not _acts_by_its_networks(type(policy)) or not all(map(is_stackable, heads.values())):
        return None
    shapes = tuple(
        (name, part, tensor.shape, tensor.dtype)
        for name, head in heads.items()
        for part, tensor in head.state_dict().items()
    )
    return _acting_class(type(policy)), shapes, tuple(policy.architecture().items())


def _acting_networks(policy: OfflinePolicy) -> dict[str, FeatureNetwork[Any]]:
    """The networks that a policy acts with; not targets and values."""
    acting = {id(part) for part in vars(policy.acting_form()).values()}
    return {name: network for name, network in policy.networks().items() if id(network) in acting}


def _acting_class(kind: type[OfflinePolicy]) -> type[Any]:
    """The class that defines how the policy acts; its subclasses only define how it is built."""
    return next(each for each in kind.__mro__ if "act" in vars(each))


def _acts_by_its_networks(kind: type[OfflinePolicy]) -> bool:
    """Whether the subclasses of the class that defines ``act`` define no method but constructors."""
    above = kind.__mro__[: kind.__mro__.index(_acting_class(kind))]
    methods = {name for each in above for name, value in vars(each).items() if callable(value)}
    return all(name.startswith("__") for name in methods - {"default_features_extractor"})
