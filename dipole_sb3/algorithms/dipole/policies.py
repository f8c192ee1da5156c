"""DIPOLE's policy: the velocity pair, critics with targets, the state value, and how they act."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor

from dipole_sb3.learning.candidates import best_candidates, candidate_noise
from dipole_sb3.learning.knobs import NUM_CANDIDATES, Knob, one_per_row
from dipole_sb3.learning.offline_policy import Arch, Features
from dipole_sb3.learning.velocity_policy import VelocityPolicy
from dipole_sb3.networks.acting_forms import GuidedPair
from dipole_sb3.networks.feature_network import FeatureNetwork
from dipole_sb3.networks.heads import StateValue
from dipole_sb3.networks.velocities import VelocityPair, sample_guided

OMEGA = Knob(
    "omega",
    "ω",
    "greediness ω",
    least=-1,
    option="omegas",
    swept=(-1.0, 0.0, 0.5, 1.0, 2.0, 4.0),
    names=((-1.0, "π⁻ alone"), (0.0, "π⁺ alone")),
    hint="-1: negative policy, 0: positive policy",
)


class DIPOLEPolicy(VelocityPolicy):
    """The velocity pair, critics and value; acts with the best of N guided candidates by min Q (eq. 16).

    Arguments that are not listed here are those of :class:`~dipole_sb3.learning.velocity_policy.VelocityPolicy`.

    :param omega: default greediness, ω ≥ −1.
    :param num_candidates: default number of candidates, N ≥ 1.
    """

    knobs: ClassVar[tuple[Knob, ...]] = (OMEGA, NUM_CANDIDATES)
    default_arch: ClassVar[Arch] = [512, 512, 512]
    value: FeatureNetwork[StateValue]

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        omega: float = 0.5,
        num_candidates: int = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)
        self.omega = OMEGA.checked(omega)
        self.num_candidates = NUM_CANDIDATES.checked(num_candidates)
        self._build_actor_and_critics(lambda width: VelocityPair(**self.velocity_arguments(width)))
        self.value = self._state_value()
        self._make_optimizer(lr_schedule)

    def acting_form(self) -> GuidedPair:
        return GuidedPair(self.actor, self.critic, self.flow_steps)

    def sample_actions(self, features: Tensor, noise: Tensor, omega: float | Tensor) -> Tensor:
        """Actions of the guided pair from given noise; see :func:`sample_guided`."""
        return sample_guided(self.actor.head, features, noise, omega, self.flow_steps)

    def acting_noise(self, batch: int, deterministic: bool, **setting: Any) -> Tensor:
        """x₀ of shape [batch · N, action]; fixed noise is the same for every observation, the first of the N zero."""
        return candidate_noise(self, batch, setting["num_candidates"], deterministic)

    def act(self, networks: Any, features: Features, noise: Tensor, **setting: Any) -> Tensor:
        omega, count = setting["omega"], setting["num_candidates"]
        of_actor = features("actor")
        if isinstance(omega, Tensor):
            omega = one_per_row("omega", omega, of_actor).repeat_interleave(count, dim=0)
        repeated = of_actor.repeat_interleave(count, dim=-2)
        candidates = sample_guided(networks.actor.head, repeated, noise, omega, self.flow_steps)
        return best_candidates(networks.critic, features("critic"), candidates, count)

    def _predict_by_actor(self, *arguments: Any, **named: Any) -> tuple[np.ndarray, Any]:
        return self.predict(*arguments, **{"num_candidates": 1, **named})


class MultiInputPolicy(DIPOLEPolicy):
    """For Dict observations: SB3's CombinedExtractor (a CNN per image, the rest concatenated); see DIPOLEPolicy."""

    default_features_extractor = CombinedExtractor


class CnnPolicy(DIPOLEPolicy):
    """For image observations: SB3's NatureCNN; see DIPOLEPolicy."""

    default_features_extractor = NatureCNN


MlpPolicy = DIPOLEPolicy
