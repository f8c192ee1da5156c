"""Networks: stacks of multi-layer perceptrons that run as one batched product, the velocity pair, Q and V.

The two velocity fields, and the two critics, have the same shape and read the same input, so each pair is stored as one
stack of parameters [members, in, out]. That halves the number of kernels of an update without changing the mathematics,
and the members stay independent: initialisation, gradients and the optimiser treat them apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

Activation = Callable[[Tensor], Tensor]


def _gelu_tanh(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Activation] = {
    "gelu-tanh": _gelu_tanh,
    "gelu": functional.gelu,
    "tanh": torch.tanh,
    "mish": functional.mish,
    "relu": torch.relu,
    "silu": functional.silu,
}


def make_activation(activation: str | type[nn.Module]) -> Activation:
    """Activation from its name (as configurations write it) or from a torch module class (as SB3's users write it).

    :raises ValueError: for an unknown name.
    """
    if not isinstance(activation, str):
        return activation()
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"unknown activation_fn {activation!r}: expected one of {sorted(ACTIVATIONS)} or a torch module class"
        )
    return ACTIVATIONS[activation]


class StackedLinear(nn.Module):
    """Several independent linear layers as one batched product.

    =========  =============================
    weight     [members, in, out], Xavier-uniform
    bias       [members, 1, out], zero
    input      [batch, in] (shared by all members) or [members, batch, in]
    output     [members, batch, out]
    =========  =============================
    """

    def __init__(self, members: int, in_features: int, out_features: int) -> None:
        super().__init__()
        bound = math.sqrt(6.0 / (in_features + out_features))
        self.weight = nn.Parameter(torch.empty(members, in_features, out_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(members, 1, out_features))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            x = x.expand(self.weight.shape[0], -1, -1)
        return torch.baddbmm(self.bias, x, self.weight)

    def member(self, x: Tensor, index: int) -> Tensor:
        """One member's layer on [batch, in], giving [batch, out]."""
        return torch.addmm(self.bias[index], x, self.weight[index])


class StackedLayerNorm(nn.Module):
    """Layer normalisation with a scale and an offset per member; ε = 1e-6 as in the authors' code base."""

    def __init__(self, members: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, 1, features))
        self.bias = nn.Parameter(torch.zeros(members, 1, features))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, functional.layer_norm(x, x.shape[-1:], eps=1e-6), self.weight)

    def member(self, x: Tensor, index: int) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.weight[index, 0], self.bias[index, 0], eps=1e-6)


class StackedMLP(nn.Module):
    """Several independent perceptrons: (linear → activation → optional layer norm) per hidden layer, then linear.

    :param members: number of perceptrons.
    :param in_features: width of the input.
    :param out_features: width of the output, not squashed.
    :param net_arch: hidden widths.
    :param activation_fn: name or module class, see :func:`make_activation`.
    :param layer_norm: normalise after each hidden activation.
    """

    def __init__(
        self,
        members: int,
        in_features: int,
        out_features: int,
        net_arch: Sequence[int],
        activation_fn: str | type[nn.Module],
        layer_norm: bool,
    ) -> None:
        super().__init__()
        widths = [in_features, *net_arch]
        self.hidden = nn.ModuleList(StackedLinear(members, a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(StackedLayerNorm(members, width) for width in net_arch) if layer_norm else None
        self.output = StackedLinear(members, widths[-1], out_features)
        self.activation = make_activation(activation_fn)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in] or [members, batch, in] → [members, batch, out]."""
        for index, linear in enumerate(self.hidden):
            x = self.activation(linear(x))
            if self.norms is not None:
                x = self.norms[index](x)
        return self.output(x)  # type: ignore[no-any-return]

    def member(self, x: Tensor, index: int) -> Tensor:
        """One member alone: [batch, in] → [batch, out], at the cost of one perceptron."""
        for depth, linear in enumerate(self.hidden):
            x = self.activation(linear.member(x, index))  # type: ignore[operator]
            if self.norms is not None:
                x = self.norms[depth].member(x, index)  # type: ignore[operator]
        return self.output.member(x, index)


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
    """v⁺ and v⁻: two velocity fields v(observation features, x_t, t), member 0 positive, member 1 negative.

    :param features_dim: width of the observation features.
    :param action_dim: width of the action.
    :param time_features: 1 for raw time, else an even number of sinusoidal features.
    """

    POSITIVE = 0
    NEGATIVE = 1

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

    def _input(self, features: Tensor, x: Tensor, time: Tensor) -> Tensor:
        embedded = time_embedding(time.reshape(-1, 1), self.time_features)
        return torch.cat([features, x, embedded.expand(*x.shape[:-1], -1)], dim=-1)

    def forward(self, features: Tensor, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Both velocities on the same input, in one pass.

        :param features: shape [batch, features].
        :param x: x_t, shape [batch, action].
        :param time: t in [0, 1], shape [batch, 1] or a scalar.
        :return: (v⁺, v⁻), each of shape [batch, action].
        """
        positive, negative = self.mlp(self._input(features, x, time)).unbind(0)
        return positive, negative

    def positive(self, features: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """v⁺ alone, at half the cost of both; arguments as in :meth:`forward`."""
        return self.mlp.member(self._input(features, x, time), self.POSITIVE)

    def negative(self, features: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """v⁻ alone, at half the cost of both; arguments as in :meth:`forward`."""
        return self.mlp.member(self._input(features, x, time), self.NEGATIVE)


class QEnsemble(nn.Module):
    """Two critics Q(observation features, action)."""

    def __init__(
        self, features_dim: int, action_dim: int, net_arch: Sequence[int], activation_fn: str | type[nn.Module]
    ) -> None:
        super().__init__()
        self.mlp = StackedMLP(2, features_dim + action_dim, 1, net_arch, activation_fn, layer_norm=True)

    def forward(self, features: Tensor, actions: Tensor) -> Tensor:
        """[batch, features] and actions in [−1, 1] of shape [batch, action] → returns, shape [2, batch]."""
        return self.mlp(torch.cat([features, actions], dim=-1)).squeeze(-1)  # type: ignore[no-any-return]


class StateValue(nn.Module):
    """V(observation features)."""

    def __init__(self, features_dim: int, net_arch: Sequence[int], activation_fn: str | type[nn.Module]) -> None:
        super().__init__()
        self.mlp = StackedMLP(1, features_dim, 1, net_arch, activation_fn, layer_norm=True)

    def forward(self, features: Tensor) -> Tensor:
        """[batch, features] → returns, shape [batch]."""
        return self.mlp.member(features, 0).squeeze(-1)
