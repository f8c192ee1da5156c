"""DIPOLE's policy: the velocity pair, two critics with targets, the state value, and how they act."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
    get_actor_critic_arch,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from dipole_sb3.networks import flow
from dipole_sb3.networks.acting_forms import GuidedPair
from dipole_sb3.networks.feature_network import FeatureNetwork
from dipole_sb3.networks.heads import QEnsemble, StateValue, VelocityPair

Head = TypeVar("Head", bound=nn.Module)

_DETERMINISTIC_SEED = 0


def require_omega(omega: float, name: str = "omega") -> float:
    """ω as a float; refuses NaN, infinity and values below −1."""
    value = float(omega)
    if not (np.isfinite(value) and value >= -1.0):
        raise ValueError(
            f"{name} is {omega}, expected a finite number of at least -1 (-1: negative policy, 0: positive policy)"
        )
    return value


def require_num_candidates(num_candidates: int) -> int:
    """N as an int; refuses fractions and values below 1."""
    if int(num_candidates) != num_candidates or num_candidates < 1:
        raise ValueError(f"num_candidates is {num_candidates}, expected a whole number of at least 1")
    return int(num_candidates)


def sample_guided(
    head: VelocityPair, features: Tensor, noise: Tensor, omega: float | Tensor, flow_steps: int
) -> Tensor:
    """Actions of a guided pair from given noise; see :meth:`DIPOLEPolicy.sample_actions`."""
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


class DIPOLEPolicy(BasePolicy):
    """The five networks and how they act: N guided candidates, of which the best by min(Q₁, Q₂) is taken (eq. 16).

    :param observation_space: Box, Dict or another space that SB3 can preprocess.
    :param action_space: Box with finite bounds; the networks work in [−1, 1].
    :param lr_schedule: learning rate as a function of the remaining progress (1 → 0).
    :param net_arch: hidden widths of every network, or ``dict(pi=[...], qf=[...])``; default [512, 512, 512].
    :param activation_fn: ``"gelu-tanh"`` (the authors' code), ``"tanh"`` (the paper's table), ``"mish"``, … or a torch
        module class.
    :param actor_layer_norm: layer normalisation in the velocity fields too (value networks always have it).
    :param time_features: 1 for raw time, or an even number of sinusoidal features.
    :param flow_steps: K ≥ 1, Euler steps from noise to action.
    :param omega: default greediness, ω ≥ −1.
    :param num_candidates: default N ≥ 1.
    :param features_extractor_class: SB3 features extractor; actor, critics and value each have their own.
    :param features_extractor_kwargs: its keyword arguments.
    :param normalize_images: divide uint8 images by 255.
    :param optimizer_class: one optimiser steps all networks.
    :param optimizer_kwargs: its keyword arguments, without the learning rate.
    """

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
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class,
            features_extractor_kwargs,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            squash_output=True,
            normalize_images=normalize_images,
        )
        if flow_steps < 1:
            raise ValueError(f"flow_steps is {flow_steps}, expected at least 1")
        self.net_arch = [512, 512, 512] if net_arch is None else net_arch
        self.activation_fn = activation_fn
        self.actor_layer_norm = actor_layer_norm
        self.time_features = time_features
        self.flow_steps = flow_steps
        self.omega = require_omega(omega)
        self.num_candidates = require_num_candidates(num_candidates)
        self.action_dim = get_action_dim(action_space)
        self._build(lr_schedule)

    def _build(self, lr_schedule: Schedule) -> None:
        net_arch = self.net_arch if isinstance(self.net_arch, dict) else list(self.net_arch)
        actor_arch, critic_arch = get_actor_critic_arch(net_arch)

        def pair(width: int) -> VelocityPair:
            return VelocityPair(
                width, self.action_dim, actor_arch, self.activation_fn, self.actor_layer_norm, self.time_features
            )

        def critics(width: int) -> QEnsemble:
            return QEnsemble(width, self.action_dim, critic_arch, self.activation_fn)

        def state_value(width: int) -> StateValue:
            return StateValue(width, critic_arch, self.activation_fn)

        self.actor = self._network(pair)
        self.critic = self._network(critics)
        self.critic_target = self._network(critics)
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.critic_target.requires_grad_(False)
        self.value = self._network(state_value)
        # One kernel for all parameters: the loop over tensors of torch's Adam costs a tenth of a small update.
        has_fused = self.optimizer_class in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
        chosen = {"fused", "foreach", "differentiable"} & self.optimizer_kwargs.keys()
        fused = {"fused": True} if has_fused and not chosen else {}
        self.optimizer = self.optimizer_class(
            self.trained_parameters(),
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **{**fused, **self.optimizer_kwargs},
        )

    def _network(self, make_head: Callable[[int], Head]) -> FeatureNetwork[Head]:
        extractor = self.make_features_extractor()
        return FeatureNetwork(
            self.observation_space, extractor, make_head(extractor.features_dim), self.normalize_images
        )

    def set_training_mode(self, mode: bool) -> None:
        """SB3's; the target critics stay one function, without dropout and with given statistics, in training too."""
        super().set_training_mode(mode)
        self.critic_target.eval()

    def trained_parameters(self) -> list[nn.Parameter]:
        """Parameters of the pair, the critics and the value; not those of the target critics."""
        return [*self.actor.parameters(), *self.critic.parameters(), *self.value.parameters()]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            net_arch=self.net_arch,
            activation_fn=self.activation_fn,
            actor_layer_norm=self.actor_layer_norm,
            time_features=self.time_features,
            flow_steps=self.flow_steps,
            omega=self.omega,
            num_candidates=self.num_candidates,
            features_extractor_class=self.features_extractor_class,
            features_extractor_kwargs=self.features_extractor_kwargs,
            optimizer_class=self.optimizer_class,
            optimizer_kwargs=self.optimizer_kwargs,
            lr_schedule=self._dummy_schedule,
        )
        return data

    def sample_actions(self, features: Tensor, noise: Tensor, omega: float | Tensor) -> Tensor:
        """Actions of the guided policy from given noise; only the networks that ω needs are evaluated.

        :param features: the actor's features, shape [batch, features].
        :param noise: x₀, shape [batch, action].
        :param omega: ω ≥ −1: a number, or one per row as a tensor of shape [batch, 1].
        :return: actions in [−1, 1], shape [batch, action].
        """
        return sample_guided(self.actor.head, features, noise, omega, self.flow_steps)

    def acting_form(self) -> GuidedPair:
        """The networks that act, for an export."""
        return GuidedPair(self.actor, self.critic, self.flow_steps)

    def q_values(self, observations: PyTorchObs, actions: Tensor) -> Tensor:
        """min(Q₁, Q₂) of the online critics.

        :param observations: [batch, *observation] on the policy's device.
        :param actions: in [−1, 1], shape [batch, action].
        :return: returns, shape [batch].
        """
        values: Tensor = self.critic.head(self.critic.features(observations), actions)
        return values.amin(dim=0)

    def _noise(self, batch: int, candidates: int, deterministic: bool) -> Tensor:
        """x₀ of shape [batch · candidates, action]; deterministic noise starts with zero and is the same for all."""
        if not deterministic:
            return torch.randn(batch * candidates, self.action_dim, device=self.device)
        # The first candidate starts from the mode of the noise. NumPy's generator draws row by row, so that more
        # candidates only add to the fewer.
        fixed = np.random.default_rng(_DETERMINISTIC_SEED).standard_normal((candidates, self.action_dim))
        fixed[0] = 0.0
        return torch.as_tensor(fixed, dtype=torch.float32, device=self.device).repeat(batch, 1)

    def _predict(
        self,
        observation: PyTorchObs,
        deterministic: bool = False,
        omega: float | Tensor | None = None,
        num_candidates: int | None = None,
    ) -> Tensor:
        """Actions in [−1, 1], shape [batch, action]; ω a number or a tensor of shape [batch]."""
        omega = self.omega if omega is None else omega
        count = self.num_candidates if num_candidates is None else num_candidates
        features = self.actor.features(observation)
        batch = features.shape[0]
        if isinstance(omega, Tensor):
            if omega.shape != (batch,):
                raise ValueError(
                    f"omega has shape {tuple(omega.shape)}, expected one value for each of {batch} observations"
                )
            omega = omega.reshape(-1, 1).repeat_interleave(count, dim=0)
        noise = self._noise(batch, count, deterministic)
        candidates = self.sample_actions(features.repeat_interleave(count, dim=0), noise, omega)
        if count == 1:
            return candidates
        critic_features = self.critic.features(observation).repeat_interleave(count, dim=0)
        values: Tensor = self.critic.head(critic_features, candidates).amin(dim=0)
        best = values.reshape(batch, count).argmax(dim=1)
        return candidates.reshape(batch, count, -1)[torch.arange(batch, device=best.device), best]

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        omega: float | np.ndarray | None = None,
        num_candidates: int | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """SB3's ``predict`` with two more arguments.

        :param observation: one observation or a batch of them, as in SB3.
        :param state: handed back unchanged (the policy has no memory).
        :param episode_start: not used.
        :param deterministic: True: a function of the observation alone (fixed noise); False: samples.
        :param omega: ω ≥ −1, or an array with one ω per observation; None: the policy's own.
        :param num_candidates: N ≥ 1; None: the policy's own.
        :return: (actions in the environment's units, state).
        """
        if isinstance(observation, tuple):
            raise ValueError(
                "predict() was given a tuple, expected an observation: Gymnasium's reset() returns "
                "(observation, info), a Stable-Baselines3 VecEnv's reset() the observation alone"
            )
        self.set_training_mode(False)
        tensors, vectorized = self.obs_to_tensor(observation)
        with torch.no_grad():
            scaled = self._predict(
                tensors,
                deterministic,
                None if omega is None else self._omega_argument(omega),
                None if num_candidates is None else require_num_candidates(num_candidates),
            )
        actions = self.in_units(scaled.cpu().numpy())
        return (actions if vectorized else actions[0]), state

    def in_units(self, scaled: np.ndarray) -> np.ndarray:
        """Actions in [−1, 1], shape [batch, action], in the environment's units and shape."""
        assert isinstance(self.action_space, spaces.Box)
        actions = self.unscale_action(scaled.reshape(-1, *self.action_space.shape))
        # Rounding takes one in ten upper bounds out of the space.
        return np.clip(actions, self.action_space.low, self.action_space.high)  # type: ignore[no-any-return]

    def _omega_argument(self, omega: float | np.ndarray) -> float | Tensor:
        array = np.asarray(omega, np.float32)
        if array.ndim == 0:
            return require_omega(float(omega))
        for value in array.flat:
            require_omega(value)
        return torch.as_tensor(array, device=self.device)


class MultiInputPolicy(DIPOLEPolicy):
    """For Dict observations: SB3's CombinedExtractor (a CNN per image, the rest concatenated); see DIPOLEPolicy."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor,
        **kwargs: Any,
    ) -> None:
        kwargs["features_extractor_class"] = features_extractor_class
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)


class CnnPolicy(DIPOLEPolicy):
    """For image observations: SB3's NatureCNN; see DIPOLEPolicy."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        features_extractor_class: type[BaseFeaturesExtractor] = NatureCNN,
        **kwargs: Any,
    ) -> None:
        kwargs["features_extractor_class"] = features_extractor_class
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)


MlpPolicy = DIPOLEPolicy
