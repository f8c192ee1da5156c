"""Small IQL models with random parameters, whose policy gives one action for an observation."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from models import MODELS, scattered_model

from dipole_sb3 import IQL


def one_action_model(
    observation_space: spaces.Space[Any],
    action_space: spaces.Box,
    policy_kwargs: dict[str, Any] | None = None,
    normalize: dict[str, Any] | None = None,
) -> IQL:
    """On an environment of these spaces, every parameter with a value of its own; some actions are clipped.

    :param normalize: arguments of VecNormalize, whose statistics are then those of some hundred resets.
    """
    model: IQL = scattered_model(IQL, observation_space, action_space, policy_kwargs, normalize)
    with torch.no_grad():
        model.policy.actor.head.mlp.output.weight.mul_(2.0)
    return model


def one_action_model_of(name: str) -> IQL:
    """With the spaces and networks of one of MODELS."""
    observation_space, action_space, policy_kwargs, _ = MODELS[name]
    arguments = {key: value for key, value in policy_kwargs.items() if key != "time_features"}
    return one_action_model(observation_space, action_space, arguments)
