"""Rounds weights to 8 bits so that the output of a layer changes little, not so that each weight does.

Guidance multiplies the difference of two networks, and so also their rounding errors. Rounding every weight to its
nearest step changed the demo's actions by up to 9 % of their range at ω = 4; this rounding changed them by 2 %.

Source: GPTQ (Frantar et al. 2022, arXiv 2210.17323). It rounds the weights of one input after the other and adjusts the
remaining weights to compensate for the error, as far as the inputs of the layer are correlated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dipole_export.denoising import Denoiser, DiffusionPolicy
from dipole_export.graphs import DeterministicPolicy, Field, GuidedPolicy, Perceptron

LEAST_WIDTH = 64
"""Smallest width of a matrix to round: smaller ones gain nothing, and rounding harms first and last layers most."""

_LARGEST = 127
_LARGEST_PAIR = 32_767 // 255
"""Largest sum of the sizes of two neighbouring weights. Processors without VNNI add the products with two neighbouring
inputs (up to 255 each) in 16 bits. The usual protection against overflow is one bit less for every weight; this bound
also prevents overflow, at half the loss of accuracy."""
_DAMPING = 0.01
"""Share of the mean squared input that is added to each input's own, to allow for inputs not in the sample."""


class Rounded(NamedTuple):
    """A weight matrix ≈ ``values`` · ``scale``.

    ======  =======================
    values  [in, out], int8
    scale   [out], float32
    ======  =======================
    """

    values: np.ndarray
    scale: np.ndarray


def rounded_fields(policy: GuidedPolicy, observations: Tensor, noise: Tensor, omegas: Tensor) -> list[list[Rounded]]:
    """The hidden layers of both velocity fields, rounded and fitted to their inputs during sampling of actions.

    :param observations: raw and flat, shape [vectors, observation].
    :param noise: x₀, shape [vectors, action].
    :param omegas: shape [W]; every observation is used at each ω.
    :return: for the positive field, then the negative one if the policy has two: one entry per layer after the first;
        entries for small matrices are :data:`NOT_ROUNDED`.
    """
    fields = policy.each_field()
    products = _input_products(policy, fields, observations, noise, omegas)
    return [_rounded_layers(field.perceptron, layers) for field, layers in zip(fields, products, strict=True)]


def rounded_actor(policy: DeterministicPolicy, observations: Tensor) -> list[Rounded]:
    """The hidden layers of a deterministic actor, rounded and fitted to observations; as :func:`rounded_fields`.

    :param observations: raw and flat, shape [vectors, observation].
    """
    with torch.no_grad():
        inputs, _ = policy.actor.traced(policy.first(observations))
    return _rounded_layers(policy.actor, [(values.T @ values).double().numpy() for values in inputs])


def rounded_denoiser(policy: DiffusionPolicy, observations: Tensor, noise: Tensor) -> list[Rounded]:
    """The hidden layers of a predictor of noise, rounded and fitted to their inputs during sampling of actions.

    :param observations: raw and flat, shape [vectors, observation].
    :param noise: shape [vectors, T · action].
    """
    denoiser = policy.denoiser
    totals = _no_products(denoiser)
    with torch.no_grad():
        features = policy.observation(observations)
        x, added = policy.start_and_added(noise)
        for time, more, numbers in zip(policy.times, added, policy.numbers, strict=True):
            inputs, predicted = denoiser.traced(denoiser.share(features, time.expand(len(x), 1)), x)
            for total, values in zip(totals, inputs, strict=True):
                total += (values.T @ values).double()
            x = policy.stepped(x, predicted, more, numbers)
    return _rounded_layers(denoiser, [total.numpy() for total in totals])


def _rounded_layers(network: Perceptron | Denoiser, products: Sequence[np.ndarray]) -> list[Rounded]:
    return [
        rounded(weight.numpy(), product) if min(weight.shape) >= LEAST_WIDTH else NOT_ROUNDED
        for weight, product in zip(network.weights, products, strict=True)
    ]


def _no_products(network: Perceptron | Denoiser) -> list[Tensor]:
    return [torch.zeros(len(weight), len(weight), dtype=torch.float64) for weight in network.weights]


NOT_ROUNDED = Rounded(np.empty((0, 0), np.int8), np.empty(0, np.float32))


def rounded(weight: np.ndarray, product: np.ndarray) -> Rounded:
    """Rounds one matrix so that its output changes little for the given inputs.

    :param weight: shape [in, out].
    :param product: XᵀX of the layer's inputs X, shape [in, in].
    """
    left = weight.astype(np.float64)
    size = np.pad(np.abs(left), ((0, len(left) % 2), (0, 0)))
    pairs = size.reshape(-1, 2, size.shape[1]).sum(axis=1)
    scale = np.maximum(size.max(axis=0) / _LARGEST, pairs.max(axis=0) / _LARGEST_PAIR)
    scale = np.maximum(scale, np.finfo(np.float32).tiny)
    damped = product + np.eye(len(left)) * max(_DAMPING * float(np.mean(np.diag(product))), 1e-12)
    # Row k of this factor gives the best compensation by the later weights for an error in weight k.
    compensation = np.linalg.cholesky(np.linalg.inv(damped)).T
    values = np.zeros_like(left)
    for row in range(len(left)):
        room = _LARGEST_PAIR - np.abs(values[row - 1]) if row % 2 else np.full(len(scale), _LARGEST)
        largest = np.minimum(room, _LARGEST)
        values[row] = np.clip(np.rint(left[row] / scale), -largest, largest)
        error = (left[row] - values[row] * scale) / compensation[row, row]
        left[row + 1 :] -= np.outer(compensation[row, row + 1 :], error)
    return Rounded(values.astype(np.int8), scale.astype(np.float32))


def _input_products(
    policy: GuidedPolicy, fields: Sequence[Field], observations: Tensor, noise: Tensor, omegas: Tensor
) -> list[list[np.ndarray]]:
    """XᵀX of every later layer's inputs, by field and layer, over all observations, ω and flow steps."""
    totals = [_no_products(field.perceptron) for field in fields]
    with torch.no_grad():
        features = policy.observation(observations).repeat_interleave(len(omegas), dim=0)
        x = noise.repeat_interleave(len(omegas), dim=0)
        omega = omegas.repeat(len(observations)).reshape(-1, 1)
        for time in policy.times:
            velocities = []
            for field, sums in zip(fields, totals, strict=True):
                share = field.share(features, time.expand(len(x), 1))
                inputs, output = field.perceptron.traced(field.first(share, x))
                for total, values in zip(sums, inputs, strict=True):
                    total += (values.T @ values).double()
                velocities.append(field.velocity(output, x))
            guided = velocities[0] if len(fields) == 1 else (1.0 + omega) * velocities[0] - omega * velocities[1]
            x = x + guided / len(policy.times)
    return [[total.numpy() for total in sums] for sums in totals]
