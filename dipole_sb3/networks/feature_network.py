"""A features extractor and what reads its features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn

Head = TypeVar("Head", bound=nn.Module)


class FeatureNetwork(nn.Module, Generic[Head]):
    """A features extractor and the head that reads its features.

    Kept apart, because acting extracts the features once and then calls the head for every flow step and candidate.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        features_extractor: BaseFeaturesExtractor,
        head: Head,
        normalize_images: bool,
    ) -> None:
        super().__init__()
        self.observation_space = observation_space
        self.normalize_images = normalize_images
        self.features_extractor = features_extractor
        self.head = head

    def features(self, observations: PyTorchObs) -> Tensor:
        """Observations [batch, *observation] (or a dict of those) → features [batch, features]."""
        prepared = preprocess_obs(observations, self.observation_space, self.normalize_images)
        return self.features_extractor(prepared)  # type: ignore[no-any-return]


class Actor(FeatureNetwork[Head]):
    """The network that gives actions.

    :ivar predict: SB3's ``predict`` with this network alone; set by the policy.
    """

    predict: Callable[..., tuple[np.ndarray, Any]]
