"""Two LoRA adapters on one frozen decoder, evaluated side by side in one pass.

peft makes, initialises and names the adapters; which of them is meant is an argument of every call here, and not a
state of the layers. peft's own switches are traps for training two at once: ``set_adapter`` between two passes freezes
the first adapter, whose gradients are then lost without a word, and names per sample raise in train mode.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

ADAPTERS = ("positive", "negative")

_PARTS = (
    r".*\.(self_attention\.(qkv|out)|cross_attention\.(q|k|v|out)|(first|second)_mlp\.(up|down))"  # not adaLN's linears
)


def adapted(linear: nn.Module, x: Tensor, adapters: Sequence[str]) -> Tensor:
    """W·x + b + scale·B·A·x for each adapter.

    The frozen product is computed once where x is still the same for all of them.

    :param x: [A or 1, ..., in].
    :param adapters: names of the A adapters; none: without any.
    :return: [A or 1, ..., out].
    """
    if not isinstance(linear, LoraLayer):
        return linear(x)  # type: ignore[no-any-return]
    layer: Any = linear
    frozen: Tensor = layer.base_layer(x)
    if not adapters:
        return frozen
    inputs = x.unbind(0) if x.shape[0] == len(adapters) else [x[0]] * len(adapters)
    deltas = [
        layer.lora_B[name](layer.lora_A[name](each)) * layer.scaling[name]
        for name, each in zip(adapters, inputs, strict=True)
    ]
    return frozen + torch.stack(deltas)


def inject(decoder: nn.Module, rank: int, alpha: int) -> None:
    """Gives all linear maps of the decoder's attentions and MLPs both adapters; fresh, they change nothing.

    Nothing of the decoder requires gradients afterwards: see :func:`train_only`.
    """
    configuration = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=_PARTS)
    for name in ADAPTERS:
        with warnings.catch_warnings():
            # That there will be several adapters, which is what is wanted.
            warnings.filterwarnings("ignore", "Already found a `peft_config`")
            inject_adapter_in_model(configuration, decoder, name)
    decoder.requires_grad_(False)


def parameters_of(decoder: nn.Module, adapters: Sequence[str]) -> dict[str, nn.Parameter]:
    """By name: those of the adapters; or, of none, those of the decoder itself."""
    return {
        name: parameter
        for name, parameter in decoder.named_parameters()
        if (any(f".{adapter}." in name for adapter in adapters) if adapters else ".lora_" not in name)
    }


def train_only(decoder: nn.Module, adapters: Sequence[str]) -> list[nn.Parameter]:
    """Parameters of these adapters (of none: of the decoder itself) require gradients, and no others."""
    decoder.requires_grad_(False)
    chosen = list(parameters_of(decoder, adapters).values())
    for parameter in chosen:
        parameter.requires_grad_(True)
    return chosen
