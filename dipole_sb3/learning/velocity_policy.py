"""The base class of policies with velocity fields: how these are built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from dipole_sb3.common.checks import require_whole_number
from dipole_sb3.learning.offline_policy import Arch, OfflinePolicy
from dipole_sb3.networks.stacked_mlp import OutputInit


class VelocityPolicy(OfflinePolicy):
    """A policy whose actions, or those it learns from, follow a velocity field from noise.

    Arguments that are not listed here are those of :class:`~dipole_sb3.learning.offline_policy.OfflinePolicy`.

    :param activation_fn: ``"gelu-tanh"``, ``"tanh"``, ``"mish"``, … or a torch module class.
    :param actor_layer_norm: layer normalisation in the actor's networks too, or in the first so many of their hidden
        layers (value networks always have it).
    :param actor_output_init: how the last layer of the velocity fields begins: ``"xavier"`` or ``"lecun"``.
    :param time_features: 1 for raw time, or an even number of sinusoidal features.
    :param time_frequencies: their lowest and highest frequency, in rad per unit of t.
    :param time_grid: training draws t from {0, 1/n, …, 1}; None: from all of [0, 1].
    :param flow_steps: K ≥ 1, Euler steps from noise to action.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: Arch | None = None,
        activation_fn: str | type[nn.Module] = "gelu-tanh",
        actor_layer_norm: bool | int = False,
        actor_output_init: OutputInit = "xavier",
        time_features: int = 1,
        time_frequencies: Sequence[float] = (1.0, 1000.0),
        time_grid: int | None = None,
        flow_steps: int = 10,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            observation_space, action_space, lr_schedule, net_arch=net_arch, activation_fn=activation_fn, **kwargs
        )
        for name, value in (("flow_steps", flow_steps), ("time_grid", time_grid)):
            if value is not None:
                require_whole_number(name, value, 1)
        if len(time_frequencies) != 2:
            raise ValueError(f"time_frequencies are {list(time_frequencies)}, expected the lowest and the highest")
        self.actor_layer_norm = actor_layer_norm
        self.actor_output_init: OutputInit = actor_output_init
        self.time_features = time_features
        self.time_frequencies = (float(time_frequencies[0]), float(time_frequencies[1]))
        self.time_grid = time_grid
        self.flow_steps = flow_steps

    def velocity_arguments(self, features_dim: int) -> dict[str, Any]:
        """The arguments of a head of :mod:`~dipole_sb3.networks.velocities`."""
        return {
            "features_dim": features_dim,
            "action_dim": self.action_dim,
            "net_arch": self.actor_arch,
            "activation_fn": self.activation_fn,
            "layer_norm": self.actor_layer_norm,
            "time_features": self.time_features,
            "time_frequencies": self.time_frequencies,
            "norm_order": self.norm_order,
            "output_init": self.actor_output_init,
        }

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        names = (
            "actor_layer_norm",
            "actor_output_init",
            "time_features",
            "time_frequencies",
            "time_grid",
            "flow_steps",
        )
        return {**data, **{name: getattr(self, name) for name in names}}

    def architecture(self) -> Mapping[str, Any]:
        names = ("flow_steps", "time_features", "time_frequencies", "time_grid")
        return {**{name: getattr(self, name) for name in names}, **super().architecture()}
