"""The policy of algorithms with one flow, whose best of N samples acts."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor

from dipole_sb3.learning.candidates import best_candidates, candidate_noise
from dipole_sb3.learning.knobs import NUM_CANDIDATES, Knob
from dipole_sb3.learning.offline_policy import Features
from dipole_sb3.learning.velocity_policy import VelocityPolicy
from dipole_sb3.networks import flow
from dipole_sb3.networks.acting_forms import Flow
from dipole_sb3.networks.feature_network import FeatureNetwork
from dipole_sb3.networks.heads import StateValue
from dipole_sb3.networks.velocities import VelocityField


class FlowPolicy(VelocityPolicy):
    """One velocity field, critics and value; acts with the best of N samples by min Q.

    Arguments that are not listed here are those of :class:`~dipole_sb3.learning.velocity_policy.VelocityPolicy`.

    :param num_candidates: default number of candidates, N ≥ 1.
    """

    knobs: ClassVar[tuple[Knob, ...]] = (NUM_CANDIDATES,)
    value: FeatureNetwork[StateValue]

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        num_candidates: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)
        self.num_candidates = NUM_CANDIDATES.checked(num_candidates)
        self._build_actor_and_critics(lambda width: VelocityField(**self.velocity_arguments(width)))
        self.value = self._state_value()
        self._make_optimizer(lr_schedule)

    def acting_form(self) -> Flow:
        return Flow(self.actor, self.critic, self.flow_steps)

    def acting_noise(self, batch: int, deterministic: bool, **setting: Any) -> Tensor:
        """x₀ of shape [batch · N, action]; see :func:`~dipole_sb3.learning.candidates.candidate_noise`."""
        return candidate_noise(self, batch, setting["num_candidates"], deterministic)

    def act(self, networks: Any, features: Features, noise: Tensor, **setting: Any) -> Tensor:
        count = setting["num_candidates"]
        field = networks.actor.head.field(features("actor").repeat_interleave(count, dim=-2))
        candidates = flow.sample_actions(field, noise, self.flow_steps)
        return best_candidates(networks.critic, features("critic"), candidates, count)

    def _predict_by_actor(self, *arguments: Any, **named: Any) -> tuple[np.ndarray, Any]:
        return self.predict(*arguments, **{"num_candidates": 1, **named})
