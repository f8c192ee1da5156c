"""IQL's policy: a deterministic actor, critics with targets and the state value."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from dipole_sb3.learning.offline_policy import Arch, Features, OfflinePolicy
from dipole_sb3.networks.acting_forms import Deterministic
from dipole_sb3.networks.feature_network import FeatureNetwork
from dipole_sb3.networks.heads import DeterministicActor, StateValue

OUTPUT_SCALE = 0.1
"""Factor on the actor's last layer at initialisation: it has a hundredth of the variance of other layers."""


class IQLPolicy(OfflinePolicy):
    """A deterministic actor, critics and value; acts with π(s), clipped to [−1, 1]; no noise, no knobs.

    Arguments that are not listed here are those of :class:`~dipole_sb3.learning.offline_policy.OfflinePolicy`.

    :param actor_layer_norm: layer normalisation in the actor too, or in the first so many of its hidden layers (value
        networks always have it).
    """

    value: FeatureNetwork[StateValue]

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: Arch | None = None,
        activation_fn: str | type[nn.Module] = "gelu-tanh",
        actor_layer_norm: bool | int = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            observation_space, action_space, lr_schedule, net_arch=net_arch, activation_fn=activation_fn, **kwargs
        )
        self.actor_layer_norm = actor_layer_norm
        self._build_actor_and_critics(
            lambda width: DeterministicActor(
                width,
                self.action_dim,
                self.actor_arch,
                activation_fn,
                actor_layer_norm,
                OUTPUT_SCALE,
                norm_order=self.norm_order,
            )
        )
        self.value = self._state_value()
        self._make_optimizer(lr_schedule)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "actor_layer_norm": self.actor_layer_norm}

    def acting_form(self) -> Deterministic:
        return Deterministic(self.actor, self.critic)

    def act(self, networks: Any, features: Features, noise: Tensor, **setting: Any) -> Tensor:
        actions: Tensor = networks.actor.head(features("actor")).clamp(-1.0, 1.0)
        return actions


class MultiInputPolicy(IQLPolicy):
    """For Dict observations: SB3's CombinedExtractor (a CNN per image, the rest concatenated); see IQLPolicy."""

    default_features_extractor = CombinedExtractor


class CnnPolicy(IQLPolicy):
    """For image observations: SB3's NatureCNN; see IQLPolicy."""

    default_features_extractor = NatureCNN


MlpPolicy = IQLPolicy
