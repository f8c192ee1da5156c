"""Heads, which read features: the values Q and V, and actions; shapes as in :mod:`stacked_mlp`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dipole_sb3.networks.stacked_mlp import NormOrder, OutputInit, StackedMLP


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
        norm_order: NormOrder = "after",
    ) -> None:
        super().__init__()
        self.mlp = StackedMLP(n_critics, features_dim + action_dim, 1, net_arch, activation_fn, True, norm_order)

    def forward(self, features: Tensor, actions: Tensor, frozen: bool = False) -> Tensor:
        """[..., batch, features], actions in [−1, 1] of shape [..., batch, action] → returns [..., critics, batch].

        :param frozen: gradients reach features and actions alone, not the critics' parameters.
        """
        returns: Tensor = self.mlp(torch.cat([features, actions], dim=-1), frozen)
        return returns.squeeze(-1)


class StateValue(nn.Module):
    """V(observation features)."""

    def __init__(
        self,
        features_dim: int,
        net_arch: Sequence[int],
        activation_fn: str | type[nn.Module],
        norm_order: NormOrder = "after",
    ) -> None:
        super().__init__()
        self.mlp = StackedMLP(1, features_dim, 1, net_arch, activation_fn, True, norm_order)

    def forward(self, features: Tensor) -> Tensor:
        """[..., batch, features] → returns, shape [..., batch]."""
        returns: Tensor = self.mlp(features)
        return returns.squeeze(-1).squeeze(-2)


class DeterministicActor(nn.Module):
    """π(observation features): one action; unless a tanh bounds it, its policy clips it to [−1, 1].

    :param features_dim: width of the observation features.
    :param action_dim: width of the action.
    :param output_scale: factor on the last layer's initial weights; if it is small, the first actions are near 0.
    :param squashed: whether a tanh follows the last layer.
    """

    def __init__(
        self,
        features_dim: int,
        action_dim: int,
        net_arch: Sequence[int],
        activation_fn: str | type[nn.Module],
        layer_norm: bool | int = False,
        output_scale: float = 1.0,
        squashed: bool = False,
        norm_order: NormOrder = "after",
    ) -> None:
        super().__init__()
        self.squashed = squashed
        self.mlp = StackedMLP(1, features_dim, action_dim, net_arch, activation_fn, layer_norm, norm_order)
        with torch.no_grad():
            self.mlp.output.weight.mul_(output_scale)

    def forward(self, features: Tensor) -> Tensor:
        """[..., batch, features] → actions, not clipped, shape [..., batch, action]."""
        actions: Tensor = self.mlp(features).squeeze(-3)
        return actions.tanh() if self.squashed else actions


class OneStepActor(nn.Module):
    """μ(observation features, z): an action from noise in one pass, which its policy clips to [−1, 1].

    :param features_dim: width of the observation features.
    :param action_dim: width of the action and of the noise.
    """

    def __init__(
        self,
        features_dim: int,
        action_dim: int,
        net_arch: Sequence[int],
        activation_fn: str | type[nn.Module],
        layer_norm: bool | int = False,
        norm_order: NormOrder = "after",
        output_init: OutputInit = "xavier",
    ) -> None:
        super().__init__()
        self.mlp = StackedMLP(
            1, features_dim + action_dim, action_dim, net_arch, activation_fn, layer_norm, norm_order, output_init
        )

    def forward(self, features: Tensor, noise: Tensor) -> Tensor:
        """[..., batch, features], z [..., batch, action] → actions, not clipped, shape [..., batch, action]."""
        actions: Tensor = self.mlp(torch.cat([features, noise], dim=-1))
        return actions.squeeze(-3)
