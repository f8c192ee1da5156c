"""The decoder: a diffusion transformer that says which noise is in a noised plan.

Shapes: A adapters are evaluated side by side (1 without any), S scenes, P plans of each, 8 waypoints a plan. What does
not depend on an adapter (time, history, their modulation of the layers) has no axis A and is computed once for all.

Source: adaLN-zero, "Scalable Diffusion Models with Transformers" (arXiv 2212.09748).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dipole_sb3.driving.model.adapters import adapted
from dipole_sb3.driving.model.configuration import ACTION, HISTORY, Configuration
from dipole_sb3.driving.model.diffusion import alpha_and_sigma

Memory = list[tuple[Tensor, Tensor]]
"""Keys and values [A, S, heads, tokens, width / heads] of every block's cross-attention."""


class SelfAttention(nn.Module):
    """Between the waypoints of one plan."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, adapters: Sequence[str]) -> Tensor:
        q, k, v = (_divided(each, self.heads) for each in adapted(self.qkv, x, adapters).chunk(3, dim=-1))
        return adapted(self.out, _merged(_attention(q, k, v)), adapters)


class CrossAttention(nn.Module):
    """From the waypoints to the scene's tokens, whose keys and values are the same for all plans and times."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def remember(self, tokens: Tensor, adapters: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Keys and values of tokens [S, T, width]."""
        k, v = (_divided(adapted(linear, tokens[None], adapters), self.heads) for linear in (self.k, self.v))
        return k, v

    def forward(self, x: Tensor, memory: tuple[Tensor, Tensor], adapters: Sequence[str]) -> Tensor:
        # The waypoints of all plans of a scene ask together: its keys and values are not repeated for each plan.
        q = _divided(adapted(self.q, x, adapters).flatten(2, 3), self.heads)
        answers = _merged(_attention(q, *memory))
        return adapted(self.out, answers.reshape(answers.shape[:2] + x.shape[2:]), adapters)


class Perceptron(nn.Module):
    """Two linear maps with a GELU between them; four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, adapters: Sequence[str]) -> Tensor:
        return adapted(self.down, functional.gelu(adapted(self.up, x, adapters), approximate="tanh"), adapters)


class Block(nn.Module):
    """Self-attention, MLP, cross-attention, MLP: each shifted, scaled and gated by time and history (12 chunks)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attention = SelfAttention(width, heads)
        self.first_mlp = Perceptron(width)
        self.cross_attention = CrossAttention(width, heads)
        self.second_mlp = Perceptron(width)
        self.modulation = nn.Linear(width, 12 * width)

    def forward(self, x: Tensor, condition: Tensor, memory: tuple[Tensor, Tensor], adapters: Sequence[str]) -> Tensor:
        chunks = self.modulation(condition).chunk(12, dim=-1)
        x = x + chunks[2] * self.self_attention(_modulated(x, *chunks[0:2]), adapters)
        x = x + chunks[5] * self.first_mlp(_modulated(x, *chunks[3:5]), adapters)
        x = x + chunks[8] * self.cross_attention(_modulated(x, *chunks[6:8]), memory, adapters)
        out: Tensor = x + chunks[11] * self.second_mlp(_modulated(x, *chunks[9:11]), adapters)
        return out


class Decoder(nn.Module):
    """ε̂(x_t, t | scene), the noise in normalised plans.

    ε̂ = σ(t)·x + α(t)·F(x, t), with F the transformer's answer. Near t = 1 a plan is (x − σ·ε̂)/α with α = 0.007: were
    ε̂ the transformer's own answer, an error of one per cent in it would move the plan by one and a half spreads of the
    data. Fresh, F is zero whatever it is asked (adaLN-zero).

    :param configuration: sizes.
    """

    def __init__(self, configuration: Configuration) -> None:
        super().__init__()
        width, self.frequencies = configuration.width, configuration.frequencies
        self.enter = nn.Linear(ACTION[1], width)
        self.places = nn.Parameter(torch.empty(ACTION[0], width))
        self.time = nn.Sequential(nn.Linear(self.frequencies, width), nn.SiLU(), nn.Linear(width, width))
        self.history = nn.Sequential(nn.Linear(math.prod(HISTORY), width), nn.SiLU(), nn.Linear(width, width))
        blocks = [Block(width, configuration.heads) for _ in range(configuration.layers)]
        self.blocks: Sequence[Block] = nn.ModuleList(blocks)  # type: ignore[assignment]
        self.last_modulation = nn.Linear(width, 2 * width)
        last = nn.Linear(4 * width, ACTION[1])
        self.leave = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), last)
        self._initialise(last)

    def _initialise(self, last: nn.Linear) -> None:
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)
        nn.init.normal_(self.places, std=0.02)
        for linear in (*(block.modulation for block in self.blocks), self.last_modulation, last):
            nn.init.zeros_(linear.weight)

    def remember(self, tokens: Tensor, adapters: Sequence[str]) -> Memory:
        """Keys and values of a scene's tokens: once for all plans and all times.

        :param tokens: [S, tokens, width], from the encoder.
        :param adapters: names of the A adapters; none: the decoder itself, and A = 1.
        """
        return [block.cross_attention.remember(tokens, adapters) for block in self.blocks]

    def forward(self, x: Tensor, time: Tensor, history: Tensor, memory: Memory, adapters: Sequence[str]) -> Tensor:
        """
        :param x: [A or 1, S, P, 8, 4], noised plans, normalised.
        :param time: t in [0, 1], shape [S or 1, P or 1].
        :param history: [S, 4, 3], normalised.
        :param memory: of :meth:`remember`, for the same adapters.
        :return: [A, S, P, 8, 4].
        """
        # [S, P or 1, 1, width]: the same for all waypoints.
        embedded = self.time(_frequencies(time, self.frequencies)) + self.history(history.flatten(-2))[:, None]
        condition = functional.silu(embedded)[:, :, None]
        alpha, sigma = (each[..., None, None] for each in alpha_and_sigma(time))
        noised, x = x, self.enter(x) + self.places
        for block, remembered in zip(self.blocks, memory, strict=True):
            x = block(x, condition, remembered, adapters)
        answer: Tensor = self.leave(_modulated(x, *self.last_modulation(condition).chunk(2, dim=-1)))
        return sigma * noised + alpha * answer


def _frequencies(time: Tensor, count: int) -> Tensor:
    """cos and sin of t times 1 … 1/10,000."""
    half = torch.arange(count // 2, device=time.device, dtype=time.dtype) * (-math.log(10_000) / (count // 2))
    angles = time[..., None] * half.exp()
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Fused kernels want one leading axis."""
    one, keys, values = (each.flatten(0, -4) for each in (q, k, v))
    return functional.scaled_dot_product_attention(one, keys, values).reshape(q.shape)


def _divided(x: Tensor, heads: int) -> Tensor:
    """[..., n, width] → [..., heads, n, width / heads]."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads).transpose(-2, -3)


def _merged(heads: Tensor) -> Tensor:
    """[..., heads, n, width / heads] → [..., n, width]."""
    return heads.transpose(-2, -3).flatten(-2)
