"""Heads that give the velocities of flow policies: one field, a pair, or one that is conditioned on a class.

Shapes as in :mod:`stacked_mlp`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from dipole_sb3.networks.flow import Velocity, guide, sample_actions
from dipole_sb3.networks.stacked_mlp import NormOrder, OutputInit, StackedEmbedding, StackedMLP

Pair = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(x, t) → (v⁺, v⁻), shapes as of :data:`~dipole_sb3.networks.flow.Velocity`."""


def time_embedding(time: Tensor, features: int, lowest: float = 1.0, highest: float = 1000.0) -> Tensor:
    """Raw time (features = 1) or sines and cosines of it at geometrically spaced frequencies.

    :param time: t in [0, 1], shape [..., 1].
    :param features: 1, or an even number.
    :param lowest: the lowest frequency, in rad per unit of t.
    :param highest: the highest frequency.
    :return: shape [..., features].
    """
    if features == 1:
        return time
    ends = math.log10(lowest), math.log10(highest)
    frequencies = torch.logspace(*ends, features // 2, dtype=time.dtype, device=time.device)
    angles = time * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class _Velocities(nn.Module):
    """Velocity fields of one input: a stack of perceptrons of features, x_t and t.

    :param features_dim: width of the observation features.
    :param action_dim: width of the action.
    :param layer_norm: as of :class:`~dipole_sb3.networks.stacked_mlp.StackedMLP`, like ``norm_order``, ``output_init``.
    :param time_features: 1 for raw time, else an even number of sinusoidal features.
    :param time_frequencies: the lowest and the highest of them, in rad per unit of t.
    """

    members: ClassVar[int]
    """Number of fields."""
    more_inputs: ClassVar[int] = 0
    """Inputs after features, x_t and t."""

    def __init__(
        self,
        features_dim: int,
        action_dim: int,
        net_arch: Sequence[int],
        activation_fn: str | type[nn.Module],
        layer_norm: bool | int = False,
        time_features: int = 1,
        time_frequencies: tuple[float, float] = (1.0, 1000.0),
        norm_order: NormOrder = "after",
        output_init: OutputInit = "xavier",
    ) -> None:
        super().__init__()
        lowest, highest = time_frequencies
        if not 0 < lowest < highest < math.inf:
            raise ValueError(f"time_frequencies are {lowest:g} and {highest:g}, expected 0 < lowest < highest")
        self.time_frequencies = (float(lowest), float(highest))
        if time_features != 1 and (time_features < 2 or time_features % 2):
            raise ValueError(f"time_features must be 1 or an even number, found {time_features}")
        self.time_features = time_features
        in_features = features_dim + action_dim + time_features + self.more_inputs
        self.mlp = StackedMLP(
            self.members, in_features, action_dim, net_arch, activation_fn, layer_norm, norm_order, output_init
        )

    def _all(self, features: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """Velocities [..., members, batch, action]."""
        velocities: Tensor = self.mlp(torch.cat([features, self._with_time(x, time)], dim=-1))
        return velocities

    def _at(self, features: Tensor, member: int | None) -> Velocity:
        perceptrons = self.mlp.with_fixed(features, member)
        return lambda x, time: perceptrons(self._with_time(x, time))

    def embedded(self, time: Tensor) -> Tensor:
        """The features of t: [..., 1] → [..., time features]."""
        return time_embedding(time, self.time_features, *self.time_frequencies)

    def _with_time(self, x: Tensor, time: Tensor) -> Tensor:
        embedded = self.embedded(time if time.dim() else time.reshape(1))
        return torch.cat([x, embedded.expand(*x.shape[:-1], -1)], dim=-1)


class VelocityField(_Velocities):
    """One velocity field v(observation features, x_t, t)."""

    members = 1

    def forward(self, features: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """The velocity at one point.

        :param features: shape [..., batch, features].
        :param x: x_t, shape [..., batch, action].
        :param time: t in [0, 1], shape [..., batch, 1] or a scalar.
        :return: shape [..., batch, action].
        """
        return self._all(features, x, time).squeeze(-3)

    def field(self, features: Tensor) -> Velocity:
        """The field at fixed features: (x, t) → v; shapes as in :meth:`forward`."""
        return self._at(features, 0)


class VelocityPair(_Velocities):
    """v⁺ and v⁻, the first and the second member: two velocity fields v(observation features, x_t, t)."""

    members = 2

    def forward(self, features: Tensor, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Both velocities at one point, in one pass.

        :param features: shape [..., batch, features].
        :param x: x_t, shape [..., batch, action].
        :param time: t in [0, 1], shape [..., batch, 1] or a scalar.
        :return: (v⁺, v⁻), each of shape [..., batch, action].
        """
        positive, negative = self._all(features, x, time).unbind(-3)
        return positive, negative

    def fields(self, features: Tensor) -> Pair:
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


class ConditionalVelocity(_Velocities):
    """One velocity field v(observation features, x_t, t, c) of two classes: c = 1, what is sought, and c = 0, all data.

    Its two fields are guided like those of a :class:`VelocityPair`: v(c = 1) is the first, v(c = 0) the second.
    """

    members = 1
    more_inputs = 32

    def __init__(self, features_dim: int, action_dim: int, *arguments: Any, **more: Any) -> None:
        super().__init__(features_dim, action_dim, *arguments, **more)
        self.classes = StackedEmbedding(1, 2, self.more_inputs)

    def forward(self, features: Tensor, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """(v(c = 1), v(c = 0)) at one point, in one pass; shapes as of :class:`VelocityPair`."""
        inputs = torch.cat([features, self._with_time(x, time)], dim=-1)
        sought, unconditional = self.mlp(self._of_both(inputs)).squeeze(-3).chunk(2, dim=-2)
        return sought, unconditional

    def fields(self, features: Tensor) -> Pair:
        """Both fields at fixed features: (x, t) → (v(c = 1), v(c = 0)); shapes as in :meth:`forward`."""
        both = self.mlp.with_fixed(torch.cat([features, features], dim=-2), 0)

        def pair(x: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
            sought, unconditional = both(self._of_both(self._with_time(x, time))).chunk(2, dim=-2)
            return sought, unconditional

        return pair

    def positive_field(self, features: Tensor) -> Velocity:
        """v(c = 1) alone at fixed features."""
        return self._of_class(1, features)

    def negative_field(self, features: Tensor) -> Velocity:
        """v(c = 0) alone at fixed features."""
        return self._of_class(0, features)

    def _of_class(self, index: int, features: Tensor) -> Velocity:
        perceptron = self.mlp.with_fixed(features, 0)
        return lambda x, time: perceptron(self._in_class(index, self._with_time(x, time)))

    def _of_both(self, inputs: Tensor) -> Tensor:
        return torch.cat([self._in_class(1, inputs), self._in_class(0, inputs)], dim=-2)

    def _in_class(self, index: int, inputs: Tensor) -> Tensor:
        return torch.cat([inputs, self.classes.of(index, inputs)], dim=-1)


class GuidableHead(Protocol):
    """A head with two velocity fields, of which the positive one is followed and the negative one fled."""

    def fields(self, features: Tensor) -> Pair: ...

    def positive_field(self, features: Tensor) -> Velocity: ...

    def negative_field(self, features: Tensor) -> Velocity: ...


def sample_guided(
    head: GuidableHead, features: Tensor, noise: Tensor, omega: float | Tensor, flow_steps: int
) -> Tensor:
    """Actions of a guided pair from given noise; only the networks that ω needs are evaluated.

    :param features: the actor's features, shape [..., batch, features].
    :param noise: x₀, shape [..., batch, action].
    :param omega: ω ≥ −1: a number, or one per row as a tensor of shape [batch, 1].
    :param flow_steps: K ≥ 1, Euler steps.
    :return: actions in [−1, 1], shape [..., batch, action].
    """
    # Only a number decides which networks run: a branch on a tensor's value would wait for the device.
    number = None if isinstance(omega, Tensor) else omega
    if number == 0:
        velocity = head.positive_field(features)
    elif number == -1:
        velocity = head.negative_field(features)
    else:
        pair = head.fields(features)

        def velocity(x: Tensor, time: Tensor) -> Tensor:
            positive, negative = pair(x, time)
            return guide(positive, negative, omega)

    return sample_actions(velocity, noise, flow_steps)
