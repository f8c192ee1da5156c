"""Small models of every kind that a bundle can hold, with parameters far from their initial zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from sampled_environments import Sampled
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from dipole_sb3 import DIPOLE

SMALL: dict[str, Any] = {"net_arch": [24, 16]}


class TwoTanhLayers(BaseFeaturesExtractor):
    """A features extractor of a user's own."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=7)
        self.layers = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(int(np.prod(observation_space.shape)), 9), torch.nn.Tanh(),
            torch.nn.Linear(9, 7), torch.nn.LayerNorm(7),
        )  # fmt: skip

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.layers(observations)
        return features


def unbounded(*shape: int, dtype: Any = np.float32) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, shape, dtype)


DICT = spaces.Dict({"speed": unbounded(2), "arm": unbounded(2, 2, dtype=np.float64), "gear": spaces.Discrete(3)})
UNEVEN_ACTIONS = spaces.Box(np.array([-3.0, 0.7, -0.02]), np.array([1.3, 40.0, 0.1]), dtype=np.float64)

MODELS: dict[str, tuple[spaces.Space[Any], spaces.Box, dict[str, Any], dict[str, Any]]] = {
    # observation space, action space, policy_kwargs, arguments of DIPOLE
    "vector": (unbounded(4), spaces.Box(-1.0, 1.0, (2,)), {}, {}),
    "bounded_float64": (spaces.Box(-2.0, 5.0, (3,), np.float64), UNEVEN_ACTIONS, {}, {}),
    "matrix_and_matrix_actions": (unbounded(2, 3), spaces.Box(-2.0, 0.5, (2, 2)), {}, {}),
    "dict": (DICT, UNEVEN_ACTIONS, {}, {}),
    "discrete_and_other_critics": (
        spaces.Discrete(5),
        spaces.Box(-1.0, 1.0, (1,)),
        {"net_arch": {"pi": [16], "qf": [24, 8, 8]}},
        {},
    ),
    "multi_discrete_and_activation_class": (
        spaces.MultiDiscrete([3, 4]),
        spaces.Box(-1.0, 1.0, (1,)),
        {"activation_fn": torch.nn.ELU},
        {},
    ),
    "multi_binary_and_tanh": (spaces.MultiBinary(4), spaces.Box(-1.0, 1.0, (1,)), {"activation_fn": "tanh"}, {}),
    "own_extractor": (unbounded(4), spaces.Box(-1.0, 1.0, (2,)), {"features_extractor_class": TwoTanhLayers}, {}),
    "exorl_networks": (
        unbounded(4),
        spaces.Box(-1.0, 1.0, (2,)),
        {"activation_fn": "mish", "actor_layer_norm": True, "time_features": 16},
        {"flow_steps": 32},
    ),
    "no_hidden_layers": (unbounded(4), spaces.Box(-1.0, 1.0, (2,)), {"net_arch": []}, {"flow_steps": 1}),
}


def make_model(
    observation_space: spaces.Space[Any],
    action_space: spaces.Box,
    policy_kwargs: dict[str, Any] | None = None,
    normalize: dict[str, Any] | None = None,
    **arguments: Any,
) -> DIPOLE:
    """A model on an environment of these spaces.

    :param normalize: arguments of VecNormalize, whose statistics are then those of some hundred resets.
    """
    few = {"flow_steps": 3, **arguments}  # tracing takes a second for ten
    return scattered_model(DIPOLE, observation_space, action_space, policy_kwargs, normalize, **few)


def scattered_model(
    algorithm: type[Any],
    observation_space: spaces.Space[Any],
    action_space: spaces.Box,
    policy_kwargs: dict[str, Any] | None,
    normalize: dict[str, Any] | None,
    **arguments: Any,
) -> Any:
    """The same of any algorithm, every parameter with a value of its own."""
    env: Any = DummyVecEnv([lambda: Sampled(observation_space, action_space)])
    if normalize is not None:
        env = VecNormalize(env, **normalize)
        env.seed(0)
        for _ in range(300):
            env.reset()
        env.training = False
    policy = "MultiInputPolicy" if isinstance(observation_space, spaces.Dict) else "MlpPolicy"
    model = algorithm(
        policy, env, policy_kwargs={**SMALL, **(policy_kwargs or {})}, seed=0, device="cpu", buffer_size=10, **arguments
    )
    scatter(model)
    return model


def model_of(name: str, **arguments: Any) -> DIPOLE:
    """One of MODELS."""
    observation_space, action_space, policy_kwargs, own = MODELS[name]
    return make_model(observation_space, action_space, policy_kwargs, **{**own, **arguments})


def scatter(model: DIPOLE) -> None:
    """Gives every parameter, biases and normalisations included, a value of its own."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def observations_of(model: DIPOLE, count: int) -> list[Any]:
    """As an environment would give them."""
    env = model.get_env()
    assert env is not None
    space = env.observation_space
    space.seed(3)
    return [space.sample() for _ in range(count)]


def predict_with(model: DIPOLE, observation: Any, noise: np.ndarray, omega: float, monkeypatch: Any) -> np.ndarray:
    """``model.predict`` as a user calls it on a raw observation, from given noise."""
    vec_normalize = model.get_vec_normalize_env()
    seen = observation if vec_normalize is None else vec_normalize.normalize_obs(observation)
    monkeypatch.setattr(model.policy, "acting_noise", lambda *_, **__: torch.as_tensor(noise))
    action, _ = model.predict(seen, omega=omega, num_candidates=len(noise))
    monkeypatch.undo()
    assert isinstance(action, np.ndarray)
    return action
