"""The algorithms that keep SB3's contract. A new one joins by adding its class to the list."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from dipole_sb3 import CFGRL, DIPOLE, FAWAC, FQL, IDQL, IFQL, IQL, ReBRAC
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm

ALGORITHMS: list[type[OfflineAlgorithm]] = [DIPOLE, IQL, ReBRAC, IDQL, IFQL, FAWAC, FQL, CFGRL]

# What makes a model small and its runs repeatable; an algorithm gets the arguments that its constructor knows.
SMALL: dict[str, Any] = {
    "learning_rate": 1e-3,
    "buffer_size": 1_000,
    "batch_size": 32,
    "flow_steps": 2,
    "actor_tau": 0.05,
    "num_candidates": 2,
    "policy_kwargs": {"net_arch": [16, 16]},
    "device": "cpu",
    "seed": 0,
}


def small(algorithm: type[OfflineAlgorithm], policy: str = "MlpPolicy", env: Any = None, **arguments: Any) -> Any:
    """A small model of an algorithm; ``arguments`` replace those that make it small."""
    known = inspect.signature(algorithm).parameters
    return algorithm(policy, env, **{**{name: value for name, value in SMALL.items() if name in known}, **arguments})


def parameters_of(model: Any) -> dict[str, torch.Tensor]:
    """A copy of all networks' parameters and statistics, which further training does not change."""
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def state_of(model: Any) -> dict[str, Any]:
    """The same, and the optimiser's state."""
    optimizer = model.policy.optimizer.state_dict()
    state = {
        index: {name: torch.as_tensor(value).clone() for name, value in row.items()}
        for index, row in optimizer["state"].items()
    }
    return {"policy": parameters_of(model), "state": state, "param_groups": optimizer["param_groups"]}


def same_parameters(first: Any, second: Any) -> bool:
    """Whether two nested structures of tensors and numbers are equal, bit for bit."""
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(same_parameters(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same_parameters, first, second))
    if isinstance(first, torch.Tensor):
        return torch.equal(first.cpu(), second.cpu())
    if isinstance(first, np.ndarray):
        return np.array_equal(first, second)
    return bool(first == second)


def one_sentence(error: BaseException, *words: str) -> None:
    """Asserts that an error is one line of readable length that says all of ``words``."""
    message = str(error)
    assert "\n" not in message
    assert 20 < len(message) < 400, message
    for expected in words:
        assert expected in message, f"{expected!r} is not in: {message}"
