"""Heads, which read features: velocity pairs, actions, and the values Q and V; shapes as in :mod:`stacked_mlp`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dipole_sb3.networks.flow import Velocity
from dipole_sb3.networks.stacked_mlp import StackedMLP


def time_embedding(time: Tensor, features: int) -> Tensor:
    """Raw time (features = 1) or sines and cosines of it at geometrically spaced frequencies from 1 to 1000 rad.

    :param time: t in [0, 1], shape [..., 1].
    :param features: 1, or an even number.
    :return: shape [..., features].
    """
    if features == 1:
        return time
    frequencies = torch.logspace(0.0, 3.0, features // 2, dtype=time.dtype, device=time.device)
    angles = time * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class VelocityPair(nn.Module):
    """v⁺ and v⁻, the first and the second member: two velocity fields v(observation features, x_t, t).

    :param features_dim: width of the observation features.
    :param action_dim: width of the action.
    :param time_features: 1 for raw time, else an even number of sinusoidal features.
    """

    def __init__(
        self,
        features_dim: int,
        action_dim: int,
        net_arch: Sequence[int],
        activation_fn: str | type[nn.Module],
        layer_norm: bool = False,
        time_features: int = 1,
    ) -> None:
        super().__init__()
        if time_features != 1 and (time_features < 2 or time_features % 2):
            raise ValueError(f"time_features must be 1 or an even number, found {time_features}")
        self.time_features = time_features
        in_features = features_dim + action_dim + time_features
        self.mlp = StackedMLP(2, in_features, action_dim, net_arch, activation_fn, layer_norm)

    def forward(self, features: Tensor, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Both velocities at one point, in one pass.

        :param features: shape [..., batch, features].
        :param x: x_t, shape [..., batch, action].
        :param time: t in [0, 1], shape [..., batch, 1] or a scalar.
        :return: (v⁺, v⁻), each of shape [..., batch, action].
        """
        positive, negative = self.mlp(torch.cat([features, self._with_time(x, time)], dim=-1)).unbind(-3)
        return positive, negative

    def fields(self, features: Tensor) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Both velocity fields at fixed features: (x, t) → (v⁺, v⁻); shapes as in :meth:`forward`."""
        both = self._at(features, None)

        def pair(x: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
            positive, negative = both(x, time).unbind(-3)
            return positive, negative

        return pair

    def positive_field(self, features: Tensor) -> Velocity:
        """v⁺ alone at fixed features, at half the cost of both: (x, t) → v⁺; shapes as in :meth:`forward`."""
        return self._at(features, 0)

    def negative_field(self, features: Tensor) -> Velocity:
        """v⁻ alone at fixed features, at half the cost of both: (x, t) → v⁻; shapes as in :meth:`forward`."""
        return self._at(features, 1)

    def _at(self, features: Tensor, member: int | None) -> Velocity:
        perceptrons = self.mlp.with_fixed(features, member)
        return lambda x, time: perceptrons(self._with_time(x, time))

    def _with_time(self, x: Tensor, time: Tensor) -> Tensor:
        embedded = time_embedding(time if time.dim() else time.reshape(1), self.time_features)
        return torch.cat([x, embedded.expand(*x.shape[:-1], -1)], dim=-1)


class QEnsemble(nn.Module):
    """Critics Q(observation features, action).

    :param n_critics: number of critics.
    """

    def __init__(
        self,
        features_dim: int,
        action_dim: int,
        net_arch: Sequence[int],
        activation_fn: str | type[nn.Module],
        n_critics: int = 2,
    ) -> None:
        super().__init__()
        self.mlp = StackedMLP(n_critics, features_dim + action_dim, 1, net_arch, activation_fn, layer_norm=True)

    def forward(self, features: Tensor, actions: Tensor) -> Tensor:
        """[..., batch, features], actions in [−1, 1] of shape [..., batch, action] → returns [..., critics, batch]."""
        returns: Tensor = self.mlp(torch.cat([features, actions], dim=-1))
        return returns.squeeze(-1)


class StateValue(nn.Module):
    """V(observation features)."""

    def __init__(self, features_dim: int, net_arch: Sequence[int], activation_fn: str | type[nn.Module]) -> None:
        super().__init__()
        self.mlp = StackedMLP(1, features_dim, 1, net_arch, activation_fn, layer_norm=True)

    def forward(self, features: Tensor) -> Tensor:
        """[..., batch, features] → returns, shape [..., batch]."""
        returns: Tensor = self.mlp(features)
        return returns.squeeze(-1).squeeze(-2)


class DeterministicActor(nn.Module):
    """π(observation features): one action, which its policy clips to [−1, 1].

    :param features_dim: width of the observation features.
    :param action_dim: width of the action.
    :param output_scale: factor on the last layer's initial weights; if it is small, the first actions are near 0.
    """

    def __init__(
        self,
        features_dim: int,
        action_dim: int,
        net_arch: Sequence[int],
        activation_fn: str | type[nn.Module],
        layer_norm: bool = False,
        output_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.mlp = StackedMLP(1, features_dim, action_dim, net_arch, activation_fn, layer_norm)
        with torch.no_grad():
            self.mlp.output.weight.mul_(output_scale)

    def forward(self, features: Tensor) -> Tensor:
        """[..., batch, features] → actions, not clipped, shape [..., batch, action]."""
        actions: Tensor = self.mlp(features)
        return actions.squeeze(-3)
