"""Networks whose outputs are given, and small problems with known answers, for tests of losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


class Fixed:
    """A network whose head gives the same numbers whatever it reads."""

    def __init__(self, values: Any) -> None:
        self.values = torch.tensor(values, requires_grad=True)

    def features(self, observations: torch.Tensor) -> torch.Tensor:
        return observations

    def head(self, *_: Any, **__: Any) -> torch.Tensor:
        return self.values


class FixedFlow(Fixed):
    """A flow of constant velocity."""

    def field(self, features: torch.Tensor) -> Any:
        return lambda x, time: self.values

    @property
    def head(self) -> Any:
        return self

    def __call__(self, *_: Any) -> torch.Tensor:
        return self.values


class LinearCritics:
    """Two critics Q(s, a) = cᵀa and cᵀa + 1."""

    def __init__(self, slope: list[float]) -> None:
        self.slope = torch.tensor(slope)

    def features(self, observations: torch.Tensor) -> torch.Tensor:
        return observations

    def head(self, features: torch.Tensor, actions: torch.Tensor, frozen: bool = False) -> torch.Tensor:
        q = actions @ self.slope
        return torch.stack([q, q + 1])


def two_modes(count: int = 1024) -> dict[str, np.ndarray]:
    """One state; a quarter of the actions are 0.5, most of the others −0.5, every tenth is anywhere in [−1, 1].

    An action is worth 1 − (a − 0.5)², and the episode ends: 0.5 is the best, −0.5 is worth 0.
    """
    random = np.random.default_rng(0)
    kind, anywhere = random.random(count), random.uniform(-1, 1, count)
    actions = np.where(kind < 0.25, 0.5, np.where(kind < 0.9, -0.5, anywhere)).astype(np.float32)
    return {
        "observations": np.ones((count, 1), np.float32),
        "next_observations": np.ones((count, 1), np.float32),
        "actions": actions[:, None],
        "rewards": 1 - (actions - 0.5) ** 2,
        "terminals": np.ones(count, np.float32),
    }


def chain(count: int = 256) -> dict[str, np.ndarray]:
    """Two states, −1 and then 1; whatever is done, the second step ends the episode with a reward of 1.

    With γ = 0.5, Q is 0.5 in the first state and 1 in the second.
    """
    states = np.tile(np.array([[-1.0], [1.0]], np.float32), (count, 1))
    second = np.tile(np.array([0.0, 1.0], np.float32), count)
    return {
        "observations": states,
        "next_observations": -states,
        "actions": np.random.default_rng(0).uniform(-1, 1, (2 * count, 1)).astype(np.float32),
        "rewards": second,
        "terminals": second,
    }


def small_model(algorithm: Any, data: dict[str, np.ndarray], **arguments: Any) -> Any:
    """A model that learns small problems in a second or two."""
    return algorithm(
        "MlpPolicy", dataset=data, seed=0, tau=0.05, learning_rate=3e-3, device="cpu", batch_size=128,
        acceleration="eager", policy_kwargs={"net_arch": [32]}, **arguments,
    )  # fmt: skip


def samples(model: Any, count: int = 400, **setting: Any) -> np.ndarray:
    """Sampled actions in the state of :func:`two_modes`, [count]."""
    torch.manual_seed(0)
    actions, _ = model.predict(np.ones((count, 1), np.float32), deterministic=False, **setting)
    return np.asarray(actions)[:, 0]


def values_of_chain(model: Any) -> tuple[float, float]:
    """Mean Q over actions in the two states of :func:`chain`."""
    actions = torch.linspace(-1, 1, 21)[:, None]
    found = []
    for state in (-1.0, 1.0):
        observations = torch.full((21, 1), state)
        with torch.no_grad():
            q = model.policy.critic.head(model.policy.critic.features(observations), actions)
        found.append(float(q.mean()))
    return found[0], found[1]
