"""What the networks see: parts of an observation, and from them to the features that graphs begin with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from torch import Tensor, nn

from dipole_sb3.buffers.normalization import ObservationStatistics
from dipole_sb3.common.observations import space_parts
from dipole_sb3.networks.acting_forms import ActingForm
from dipole_sb3.networks.feature_network import FeatureNetwork

LARGEST = float(np.finfo(np.float32).max)
"""Largest finite number in single precision."""

Statistics = Mapping[str | None, ObservationStatistics]

Form = TypeVar("Form", bound=ActingForm, covariant=True)


@dataclass(frozen=True)
class Source(Generic[Form]):
    """What a bundle is made from: copies on the CPU in evaluation mode, which training does not change.

    :param form: the acting networks.
    :param statistics: VecNormalize's statistics, by key; empty: observations are not normalised.
    :param low: smallest actions in the actuators' units, shape [action], float32.
    :param high: largest actions, likewise.
    :param is_encoded: the graphs' observations are features, which a graph of their own makes; see :mod:`pictures`.
    """

    form: Form
    statistics: Statistics
    low: np.ndarray
    high: np.ndarray
    is_encoded: bool = False

    def extractors(self) -> list[FeatureNetwork[Any]]:
        """The networks whose features an encoder makes, in their order: actor and critics, or one if they share it."""
        actor, critic = self.form.actor, self.form.critic
        return [actor] if actor.features_extractor is critic.features_extractor else [actor, critic]

    @property
    def seen_size(self) -> int:
        """Numbers that the graphs take as their observation."""
        if self.is_encoded:
            return sum(network.features_extractor.features_dim for network in self.extractors())
        return sum(map(flat_size, flat_order(self.form.actor.observation_space).values()))

    def observation(self, network: FeatureNetwork[Any]) -> nn.Module:
        """From what the graphs take to the features of one of the acting networks."""
        if not self.is_encoded:
            return Observation(network, self.statistics)
        before = 0
        for one in self.extractors():
            width = one.features_extractor.features_dim
            if one.features_extractor is network.features_extractor:
                return Columns(before, width)
            before += width
        raise LookupError("the network is none of the acting ones")


class Columns(nn.Module):
    """Some columns of a matrix."""

    def __init__(self, start: int, count: int) -> None:
        super().__init__()
        self.start, self.count = start, count

    def forward(self, x: Tensor) -> Tensor:
        """[batch, all] → [batch, count]."""
        return x.narrow(1, self.start, self.count)


class Observation(nn.Module):
    """Flat observations in the robot's units → the features of one network.

    :param network: provides the features extractor and SB3's preprocessing for its observation space.
    :param statistics: VecNormalize's statistics, by key; empty: observations are not normalised.
    """

    def __init__(self, network: FeatureNetwork[Any], statistics: Statistics) -> None:
        super().__init__()
        self.network = network
        self.spaces = flat_order(network.observation_space)
        self.is_dict = isinstance(network.observation_space, spaces.Dict)
        self.clips: dict[str | None, float] = {}
        for index, key in enumerate(self.spaces):
            if key in statistics:
                mean = np.asarray(statistics[key].mean, np.float64)
                # Two floats, because one is not precise enough: far from 0 (e.g. positions on a map), the rounding of
                # the mean would be many standard deviations.
                high = mean.astype(np.float32)
                self.register_buffer(f"mean_{index}", torch.as_tensor(high))
                self.register_buffer(f"rest_{index}", torch.as_tensor((mean - high).astype(np.float32)))
                self.register_buffer(f"std_{index}", torch.as_tensor(statistics[key].std.astype(np.float32)))
                # A limit beyond single precision has no effect, and bundles may contain finite numbers only.
                self.clips[key] = min(statistics[key].clip, LARGEST)

    def forward(self, observation: Tensor) -> Tensor:
        """[batch, observation] → [batch, features]."""
        return self.features(observation, {})

    def features(self, observation: Tensor | None, pictures: Mapping[str | None, Tensor]) -> Tensor:
        """[batch, features].

        :param observation: everything but pictures, [batch, observation]; None: there are only pictures.
        :param pictures: by key, [batch, *picture].
        """
        parts = {**pictures, **({} if observation is None else self.parts(observation))}
        ordered = {key: parts[key] for key in space_parts(self.network.observation_space)}
        return self.network.features(ordered if self.is_dict else ordered[None])  # type: ignore[arg-type]

    def parts(self, observation: Tensor) -> dict[str | None, Tensor]:
        """Each in its space's shape and normalised, by key: [batch, *part]."""
        sizes = [flat_size(space) for space in self.spaces.values()]
        flat = torch.split(observation, sizes, dim=1) if len(sizes) > 1 else (observation,)
        parts = {}
        for index, (key, space) in enumerate(self.spaces.items()):
            value = flat[index].reshape(-1, *(space.shape or ()))
            if key in self.clips:
                value = value - self.get_buffer(f"mean_{index}") - self.get_buffer(f"rest_{index}")
                value = (value / self.get_buffer(f"std_{index}")).clamp(-self.clips[key], self.clips[key])
            parts[key] = value
        return parts


def flat_order(space: spaces.Space[Any]) -> dict[str | None, spaces.Space[Any]]:
    """Those that are no pictures, in the order of the flat vector."""
    return {key: part for key, part in space_parts(space).items() if not is_image_space(part)}


def picture_order(space: spaces.Space[Any]) -> dict[str | None, spaces.Box]:
    """Those that are: uint8 with three axes."""
    parts = space_parts(space).items()
    return {key: part for key, part in parts if isinstance(part, spaces.Box) and is_image_space(part)}


def flat_size(space: spaces.Space[Any]) -> int:
    """Number of elements in one part of an observation."""
    return int(np.prod(space.shape or ()))
