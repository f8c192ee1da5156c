"""In which type an update multiplies: in single precision, or in bfloat16 where a processor is faster at it.

Weights, biases, activations, layer norms, losses, targets and the optimiser stay in single precision, and so do a
perceptron's first and last layer; see :class:`~dipole_sb3.networks.stacked_mlp.StackedMLP`. Features extractors, the
convolutions of image encoders above all, are computed as ``torch.autocast`` does it. bfloat16 has the range of single
precision, so gradients need no scaling.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal, TypeGuard, get_args

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.learning.cuda_graphs import beside, cuda_graph
from dipole_sb3.learning.update_rule import LossFunction, Outcome
from dipole_sb3.networks.stacked_mlp import StackedMLP

Precision = Literal["auto", "fp32", "bf16"]
ProductType = Literal["fp32", "bf16"]
"""What "auto" comes to."""

WORTHWHILE = 1.2
"""How many times as fast the networks must be before ``"auto"`` gives up bits."""

_WARM_UP, _TURNS = 2, 7
_IMAGES = 32
"""At most, on which the gain is measured."""


def require_precision(precision: Precision, device: torch.device) -> None:
    """Refuses an unknown name, and warns of a device that is slow at what is asked.

    :raises ValueError: not one of the names.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision is {precision!r}, expected one of {', '.join(get_args(Precision))}")
    if precision == "bf16" and not has_fast_bfloat16(device):
        warnings.warn(
            f"precision is 'bf16' on the device {device}, which has no instructions for it: expect slower updates than "
            "with 'fp32'",
            stacklevel=2,
        )


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for products in bfloat16: AVX512-BF16, AMX, or CUDA from capability 8.0 on."""
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def faster_type(policy: nn.Module, batch_size: int, device: torch.device) -> tuple[ProductType, str]:
    """What ``"auto"`` comes to for a policy's networks, and why, for the log."""
    if not has_fast_bfloat16(device):
        return "fp32", f"{device} has no instructions for bfloat16"
    gain = measured_gain(measured_parts(policy), batch_size, device)
    return "bf16" if gain > WORTHWHILE else "fp32", f"bfloat16 makes these networks {gain:.2f} times as fast"


def measured_parts(policy: nn.Module) -> list[StackedMLP | BaseFeaturesExtractor]:
    """What of a policy takes the time of an update: its perceptrons, and what encodes its images."""
    return [part for part in policy.modules() if isinstance(part, StackedMLP) or _encodes_images(part)]


def _encodes_images(part: nn.Module) -> TypeGuard[BaseFeaturesExtractor]:
    # Not what puts together the encoders of a Dict: these are parts of their own.
    return (
        isinstance(part, BaseFeaturesExtractor)
        and isinstance(part._observation_space, spaces.Box)
        and any(isinstance(layer, nn.Conv2d) for layer in part.modules())
    )


def measured_gain(parts: Sequence[StackedMLP | BaseFeaturesExtractor], batch_size: int, device: torch.device) -> float:
    """How many times as fast a forward and a backward pass is in bfloat16: the median of several pairs.

    Draws no random numbers and leaves no gradients. Of images it takes a few: for each of them the gain is the same.
    """
    if any(_encodes_images(part) for part in parts):
        batch_size = min(batch_size, _IMAGES)
    inputs = [torch.ones(batch_size, *_shape_of_input(part), device=device) for part in parts]
    # Targets have parameters without gradients: they are only read.
    learning = [each for part in parts for each in part.parameters() if each.requires_grad]

    def passes(products: ProductType) -> tuple[Tensor, ...]:
        with products_in(products, device):
            outputs = [part(x) for part, x in zip(parts, inputs, strict=True)]
        return torch.autograd.grad([output.sum() for output in outputs if output.requires_grad], learning)

    ways = {products: _ready(partial(passes, products), device) for products in get_args(ProductType)}
    pairs = [{products: _seconds(way, device) for products, way in ways.items()} for _ in range(_TURNS)]
    return statistics.median(pair["fp32"] / pair["bf16"] for pair in pairs)


def _shape_of_input(part: StackedMLP | BaseFeaturesExtractor) -> tuple[int, ...]:
    if isinstance(part, StackedMLP):
        return (next(part.parameters()).shape[1],)
    assert part._observation_space.shape is not None
    return part._observation_space.shape


def products_in(products: ProductType, device: torch.device) -> AbstractContextManager[Any]:
    """Networks that are called inside multiply in this type."""
    return torch.autocast(device.type, torch.bfloat16) if products == "bf16" else nullcontext()


def with_products_in(products: ProductType, device: torch.device, losses: LossFunction) -> LossFunction:
    """A loss function, eager or compiled, whose networks multiply in this type."""
    if products == "fp32":
        return losses

    def narrowed(networks: Any, batch: Batch, noise: Any, objective: Any) -> Outcome:
        with products_in(products, device):
            return losses(networks, batch, noise, objective)

    return narrowed


def _ready(function: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    """Warmed up; on CUDA as a graph, since launching one by one costs more than these products."""
    with beside(device):
        for _ in range(_WARM_UP):
            function()
    return cuda_graph(device, function) if device.type == "cuda" else function


def _seconds(function: Callable[[], Any], device: torch.device) -> float:
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
