"""Diffusion policies as modules with the inputs and outputs of a robot's program; see :mod:`graphs`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch.nn import functional

from dipole_export.graphs import CandidatePolicy, Critic, frozen
from dipole_export.observed import Source
from dipole_sb3.networks.acting_forms import Diffusion
from dipole_sb3.networks.residual import NoisePredictor, mish
from dipole_sb3.networks.stacked_mlp import StackedLayerNorm, StackedLinear


class Denoiser(nn.Module):
    """ε̂ with plain matrices, its first layer split by the parts of its input.

    :param head: the predictor.
    :param features: width of the observation features.
    :param action: width of the action.
    """

    def __init__(self, head: NoisePredictor, features: int, action: int) -> None:
        super().__init__()
        time, wide, narrow = (cast("list[StackedLinear]", list(each)) for each in (head.time, head.wide, head.narrow))
        later = [*chain.from_iterable(zip(wide, narrow, strict=True)), head.output]
        columns = [features, action, time[-1].weight.shape[-1]]
        (self.frequencies,) = frozen([head.frequencies.weight[0]])
        self.time_weights = frozen(layer.weight[0] for layer in time)
        self.time_biases = frozen(layer.bias[0, 0] for layer in time)
        self.inputs = frozen(torch.split(head.input.weight[0], columns))
        self.weights = frozen(layer.weight[0] for layer in later)
        self.biases = frozen(layer.bias[0, 0] for layer in (head.input, *later))
        norms = cast("Iterable[StackedLayerNorm]", head.norms)
        self.scales, self.offsets = (frozen(getattr(norm, name)[0, 0] for norm in norms) for name in ("weight", "bias"))

    def share(self, features: Tensor, step: Tensor) -> Tensor:
        """The first layer's sum without x_t: features [1 or batch, features], t [batch, 1] → [batch, width]."""
        angles = 2.0 * math.pi * (step @ self.frequencies)
        code = torch.cat([angles.cos(), angles.sin()], dim=-1)
        code = mish(torch.addmm(self.time_biases[0], code, self.time_weights[0]))
        code = torch.addmm(self.time_biases[1], code, self.time_weights[1])
        return torch.addmm(torch.addmm(self.biases[0], features, self.inputs[0]), code, self.inputs[2])

    def forward(self, share: Tensor, x: Tensor) -> Tensor:
        """Output of :meth:`share` [1 or batch, width], x_t [batch, action] → the noise in it, [batch, action]."""
        return self.traced(share, x)[1]

    def traced(self, share: Tensor, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """The inputs of every layer after the first, each [batch, in of the layer], and the output."""
        inputs = []

        def layer(depth: int, x: Tensor) -> Tensor:
            inputs.append(x)
            return torch.addmm(self.biases[depth + 1], x, self.weights[depth])

        h = torch.addmm(share, x, self.inputs[1])
        for block, (scale, offset) in enumerate(zip(self.scales, self.offsets, strict=True)):
            normalised = functional.layer_norm(h, h.shape[-1:], scale, offset, eps=1e-6)
            h = h + layer(2 * block + 1, mish(layer(2 * block, normalised)))
        return inputs, layer(2 * len(self.scales), mish(h))


class PredictedNoise(nn.Module):
    """ε̂ as a function of a raw observation, x_t and t."""

    def __init__(self, source: Source[Diffusion]) -> None:
        super().__init__()
        self.observation = source.observation(source.form.actor)
        self.denoiser = denoiser_of(source)

    def forward(self, observation: Tensor, action_t: Tensor, step: Tensor) -> Tensor:
        """Observations [batch, observation], x_t [batch, action], t [batch, 1] → noise [batch, action]."""
        noise: Tensor = self.denoiser(self.denoiser.share(self.observation(observation), step), action_t)
        return noise


class DiffusionPolicy(CandidatePolicy):
    """The complete policy for one observation: N candidates by T denoising steps, and the critic's choice.

    There is no ω: its graph has the input, and does not read it.
    """

    def __init__(self, source: Source[Diffusion]) -> None:
        super().__init__()
        schedule = source.form.schedule
        self.observation = source.observation(source.form.actor)
        self.denoiser = denoiser_of(source)
        self.critic = Critic(source)
        steps = list(zip(range(1, len(schedule.betas) + 1), schedule.betas, schedule.kept, strict=True))[::-1]
        self.times = nn.Buffer(torch.tensor([[float(step)] for step, _, _ in steps]))
        numbers = [
            (beta / math.sqrt(1.0 - kept), math.sqrt(1.0 - beta), math.sqrt(beta) if step > 1 else 0.0)
            for step, beta, kept in steps
        ]
        self.numbers = nn.Buffer(torch.tensor(numbers))
        """Of each step: the factor of the predicted noise, the divisor, the factor of the noise that it adds."""

    def sampled(self, features: Tensor, noise: Tensor, omega: Tensor) -> Tensor:
        def step(x: Tensor, of_step: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            share, added, numbers = of_step
            predicted = self.denoiser(share, x)
            # Scan requires an output at every step; this one is not used.
            return self.stepped(x, predicted, added, numbers), predicted

        start, added = self.start_and_added(noise)
        end, _ = scan(step, start, (self.denoiser.share(features, self.times), added, self.numbers))
        return end  # type: ignore[no-any-return]

    def start_and_added(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Noise [rows, T · action] → x_T [rows, action], and z of each step, [T, rows, action]; the last adds none."""
        parts = noise.reshape(noise.shape[0], len(self.times), -1).transpose(0, 1)
        # Scan takes what it carries as it returns it: contiguous.
        return parts[0].contiguous(), torch.cat([parts[1:], parts[:1]])

    def stepped(self, x: Tensor, predicted: Tensor, added: Tensor, numbers: Tensor) -> Tensor:
        """x_t [rows, action], its predicted noise, what is added, and the step's numbers [3] → x_(t−1)."""
        factor, divisor, spread = numbers.unbind()
        return ((x - factor * predicted) / divisor + spread * added).clamp(-1.0, 1.0)


def denoiser_of(source: Source[Diffusion]) -> Denoiser:
    """The acting network's."""
    actor = source.form.actor
    return Denoiser(actor.head, actor.features_extractor.features_dim, len(source.low))
