"""CFGRL's policy: one velocity field of two classes, critics with targets, the state value, and how they act."""

from __future__ import annotations

from typing import Any, ClassVar

from gymnasium import spaces
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor

from dipole_sb3.learning.candidates import candidate_noise
from dipole_sb3.learning.knobs import Knob, one_per_row
from dipole_sb3.learning.offline_policy import Features
from dipole_sb3.learning.velocity_policy import VelocityPolicy
from dipole_sb3.networks.acting_forms import GuidedConditional
from dipole_sb3.networks.feature_network import FeatureNetwork
from dipole_sb3.networks.heads import StateValue
from dipole_sb3.networks.velocities import ConditionalVelocity, sample_guided

GUIDANCE = Knob(
    "guidance",
    "w",
    "guidance weight w",
    least=0,
    option="guidances",
    swept=(0.0, 1.0, 1.25, 1.5, 2.0, 3.0),
    names=((0.0, "all data"), (1.0, "better than expected")),
    hint="0: a clone of all data, 1: of what was better than expected",
)


class CFGRLPolicy(VelocityPolicy):
    """One velocity field of two classes, critics and value; acts with one sample of the guided field.

    Arguments that are not listed here are those of :class:`~dipole_sb3.learning.velocity_policy.VelocityPolicy`.

    :param guidance: default guidance weight, w ≥ 0.
    """

    knobs: ClassVar[tuple[Knob, ...]] = (GUIDANCE,)
    value: FeatureNetwork[StateValue]

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        guidance: float = 1.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)
        self.guidance = GUIDANCE.checked(guidance)
        self._build_actor_and_critics(lambda width: ConditionalVelocity(**self.velocity_arguments(width)))
        self.value = self._state_value()
        self._make_optimizer(lr_schedule)

    def acting_form(self) -> GuidedConditional:
        return GuidedConditional(self.actor, self.critic, self.flow_steps)

    def acting_noise(self, batch: int, deterministic: bool, **setting: Any) -> Tensor:
        """x₀ of shape [batch, action]; zero if deterministic."""
        return candidate_noise(self, batch, 1, deterministic)

    def act(self, networks: Any, features: Features, noise: Tensor, **setting: Any) -> Tensor:
        guidance, of_actor = setting["guidance"], features("actor")
        if isinstance(guidance, Tensor):
            guidance = one_per_row("guidance", guidance, of_actor)
        # v₀ + w·(v₁ − v₀) = (1 + ω)·v₁ − ω·v₀ with ω = w − 1.
        return sample_guided(networks.actor.head, of_actor, noise, guidance - 1.0, self.flow_steps)


class MultiInputPolicy(CFGRLPolicy):
    """For Dict observations: SB3's CombinedExtractor (a CNN per image, the rest concatenated); see CFGRLPolicy."""

    default_features_extractor = CombinedExtractor


class CnnPolicy(CFGRLPolicy):
    """For image observations: SB3's NatureCNN; see CFGRLPolicy."""

    default_features_extractor = NatureCNN


MlpPolicy = CFGRLPolicy
