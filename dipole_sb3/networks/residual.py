"""A residual network with layer normalisation and dropout, which predicts the noise in an action."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dipole_sb3.networks.stacked_mlp import (
    ACTIVATIONS,
    StackedLayer,
    StackedLayerNorm,
    StackedLinear,
    lecun_normal_,
    no_autocast,
)

EXPANSION = 4
"""A block's inner width over its outer one."""


class StackedFourier(StackedLayer):
    """Frequencies of independent, learned Fourier features of one number.

    ======  ==========================================================
    weight  [members, 1, features / 2], normal with deviation 0.2
    ======  ==========================================================
    """

    def __init__(self, members: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.2 * torch.randn(members, 1, features // 2))


class NoisePredictor(nn.Module):
    """ε̂(observation features, x_t, t): the noise in x_t.

    The step t becomes Fourier features and, through two layers, a code. Observation, x_t and code go through a linear
    layer and residual blocks of dropout → layer norm → linear (4 times as wide) → Mish → linear. Dropout is given as
    masks, so that all randomness of an update is drawn in one place.

    :param features_dim: width of the observation features.
    :param action_dim: width of the action.
    :param width: of the blocks' outputs.
    :param blocks: number of residual blocks.
    :param time_features: even, number of Fourier features.
    :param code: width of the time's code.
    """

    def __init__(
        self,
        features_dim: int,
        action_dim: int,
        width: int = 256,
        blocks: int = 3,
        time_features: int = 64,
        code: int = 128,
    ) -> None:
        super().__init__()
        self.width, self.blocks = width, blocks
        self.frequencies = StackedFourier(1, time_features)
        self.time = nn.ModuleList([StackedLinear(1, time_features, code), StackedLinear(1, code, code)])
        self.input = StackedLinear(1, features_dim + action_dim + code, width)
        self.norms = nn.ModuleList(StackedLayerNorm(1, width) for _ in range(blocks))
        self.wide = nn.ModuleList(StackedLinear(1, width, EXPANSION * width) for _ in range(blocks))
        self.narrow = nn.ModuleList(StackedLinear(1, EXPANSION * width, width) for _ in range(blocks))
        self.output = StackedLinear(1, width, action_dim)
        # As in the authors' code: the blocks' layers begin as flax's do by itself, the others Xavier-uniform.
        for layer in (*self.wide, *self.narrow):
            lecun_normal_(layer)

    def forward(self, features: Tensor, x: Tensor, step: Tensor, masks: Tensor | None = None) -> Tensor:
        """The noise in x_t.

        :param features: shape [..., batch, features].
        :param x: x_t, shape [..., batch, action].
        :param step: t, shape [..., batch, 1].
        :param masks: dropout's factors, shape [..., batch, blocks · width]; None: no dropout.
        :return: shape [..., batch, action].
        """
        alone = x.dim() == 2
        parts = [part.unsqueeze(0) if alone else part for part in (features, x, step)]
        factors: Sequence[Tensor | None] = [None] * self.blocks
        if masks is not None and self.blocks:
            factors = (masks.unsqueeze(0) if alone else masks).chunk(self.blocks, dim=-1)
        features, x, step = (part.to(self.input.weight.dtype) for part in parts)
        with no_autocast(x.device):
            angles = 2.0 * math.pi * torch.bmm(step, self.frequencies.weight.expand(len(step), -1, -1))
            code = torch.cat([angles.cos(), angles.sin()], dim=-1)
            code = _linear(self.time[1], mish(_linear(self.time[0], code)))
            h = _linear(self.input, torch.cat([features, x, code], dim=-1))
        for norm, wide, narrow, factor in zip(self.norms, self.wide, self.narrow, factors, strict=True):
            inner = h if factor is None else h * factor
            h = h + _hidden(narrow, mish(_hidden(wide, _normalised(norm, inner))))
        with no_autocast(x.device):
            noise = _linear(self.output, mish(h))
        return noise.squeeze(0) if alone else noise


mish = ACTIVATIONS["mish"]


def _linear(layer: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(layer, StackedLinear)
    return torch.baddbmm(layer.bias, x, layer.weight)


def _normalised(layer: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(layer, StackedLayerNorm)
    return torch.addcmul(layer.bias, functional.layer_norm(x, x.shape[-1:], eps=1e-6), layer.weight)


def _hidden(layer: nn.Module, x: Tensor) -> Tensor:
    """Inside autocast, the product in its type; the sum with the bias in single precision."""
    assert isinstance(layer, StackedLinear)
    if not torch.is_autocast_enabled(x.device.type):
        return _linear(layer, x)
    narrow = torch.get_autocast_dtype(x.device.type)
    return layer.bias + torch.bmm(x.to(narrow), layer.weight.to(narrow))
