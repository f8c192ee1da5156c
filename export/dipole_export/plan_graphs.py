"""A driving agent as modules with the inputs and outputs of a car's program; each becomes one ONNX graph.

The encoder's: pictures and numbers become tokens. The planner's: tokens and noise become a plan for each ω; keys and
values of the tokens are computed once, and all steps of the solver are one Scan (see :mod:`dipole_export.graphs`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch.nn import functional

from dipole_export.graphs import frozen
from dipole_export.plan_text import ToldText
from dipole_sb3.driving.model import decoder, diffusion
from dipole_sb3.networks.flow import guide

if TYPE_CHECKING:
    from dipole_sb3.driving.model.encoder import Encoder
    from dipole_sb3.driving.model.planner import Planner


class SceneEncoder(nn.Module):
    """Pictures, motion and command → tokens.

    :param encoder: of the agent, on the CPU.
    :param text: what it is told.
    :param height: of the cameras' pictures, in pixels.
    :param width: likewise.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, encoder: Encoder, text: ToldText, height: int, width: int) -> None:
        super().__init__()
        self.encoder, self.text = encoder, text
        self.register_buffer("rows", _resizing(height, encoder.size))
        self.register_buffer("columns", _resizing(width, encoder.size).T.contiguous())
        self.is_resized = (height, width) != (encoder.size, encoder.size)

    def forward(self, cameras: Tensor, velocity: Tensor, acceleration: Tensor, command: Tensor) -> Tensor:
        """uint8 [cameras, height, width, 3], [2], [2] and int64 [] → [tokens, token size]."""
        pictures = cameras.float()
        if self.is_resized:
            # Fewer rows first: what is moved and multiplied afterwards is small.
            fewer = (self.rows @ pictures.flatten(2)).reshape(len(cameras), -1, *cameras.shape[2:])
            pictures = (fewer.transpose(2, 3) @ self.columns).clamp(0, 255).transpose(2, 3)
        told = self.text(command, velocity, acceleration)
        return self.encoder(pictures[None], told[None])[0]  # type: ignore[no-any-return]


def _resizing(size: int, to: int) -> Tensor:
    """[to, size]: the encoder's bicubic filter, which ONNX does not have, as a matrix for one axis."""
    return functional.interpolate(torch.eye(size)[None, None], (to, size), mode="bicubic", antialias=True)[0, 0]


class Adapted(nn.Module):
    """A linear map of the decoder with its LoRA adapters side by side: x·W + b + (x·A)·B.

    The frozen product is one for all adapters: both policies share its weights, which are nearly all of the bundle, and
    read them once. With the adapters merged into copies, the bundle would be twice as large, and no faster.

    :param linear: of the decoder, made by peft.
    :param adapters: names of the A adapters.
    """

    def __init__(self, linear: nn.Module, adapters: Sequence[str]) -> None:
        super().__init__()
        layer: Any = linear
        down = torch.stack([layer.lora_A[name].weight.T for name in adapters])
        up = torch.stack([layer.lora_B[name].weight.T * layer.scaling[name] for name in adapters])
        self.weight, self.bias, self.down, self.up = frozen(
            [layer.base_layer.weight.T, layer.base_layer.bias, down, up]
        )

    def forward(self, x: Tensor) -> Tensor:
        """[A or 1, rows, in] → [A, rows, out]."""
        product = torch.addmm(self.bias, x.flatten(0, 1), self.weight).reshape(*x.shape[:2], -1)
        return product + (x @ self.down) @ self.up  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """Between the waypoints of each plan."""

    def __init__(self, part: decoder.SelfAttention, adapters: Sequence[str]) -> None:
        super().__init__()
        self.heads = part.heads
        self.qkv, self.out = Adapted(part.qkv, adapters), Adapted(part.out, adapters)

    def forward(self, x: Tensor, poses: int) -> Tensor:
        """[A, plans · poses, width] → the same."""
        together = self.qkv(x).reshape(-1, poses, 3, self.heads, x.shape[-1] // self.heads)
        q, k, v = together.permute(2, 0, 3, 1, 4).unbind(0)
        answers = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.out(answers.reshape(x.shape))  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """From the waypoints of all plans to the scene's tokens."""

    def __init__(self, part: decoder.CrossAttention, adapters: Sequence[str]) -> None:
        super().__init__()
        self.heads = part.heads
        self.q, self.k, self.v, self.out = (Adapted(linear, adapters) for linear in (part.q, part.k, part.v, part.out))

    def remember(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [A, heads, tokens, width / heads] of tokens [1, tokens, width]."""
        return self._by_head(self.k(tokens)), self._by_head(self.v(tokens))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[A, rows, width] → the same."""
        answers = functional.scaled_dot_product_attention(self._by_head(self.q(x)), keys, values)
        return self.out(answers.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _by_head(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class Perceptron(nn.Module):
    """Two linear maps with a GELU between them."""

    def __init__(self, part: decoder.Perceptron, adapters: Sequence[str]) -> None:
        super().__init__()
        self.up, self.down = Adapted(part.up, adapters), Adapted(part.down, adapters)

    def forward(self, x: Tensor) -> Tensor:
        """[A, rows, width] → the same."""
        return self.down(functional.gelu(self.up(x), approximate="tanh"))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One block of the decoder, whose twelve modulations are given."""

    def __init__(self, part: decoder.Block, adapters: Sequence[str]) -> None:
        super().__init__()
        self.self_attention = SelfAttention(part.self_attention, adapters)
        self.first_mlp, self.second_mlp = Perceptron(part.first_mlp, adapters), Perceptron(part.second_mlp, adapters)
        self.cross_attention = CrossAttention(part.cross_attention, adapters)

    def forward(self, x: Tensor, chunks: Sequence[Tensor], keys: Tensor, values: Tensor, poses: int) -> Tensor:
        """[A, rows, width] → the same."""
        x = x + chunks[2] * self.self_attention(_modulated(x, *chunks[0:2]), poses)
        x = x + chunks[5] * self.first_mlp(_modulated(x, *chunks[3:5]))
        x = x + chunks[8] * self.cross_attention(_modulated(x, *chunks[6:8]), keys, values)
        return x + chunks[11] * self.second_mlp(_modulated(x, *chunks[9:11]))  # type: ignore[no-any-return]


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class PlanPolicy(nn.Module):
    """Tokens, history and noise → the plan for each ω.

    :param planner: of the agent, on the CPU.
    :param adapters: names of the pair, or of the one.
    :param steps: of the solver.
    """

    numbers: Tensor
    times: Tensor

    def __init__(self, planner: Planner, adapters: Sequence[str], steps: int) -> None:
        super().__init__()
        self.planner, self.adapters = planner, len(adapters)
        network = planner.decoder
        self.blocks = nn.ModuleList(Block(block, adapters) for block in network.blocks)
        schedule = diffusion.times(steps)
        numbers = torch.tensor([_numbers(*around) for around in _around(schedule)], dtype=torch.float64)
        self.register_buffer("numbers", numbers.float())
        with torch.no_grad():
            self.register_buffer(
                "times", network.time(decoder._frequencies(torch.tensor(schedule), network.frequencies))
            )

    def forward(self, tokens: Tensor, history: Tensor, noise: Tensor, omega: Tensor) -> Tensor:
        """[tokens, token size], [poses, 3], [poses, 4] and [W] → [W, poses, 3] in metres and radians."""
        network, poses, blocks = self.planner.decoder, noise.shape[0], cast("list[Block]", list(self.blocks))
        past = network.history(self.planner.normalised_history(history).reshape(1, -1))
        conditions = functional.silu(self.times + past)
        shifts = tuple(
            linear(conditions) for linear in (*(block.modulation for block in network.blocks), network.last_modulation)
        )
        memory = [block.cross_attention.remember(tokens[None]) for block in blocks]
        turned = omega.reshape(-1, 1, 1)
        # All ω are plans of one scene.
        start = noise + torch.zeros_like(turned)

        def step(carry: tuple[Tensor, Tensor], now: tuple[Tensor, ...]) -> tuple[Any, Tensor]:
            (x, former), (numbers, *modulations) = carry, now
            inner = (network.enter(x) + network.places).flatten(0, 1)[None]
            inner = inner.expand(self.adapters, -1, -1)
            for block, modulation, (keys, values) in zip(blocks, modulations[:-1], memory, strict=True):
                inner = block(inner, modulation.chunk(12), keys, values, poses)
            answers = network.leave(_modulated(inner, *modulations[-1].chunk(2))).reshape(-1, *x.shape)
            # ε̂ = σ·x + α·answer, so that the plan without its noise, (x − σ·ε̂)/α, is α·x − σ·answer.
            answer = answers[0] if self.adapters < 2 else guide(answers[0], answers[1], turned)
            alpha, sigma, extrapolated, kept, added = numbers.unbind()
            current = alpha * x - sigma * answer
            ahead = current + extrapolated * (current - former)
            return (
                kept * x + added * ahead,
                current,
            ), ahead  # Scan requires an output at every step, which is not used

        (_, plans), _ = scan(step, (start, 0.0 * start), (self.numbers, *shifts))
        return self.planner.poses(plans)


def _around(schedule: Sequence[float]) -> list[tuple[float | None, float, float | None]]:
    """Each time between the one before and the one after it."""
    padded = [None, *schedule, None]
    return [(padded[index], time, padded[index + 2]) for index, time in enumerate(schedule)]


def _numbers(before: float | None, time: float, after: float | None) -> tuple[float, float, float, float, float]:
    """Of one step of DPM-Solver++ (2M), as in :func:`diffusion.solve`: the factors of

    clean = α·x − σ·answer, ahead = clean + c·(clean − former), x ← d·x + e·ahead.
    """
    exponent = diffusion.log_alpha(time)
    alpha, sigma = math.exp(exponent), math.sqrt(-math.expm1(2 * exponent))
    if after is None:
        return alpha, sigma, 0.0, 0.0, 0.0
    width = diffusion.half_log_snr(after) - diffusion.half_log_snr(time)
    extrapolated = 0.0
    if before is not None:
        extrapolated = 0.5 * width / (diffusion.half_log_snr(time) - diffusion.half_log_snr(before))
    following = diffusion.log_alpha(after)
    kept = math.sqrt(-math.expm1(2 * following)) / sigma
    return alpha, sigma, extrapolated, kept, -math.exp(following) * math.expm1(-width)
