"""How trained models act on raw observations: one by its ``predict``, several of one architecture by one product."""

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
    """What acting needs of a model: one of this package's, or a snapshot of one."""

    @property
    def policy(self) -> OfflinePolicy: ...

    @property
    def observation_statistics(self) -> Mapping[str | None, ObservationStatistics]:
        """How its networks see observations; empty: as they are."""

    @property
    def predict(self) -> Callable[..., tuple[np.ndarray, Any]]:
        """As :meth:`OfflinePolicy.predict`."""


class ActingStack:
    """The networks that several policies act with, as one: copies, made by :func:`stack_policies`.

    Each network is an attribute with a ``head``, whose outputs begin with [policies].
    """

    def __init__(self, policies: Sequence[OfflinePolicy]) -> None:
        self.policies = list(policies)
        for name in _acting_networks(policies[0]):
            setattr(self, name, _Stacked(stacked_head([policy.networks()[name].head for policy in policies])))

    def act(self, observations: Sequence[Any], noise: Sequence[Tensor], **setting: Any) -> list[np.ndarray]:
        """What each policy's ``predict`` gives for its own observations and noise, within rounding, by one product.

        :param observations: of each policy, as its networks see them: shape [batch, *observation], or a dict of those.
            Policies may have batches of different sizes; each costs as much as the largest.
        :param noise: of each policy, as its ``acting_noise`` draws it.
        :param setting: a value of every knob, for all of them.
        :return: of each policy: actions in the environment's units, shape [batch, *action].
        """
        with torch.no_grad():
            tensors = [policy.obs_to_tensor(own)[0] for policy, own in zip(self.policies, observations, strict=True)]

            def features(name: str) -> Tensor:
                """Filled up to the largest batch: [policies, batch, features]."""
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
    """The policies' present parameters as one stack; None where they are not of one architecture.

    Features extractors may differ in all but the number of features: each policy keeps its own.

    :param policies: at least one.
    """
    if len({_architecture(policy) for policy in policies}) > 1 or _architecture(policies[0]) is None:
        return None
    for policy in policies:
        policy.set_training_mode(False)
    return ActingStack(policies)


class Acting:
    """Acts for several models at once, each on observations and from noise of its own.

    :param models: whose parameters do not change meanwhile.
    :param setting: a value of every knob, for all of them.
    :param deterministic: their noise is fixed instead of drawn.
    """

    def __init__(self, models: Sequence[ActingModel], setting: Mapping[str, Any], deterministic: bool) -> None:
        self._models, self._setting = models, dict(setting)
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
                noise.append(policy.acting_noise(rows_of(own), self._deterministic, **self._setting))
        return self._stack.act(seen, noise, **self._setting)

    def _alone(self, model: ActingModel, observations: Any, sequence: TorchSequence) -> np.ndarray:
        with sequence.drawing():
            actions, _ = model.predict(observations, deterministic=self._deterministic, **self._setting)
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


def rows_of(observations: Any) -> int:
    """Observations in a batch."""
    return len(next(iter(observations.values())) if isinstance(observations, dict) else observations)


def _architecture(policy: OfflinePolicy) -> tuple[Any, ...] | None:
    """Equal for policies whose networks fit into one stack; None for one that has none or acts in a way of its own."""
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
    """Those of a policy's networks that act; targets and values do not."""
    acting = {id(part) for part in vars(policy.acting_form()).values()}
    return {name: network for name, network in policy.networks().items() if id(network) in acting}


def _acting_class(kind: type[OfflinePolicy]) -> type[Any]:
    """The class that says how the policy acts; those above it only say how it is built."""
    return next(each for each in kind.__mro__ if "act" in vars(each))


def _acts_by_its_networks(kind: type[OfflinePolicy]) -> bool:
    """Whether the classes above the one that says how it acts define no method but constructors."""
    above = kind.__mro__[: kind.__mro__.index(_acting_class(kind))]
    methods = {name for each in above for name, value in vars(each).items() if callable(value)}
    return all(name.startswith("__") for name in methods - {"default_features_extractor"})
