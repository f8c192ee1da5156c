"""Exact velocity fields and reference integrators that the tests compare against; independent of the package.

All formulas follow from the straight path x_t = (1 − t)·x₀ + t·a with x₀ ~ N(0, I) independent of a: the field that
carries N(0, I) to the law of a is v(x, t) = E[a − x₀ | x_t = x].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]


def gaussian_velocity(mean: Tensor, std: float) -> Velocity:
    """Field of N(mean, std²·I).

    (a, x_t) is jointly Gaussian: x_t ~ N(t·m, q·I) with q = (1 − t)² + t²s², and Cov(a − x₀, x_t) = ts² − (1 − t), so
    v(x, t) = m + (ts² − (1 − t))/q · (x − t·m). Its flow is x₀ ↦ m + s·x₀.

    :param mean: m, shape [action].
    :param std: s > 0.
    """

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        spread = (1 - time) ** 2 + time**2 * std**2
        return mean + (time * std**2 - (1 - time)) / spread * (x - time * mean)

    return velocity


def mixture_velocity(means: Tensor, stds: Sequence[float], weights: Sequence[float]) -> Velocity:
    """Field of Σ wᵢ N(mᵢ, sᵢ²I): the components' fields, averaged with their posterior probabilities given x_t.

    :param means: shape [components, action].
    :param stds: sᵢ > 0.
    :param weights: wᵢ > 0, summing to one.
    """
    fields = [gaussian_velocity(mean, std) for mean, std in zip(means, stds, strict=True)]
    dimension = means.shape[-1]

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        logits = []
        for mean, std, weight in zip(means, stds, weights, strict=True):
            spread = (1 - time) ** 2 + time**2 * std**2
            distance = (x - time * mean).square().sum(-1)
            logits.append(math.log(weight) - 0.5 * dimension * spread.log() - 0.5 * distance / spread)
        posterior = torch.stack(logits).softmax(dim=0)
        return sum(
            (share.unsqueeze(-1) * field(x, time) for share, field in zip(posterior, fields, strict=True)),
            torch.zeros_like(x),
        )

    return velocity


def integrate_rk4(velocity: Velocity, start: Tensor, steps: int) -> Tensor:
    """Classical Runge-Kutta from t = 0 to t = 1: global error O(1/steps⁴), far below the Euler error it judges."""
    x, size = start, 1.0 / steps
    for index in range(steps):
        early, middle, late = (
            torch.tensor(time, dtype=start.dtype) for time in (index * size, (index + 0.5) * size, (index + 1) * size)
        )
        first = velocity(x, early)
        second = velocity(x + 0.5 * size * first, middle)
        third = velocity(x + 0.5 * size * second, middle)
        fourth = velocity(x + size * third, late)
        x = x + size / 6 * (first + 2 * second + 2 * third + fourth)
    return x


def convergence_order(errors: Mapping[int, float]) -> float:
    """Slope p of error ∝ K^−p, by least squares in the logarithms.

    :param errors: error for each number of steps K.
    """
    steps = np.log(list(errors))
    slope, _ = np.polyfit(steps, np.log(list(errors.values())), 1)
    return -float(slope)


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    """GELU in its tanh approximation (Hendrycks and Gimpel 2016): x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def layer_norm(x: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """(x − mean)/√(variance + 1e-6) over the last axis, scaled and offset."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return scale * centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + 1e-6) + offset


def perceptron(
    parameters: Mapping[str, np.ndarray],
    x: np.ndarray,
    member: int,
    activation: Callable[[np.ndarray], np.ndarray] = gelu_tanh,
) -> np.ndarray:
    """One member of a stack of perceptrons, layer by layer in double precision.

    :param parameters: arrays by the names of a StackedMLP's state dictionary, each with a leading axis of members.
    :param x: shape [batch, in].
    :param member: which of the stack.
    :return: shape [batch, out].
    """

    def own(name: str) -> np.ndarray:
        return parameters[name][member]

    depth = sum(name.startswith("hidden.") and name.endswith(".weight") for name in parameters)
    for layer in range(depth):
        x = activation(x @ own(f"hidden.{layer}.weight") + own(f"hidden.{layer}.bias"))
        if f"norms.{layer}.weight" in parameters:
            x = layer_norm(x, own(f"norms.{layer}.weight"), own(f"norms.{layer}.bias"))
    return x @ own("output.weight") + own("output.bias")


def as_numpy(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """A module's parameters in double precision, by name."""
    return {name: value.detach().double().numpy() for name, value in module.named_parameters()}


def randomize(module: torch.nn.Module, generator: torch.Generator, scale: float = 0.6) -> None:
    """Replaces every parameter by normal numbers: zero biases and unit scales would hide whether they are used."""
    with torch.no_grad():
        # By name, so that the values do not depend on the order in which a module registers its parameters.
        for _, parameter in sorted(module.named_parameters()):
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
