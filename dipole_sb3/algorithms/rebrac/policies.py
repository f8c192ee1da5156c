"""ReBRAC's policy: a deterministic actor and critics, both with targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from dipole_sb3.common.checks import require_whole_number
from dipole_sb3.learning.offline_policy import Arch, Features, OfflinePolicy
from dipole_sb3.networks.acting_forms import Deterministic
from dipole_sb3.networks.feature_network import FeatureNetwork
from dipole_sb3.networks.heads import DeterministicActor

OUTPUT_SCALE = 0.1
"""Factor on the actor's last layer at initialisation: it has a hundredth of the variance of other layers."""


class ReBRACPolicy(OfflinePolicy):
    """A deterministic actor with tanh, and critics; acts with π(s); no noise, no knobs.

    Arguments that are not listed here are those of :class:`~dipole_sb3.learning.offline_policy.OfflinePolicy`.

    :param actor_layer_norm: layer normalisation in the actor too, or in the first so many of its hidden layers (value
        networks always have it).
    :param policy_delay: ≥ 1, updates of the critics for one of the actor and the targets, as in TD3.
    """

    actor_target: FeatureNetwork[DeterministicActor]

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: Arch | None = None,
        activation_fn: str | type[nn.Module] = "gelu-tanh",
        actor_layer_norm: bool | int = False,
        policy_delay: int = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            observation_space, action_space, lr_schedule, net_arch=net_arch, activation_fn=activation_fn, **kwargs
        )
        require_whole_number("policy_delay", policy_delay, 1)
        self.actor_layer_norm = actor_layer_norm
        self.policy_delay = policy_delay

        def make_actor(width: int) -> DeterministicActor:
            return DeterministicActor(
                width,
                self.action_dim,
                self.actor_arch,
                activation_fn,
                actor_layer_norm,
                OUTPUT_SCALE,
                squashed=True,
                norm_order=self.norm_order,
            )

        self._build_actor_and_critics(make_actor)
        self.actor_target = self._target_of(self.actor, make_actor)
        self._make_optimizer(lr_schedule)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        return {**data, "actor_layer_norm": self.actor_layer_norm, "policy_delay": self.policy_delay}

    def targets(self) -> Iterable[FeatureNetwork[Any]]:
        return [self.critic_target, self.actor_target]

    def architecture(self) -> Mapping[str, Any]:
        return {"policy_delay": self.policy_delay, **super().architecture()}

    def acting_form(self) -> Deterministic:
        return Deterministic(self.actor, self.critic)

    def act(self, networks: Any, features: Features, noise: Tensor, **setting: Any) -> Tensor:
        actions: Tensor = networks.actor.head(features("actor"))
        return actions


class MultiInputPolicy(ReBRACPolicy):
    """For Dict observations: SB3's CombinedExtractor (a CNN per image, the rest concatenated); see ReBRACPolicy."""

    default_features_extractor = CombinedExtractor


class CnnPolicy(ReBRACPolicy):
    """For image observations: SB3's NatureCNN; see ReBRACPolicy."""

    default_features_extractor = NatureCNN


MlpPolicy = ReBRACPolicy
