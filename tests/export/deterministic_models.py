"""Small models whose policy gives one action for an observation, as IQL's does; nothing here learns anything."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from models import MODELS, SMALL, Sampled, scatter
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import Tensor

from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm
from dipole_sb3.networks.acting_forms import Deterministic
from dipole_sb3.networks.feature_network import FeatureNetwork
from dipole_sb3.networks.heads import DeterministicActor, QEnsemble


class OneActionPolicy(BasePolicy):
    """An actor and two critics."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Any,
        net_arch: Sequence[int] = (24, 16),
        activation_fn: Any = "gelu-tanh",
        actor_layer_norm: bool = False,
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
    ) -> None:
        if isinstance(observation_space, spaces.Dict):
            features_extractor_class = CombinedExtractor
        super().__init__(observation_space, action_space, features_extractor_class, squash_output=True)
        self.net_arch = list(net_arch)
        size = int(torch.tensor(action_space.shape).prod())

        def network(head: Any, *options: Any) -> FeatureNetwork[Any]:
            extractor = self.make_features_extractor()
            made = head(extractor.features_dim, size, self.net_arch, activation_fn, *options)
            return FeatureNetwork(observation_space, extractor, made, True)

        self.actor = network(DeterministicActor, actor_layer_norm)
        self.critic = network(QEnsemble)
        self.optimizer = torch.optim.Adam(self.parameters())

    def acting_form(self) -> Any:
        return Deterministic(self.actor, self.critic)

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        action: Tensor = self.actor.head(self.actor.features(observation)).clamp(-1.0, 1.0)
        return action


class MultiInputPolicy(OneActionPolicy):
    """For Dict observations."""


class CnnPolicy(OneActionPolicy):
    """A name that SB3 expects."""


class OneAction(OfflineAlgorithm):
    """Made, scattered and exported; it cannot learn."""

    policy_aliases: ClassVar[Any] = {
        "MlpPolicy": OneActionPolicy,
        "MultiInputPolicy": MultiInputPolicy,
        "CnnPolicy": CnnPolicy,
    }

    def __init__(self, policy: str, env: Any, policy_kwargs: dict[str, Any]) -> None:
        given: dict[str, Any] = dict.fromkeys(inspect.signature(OfflineAlgorithm.__init__).parameters)
        numbers = {"learning_rate": 1e-3, "buffer_size": 10, "train_freq": 1, "n_steps": 1, "verbose": 0, "seed": 0}
        own = {"policy": policy, "env": env, "policy_kwargs": policy_kwargs, "device": "cpu", **numbers}
        super().__init__(**{name: value for name, value in {**given, **own}.items() if name != "self"})
        self._setup_model()

    def _setup_policy(self) -> None:
        made: Any = self.policy_class(
            self.observation_space, self.action_space, self.lr_schedule, **(self.policy_kwargs or {})
        )
        self.policy = made.to(self.device)

    def train(self, gradient_steps: int, batch_size: int = 4) -> None:
        raise NotImplementedError

    def _record_training(self) -> None:
        raise NotImplementedError


def one_action_model(
    observation_space: spaces.Space[Any],
    action_space: spaces.Box,
    policy_kwargs: dict[str, Any] | None = None,
    normalize: dict[str, Any] | None = None,
) -> OneAction:
    """On an environment of these spaces, every parameter with a value of its own; some actions are clipped.

    :param normalize: arguments of VecNormalize, whose statistics are then those of some hundred resets.
    """
    env: Any = DummyVecEnv([lambda: Sampled(observation_space, action_space)])
    if normalize is not None:
        env = VecNormalize(env, **normalize)
        env.seed(0)
        for _ in range(300):
            env.reset()
        env.training = False
    policy = "MultiInputPolicy" if isinstance(observation_space, spaces.Dict) else "MlpPolicy"
    model = OneAction(policy, env, {**SMALL, **(policy_kwargs or {})})
    scatter(model)
    with torch.no_grad():
        model.policy.actor.head.mlp.output.weight.mul_(2.0)
    return model


def one_action_model_of(name: str) -> OneAction:
    """With the spaces and networks of one of MODELS."""
    observation_space, action_space, policy_kwargs, _ = MODELS[name]
    arguments = {key: value for key, value in policy_kwargs.items() if key != "time_features"}
    if isinstance(arguments.get("net_arch"), dict):
        arguments["net_arch"] = arguments["net_arch"]["qf"]
    return one_action_model(observation_space, action_space, arguments)
