"""FQL's policy: a one-step actor, the flow that it is distilled from, and critics with targets."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor

from dipole_sb3.learning.candidates import candidate_noise
from dipole_sb3.learning.offline_policy import Features
from dipole_sb3.learning.velocity_policy import VelocityPolicy
from dipole_sb3.networks.acting_forms import OneStep
from dipole_sb3.networks.feature_network import FeatureNetwork
from dipole_sb3.networks.heads import OneStepActor
from dipole_sb3.networks.velocities import VelocityField


class FQLPolicy(VelocityPolicy):
    """A one-step actor, a flow and critics; acts with μ(s, z), clipped to [−1, 1]; no knobs.

    Arguments are those of :class:`~dipole_sb3.learning.velocity_policy.VelocityPolicy`; those of the actor are for both
    networks, those of time for the flow.
    """

    flow: FeatureNetwork[VelocityField]

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        **kwargs: Any,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)
        self._build_actor_and_critics(
            lambda width: OneStepActor(
                width,
                self.action_dim,
                self.actor_arch,
                self.activation_fn,
                self.actor_layer_norm,
                self.norm_order,
                self.actor_output_init,
            )
        )
        self.flow = self._network(lambda width: VelocityField(**self.velocity_arguments(width)))
        self._make_optimizer(lr_schedule)

    def acting_form(self) -> OneStep:
        return OneStep(self.actor, self.critic)

    def acting_noise(self, batch: int, deterministic: bool, **setting: Any) -> Tensor:
        """z of shape [batch, action]; zero if deterministic."""
        return candidate_noise(self, batch, 1, deterministic)

    def act(self, networks: Any, features: Features, noise: Tensor, **setting: Any) -> Tensor:
        actions: Tensor = networks.actor.head(features("actor"), noise).clamp(-1.0, 1.0)
        return actions


class MultiInputPolicy(FQLPolicy):
    """For Dict observations: SB3's CombinedExtractor (a CNN per image, the rest concatenated); see FQLPolicy."""

    default_features_extractor = CombinedExtractor


class CnnPolicy(FQLPolicy):
    """For image observations: SB3's NatureCNN; see FQLPolicy."""

    default_features_extractor = NatureCNN


MlpPolicy = FQLPolicy
