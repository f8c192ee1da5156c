"""IDQL's policy: a diffusion actor and its average, critics with targets and the state value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import Schedule as RateSchedule
from torch import Tensor

from dipole_sb3.common.checks import require_whole_number
from dipole_sb3.learning.candidates import best_candidates, candidate_noise
from dipole_sb3.learning.knobs import NUM_CANDIDATES, Knob
from dipole_sb3.learning.offline_policy import Arch, Features, OfflinePolicy
from dipole_sb3.networks.acting_forms import Diffusion
from dipole_sb3.networks.diffusion import Schedule, sample_actions
from dipole_sb3.networks.feature_network import FeatureNetwork
from dipole_sb3.networks.heads import StateValue
from dipole_sb3.networks.residual import NoisePredictor


class IDQLPolicy(OfflinePolicy):
    """A diffusion actor, critics and value; acts with the best of N samples of the averaged actor by min Q̄.

    Arguments that are not listed here are those of :class:`~dipole_sb3.learning.offline_policy.OfflinePolicy`.

    :param net_arch: ``dict(pi=[…], qf=[…])``: ``pi`` has the width of each of the actor's residual blocks, all equal,
        ``qf`` the hidden widths of critics and value; a list means both. Default: three blocks of 256; 256, 256.
    :param diffusion_steps: T ≥ 1, denoising steps.
    :param dropout: in [0, 1), probability of dropout in the actor's blocks during training.
    :param actor_weight_decay: ≥ 0, of the actor, by AdamW; that of critics and value, 0 by default, is
        ``optimizer_kwargs=dict(weight_decay=…)``.
    :param actor_decay_steps: updates in which the actor's learning rate falls to 0 as half a cosine; 0: it stays.
    :param value_steps: updates after which critics and value rest until the actor's rate is 0; online, only they learn
        then, as in the authors' code; None: they always do.
    :param num_candidates: default number of candidates, N ≥ 1.
    """

    knobs: ClassVar[tuple[Knob, ...]] = (NUM_CANDIDATES,)
    default_arch: ClassVar[Arch] = {"pi": [256] * 3, "qf": [256] * 2}
    value: FeatureNetwork[StateValue]
    actor_target: FeatureNetwork[NoisePredictor]

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: RateSchedule,
        net_arch: Arch | None = None,
        diffusion_steps: int = 5,
        dropout: float = 0.1,
        actor_weight_decay: float = 1e-4,
        actor_decay_steps: int = 0,
        value_steps: int | None = None,
        num_candidates: int = 32,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.AdamW,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            observation_space, action_space, lr_schedule, net_arch=net_arch, optimizer_class=optimizer_class, **kwargs
        )
        require_whole_number("diffusion_steps", diffusion_steps, 1)
        conditions = {
            "dropout": (dropout, 0 <= dropout < 1, "a number in [0, 1)"),
            "actor_weight_decay": (actor_weight_decay, 0 <= actor_weight_decay < math.inf, "a number of at least 0"),
            "actor_decay_steps": (actor_decay_steps, actor_decay_steps >= 0, "at least 0"),
            "value_steps": (value_steps, value_steps is None or value_steps >= 0, "at least 0"),
            "net_arch": (self.actor_arch, len(set(self.actor_arch)) <= 1, "residual blocks of one width in 'pi'"),
        }
        for name, (value, holds, expected) in conditions.items():
            if not holds:
                raise ValueError(f"{name} is {value}, expected {expected}")
        self.diffusion_steps = diffusion_steps
        self.schedule = Schedule.variance_preserving(diffusion_steps)
        self.dropout = dropout
        self.actor_weight_decay = actor_weight_decay
        self.actor_decay_steps = actor_decay_steps
        self.value_steps = value_steps
        self.num_candidates = NUM_CANDIDATES.checked(num_candidates)

        def make_actor(width: int) -> NoisePredictor:
            return NoisePredictor(width, self.action_dim, (self.actor_arch or [256])[0], len(self.actor_arch))

        self._build_actor_and_critics(make_actor)
        self.actor_target = self._target_of(self.actor, make_actor)
        self.value = self._state_value()
        self._make_optimizer(lr_schedule)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        names = ("diffusion_steps", "dropout", "actor_weight_decay", "actor_decay_steps", "value_steps")
        return {**super()._get_constructor_parameters(), **{name: getattr(self, name) for name in names}}

    def targets(self) -> Iterable[FeatureNetwork[Any]]:
        return [self.critic_target, self.actor_target]

    def architecture(self) -> Mapping[str, Any]:
        names = ("diffusion_steps", "dropout", "actor_weight_decay", "actor_decay_steps", "value_steps")
        return {**{name: getattr(self, name) for name in names}, **super().architecture()}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The actor and the values, each with its weight decay."""
        of_actor = set(self.actor.parameters())
        trained = self.trained_parameters()
        return [
            {"params": [each for each in trained if each in of_actor], "weight_decay": self.actor_weight_decay},
            {
                "params": [each for each in trained if each not in of_actor],
                "weight_decay": self.optimizer_kwargs.get("weight_decay", 0.0),
            },
        ]

    def learning_rate_factors(self, updates: int) -> list[float]:
        """Of the actor: half a cosine; of the values: 1, or 0 while they rest."""
        ends, stops = self.actor_decay_steps, self.value_steps
        actor = 0.5 * (1.0 + math.cos(math.pi * min(updates / ends, 1.0))) if ends else 1.0
        rests = stops is not None and updates >= stops and not 0 < ends <= updates
        return [actor, float(not rests)]

    def acting_form(self) -> Diffusion:
        return Diffusion(self.actor_target, self.critic_target, self.schedule)

    def acting_noise(self, batch: int, deterministic: bool, **setting: Any) -> Tensor:
        """The noise of all denoising steps, [batch · N, T · action]; the first candidate's is zero if deterministic."""
        return candidate_noise(self, batch, setting["num_candidates"], deterministic, self.diffusion_steps)

    def act(self, networks: Any, features: Features, noise: Tensor, **setting: Any) -> Tensor:
        count = setting["num_candidates"]
        of_actor = features("actor_target").repeat_interleave(count, dim=-2)
        predictor = networks.actor_target.head
        candidates = sample_actions(lambda x, step: predictor(of_actor, x, step), self.schedule, noise)
        return best_candidates(networks.critic_target, features("critic_target"), candidates, count)

    def _predict_by_actor(self, *arguments: Any, **named: Any) -> tuple[np.ndarray, Any]:
        return self.predict(*arguments, **{"num_candidates": 1, **named})


class MultiInputPolicy(IDQLPolicy):
    """For Dict observations: SB3's CombinedExtractor (a CNN per image, the rest concatenated); see IDQLPolicy."""

    default_features_extractor = CombinedExtractor


class CnnPolicy(IDQLPolicy):
    """For image observations: SB3's NatureCNN; see IDQLPolicy."""

    default_features_extractor = NatureCNN


MlpPolicy = IDQLPolicy
