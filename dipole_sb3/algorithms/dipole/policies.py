"""DIPOLE's policy: the velocity pair, critics with targets, the state value, and how they act."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from dipole_sb3.learning.knobs import NUM_CANDIDATES, Knob
from dipole_sb3.learning.offline_policy import Features, OfflinePolicy
from dipole_sb3.networks import flow
from dipole_sb3.networks.acting_forms import GuidedPair
from dipole_sb3.networks.feature_network import FeatureNetwork
from dipole_sb3.networks.heads import StateValue, VelocityPair

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

_DETERMINISTIC_SEED = 0


def sample_guided(
    head: VelocityPair, features: Tensor, noise: Tensor, omega: float | Tensor, flow_steps: int
) -> Tensor:
    """Actions of a guided pair from given noise; only the networks that ω needs are evaluated.

    :param features: the actor's features, shape [..., batch, features].
    :param noise: x₀, shape [..., batch, action].
    :param omega: ω ≥ −1: a number, or one per row as a tensor of shape [batch, 1].
    :param flow_steps: K ≥ 1, Euler steps.
    :return: actions in [−1, 1], shape [..., batch, action].
    """
    # Only a number decides which networks run: a branch on a tensor's value would wait for the device.
    number = None if isinstance(omega, Tensor) else omega
    if number == 0:
        velocity = head.positive_field(features)
    elif number == -1:
        velocity = head.negative_field(features)
    else:
        pair = head.fields(features)

        def velocity(x: Tensor, time: Tensor) -> Tensor:
            positive, negative = pair(x, time)
            return flow.guide(positive, negative, omega)

    return flow.sample_actions(velocity, noise, flow_steps)


class DIPOLEPolicy(OfflinePolicy):
    """The velocity pair, critics and value; acts with the best of N guided candidates by min Q (eq. 16).

    Arguments that are not listed here are those of :class:`~dipole_sb3.learning.offline_policy.OfflinePolicy`.

    :param activation_fn: ``"gelu-tanh"`` (the authors' code), ``"tanh"`` (the paper's table), ``"mish"``, … or a torch
        module class.
    :param actor_layer_norm: layer normalisation in the velocity fields too (value networks always have it).
    :param time_features: 1 for raw time, or an even number of sinusoidal features.
    :param flow_steps: K ≥ 1, Euler steps from noise to action.
    :param omega: default greediness, ω ≥ −1.
    :param num_candidates: default number of candidates, N ≥ 1.
    """

    knobs: ClassVar[tuple[Knob, ...]] = (OMEGA, NUM_CANDIDATES)
    value: FeatureNetwork[StateValue]

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: Sequence[int] | dict[str, list[int]] | None = None,
        activation_fn: str | type[nn.Module] = "gelu-tanh",
        actor_layer_norm: bool = False,
        time_features: int = 1,
        flow_steps: int = 10,
        omega: float = 0.5,
        num_candidates: int = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=net_arch,
            activation_fn=activation_fn,
            **kwargs,
        )
        if flow_steps < 1:
            raise ValueError(f"flow_steps is {flow_steps}, expected at least 1")
        self.actor_layer_norm = actor_layer_norm
        self.time_features = time_features
        self.flow_steps = flow_steps
        self.omega = OMEGA.checked(omega)
        self.num_candidates = NUM_CANDIDATES.checked(num_candidates)
        self._build_actor_and_critics(
            lambda width: VelocityPair(
                width, self.action_dim, self.actor_arch, activation_fn, actor_layer_norm, time_features
            )
        )
        self.value = self._state_value()
        self._make_optimizer(lr_schedule)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            actor_layer_norm=self.actor_layer_norm, time_features=self.time_features, flow_steps=self.flow_steps
        )
        return data

    def architecture(self) -> Mapping[str, Any]:
        return {"flow_steps": self.flow_steps, "time_features": self.time_features, **super().architecture()}

    def acting_form(self) -> GuidedPair:
        return GuidedPair(self.actor, self.critic, self.flow_steps)

    def sample_actions(self, features: Tensor, noise: Tensor, omega: float | Tensor) -> Tensor:
        """Actions of the guided pair from given noise; see :func:`sample_guided`."""
        return sample_guided(self.actor.head, features, noise, omega, self.flow_steps)

    def acting_noise(self, batch: int, deterministic: bool, **setting: Any) -> Tensor:
        """x₀ of shape [batch · N, action]; fixed noise is the same for every observation, the first of the N zero."""
        candidates: int = setting["num_candidates"]
        if not deterministic:
            return torch.randn(batch * candidates, self.action_dim, device=self.device)
        # The first candidate starts from the mode of the noise. NumPy's generator draws row by row, so a larger N
        # keeps the candidates of a smaller N.
        fixed = np.random.default_rng(_DETERMINISTIC_SEED).standard_normal((candidates, self.action_dim))
        fixed[0] = 0.0
        return torch.as_tensor(fixed, dtype=torch.float32, device=self.device).repeat(batch, 1)

    def act(self, networks: Any, features: Features, noise: Tensor, **setting: Any) -> Tensor:
        omega, count = setting["omega"], setting["num_candidates"]
        of_actor = features("actor")
        if isinstance(omega, Tensor):
            if omega.shape != (of_actor.shape[-2],):
                raise ValueError(
                    f"omega has shape {tuple(omega.shape)}, expected one value for each of {of_actor.shape[-2]} "
                    "observations"
                )
            omega = omega.reshape(-1, 1).repeat_interleave(count, dim=0)
        candidates = sample_guided(
            networks.actor.head, of_actor.repeat_interleave(count, dim=-2), noise, omega, self.flow_steps
        )
        if count == 1:
            return candidates
        values = networks.critic.head(features("critic").repeat_interleave(count, dim=-2), candidates).amin(-2)
        # Shape [..., batch, 1, 1], to index candidates of shape [..., batch, N, action].
        best = torch.unflatten(values, -1, (-1, count)).argmax(-1)[..., None, None]
        return torch.unflatten(candidates, -2, (-1, count)).take_along_dim(best, dim=-2).squeeze(-2)

    def _predict_by_actor(self, *arguments: Any, **named: Any) -> tuple[np.ndarray, Any]:
        return self.predict(*arguments, **{"num_candidates": 1, **named})


class MultiInputPolicy(DIPOLEPolicy):
    """For Dict observations: SB3's CombinedExtractor (a CNN per image, the rest concatenated); see DIPOLEPolicy."""

    default_features_extractor = CombinedExtractor


class CnnPolicy(DIPOLEPolicy):
    """For image observations: SB3's NatureCNN; see DIPOLEPolicy."""

    default_features_extractor = NatureCNN


MlpPolicy = DIPOLEPolicy
