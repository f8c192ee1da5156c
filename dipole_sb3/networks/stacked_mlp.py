"""Stacks of multi-layer perceptrons that run as one batched matrix product.

The two velocity fields, and the two critics, have the same shape and read the same input, so each pair is stored as one
stack of parameters [members, in, out]. That halves the number of kernels of an update without changing the mathematics,
and the members stay independent: initialisation, gradients and the optimiser treat them separately.

The networks of several runs make one longer stack [runs · members, in, out], run by run; their inputs and outputs then
have a leading axis of runs. Shapes are written [..., batch, features]: no such axis for one run, [runs] for several.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

Activation = Callable[[Tensor], Tensor]
NormOrder = Literal["after", "before"]
"""Whether layer normalisation comes after or before the activation."""
OutputInit = Literal["xavier", "lecun"]
"""How the last layer begins: Xavier-uniform, or normal with variance 1/in, cut off at two standard deviations."""


_TWICE_GELU = 2.0 * math.sqrt(2.0 / math.pi)


def _gelu_tanh(x: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        # The same function as x·σ(2z), since (1 + tanh z)/2 = σ(2z): on CPUs an exponential is a third of a tanh.
        return x * torch.sigmoid(_TWICE_GELU * (x + 0.044715 * x**3))
    return functional.gelu(x, approximate="tanh")


def _mish(x: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        # The same function: tanh(ln(1 + w)) = n/(n + 2) with w = eˣ and n = w(w + 2); beyond 20 it is 1.
        w = torch.exp(x.clamp(max=20.0))
        n = w * (w + 2.0)
        return x * (n / (n + 2.0))
    return functional.mish(x)


ACTIVATIONS: dict[str, Activation] = {
    "gelu-tanh": _gelu_tanh,
    "gelu": functional.gelu,
    "tanh": torch.tanh,
    "mish": _mish,
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


class StackedLayer(nn.Module):
    """A layer whose parameters all have members along their first axis, and which has no buffers."""


class StackedLinear(StackedLayer):
    """Parameters of several independent linear layers.

    ======  =================================
    weight  [members, in, out], Xavier-uniform
    bias    [members, 1, out], zero
    ======  =================================
    """

    def __init__(self, members: int, in_features: int, out_features: int) -> None:
        super().__init__()
        bound = math.sqrt(6.0 / (in_features + out_features))
        self.weight = nn.Parameter(torch.empty(members, in_features, out_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(members, 1, out_features))


def lecun_normal_(layer: StackedLinear) -> None:
    """Draws a layer's weights anew: normal with variance 1/in, cut off at two standard deviations."""
    # Of a normal distribution cut off at two, 0.8796 is the standard deviation.
    deviation = 1.0 / math.sqrt(layer.weight.shape[1]) / 0.87962566103423978
    nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)


class StackedLayerNorm(StackedLayer):
    """Parameters of several independent layer normalisations; ε = 1e-6 as in the authors' code base.

    ======  ========================
    weight  [members, 1, features], one
    bias    [members, 1, features], zero
    ======  ========================
    """

    def __init__(self, members: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, 1, features))
        self.bias = nn.Parameter(torch.zeros(members, 1, features))


class StackedEmbedding(StackedLayer):
    """Parameters of several independent tables of classes.

    ======  ===================================================================
    weight  [members, classes, features], normal with variance 1/features
    ======  ===================================================================
    """

    def __init__(self, members: int, classes: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(members, classes, features) / math.sqrt(features))

    def of(self, index: int, like: Tensor) -> Tensor:
        """The features of one class for every row of ``like`` [..., batch, …]: [..., batch, features].

        Of one member: its leading axis is that of several runs.
        """
        row = self.weight[:, index].unsqueeze(-2)
        row = row if like.dim() == 3 else row.squeeze(0)
        return row.expand(*like.shape[:-1], -1)


class StackedMLP(nn.Module):
    """Several independent perceptrons: (linear → activation → layer norm, where there is one) per hidden layer, linear.

    Inside ``torch.autocast`` the products between hidden layers are made in its type, from weights that are cast once a
    call (once for all steps of a sampler). All else stays as it is: the first layer, since positions in metres do not
    fit into eight bits of mantissa, the last, since returns do not, biases, activations and layer norms.

    :param members: number of perceptrons.
    :param in_features: width of the input.
    :param out_features: width of the output, not squashed.
    :param net_arch: hidden widths.
    :param activation_fn: name or module class, see :func:`make_activation`.
    :param layer_norm: normalise every hidden layer, or the first so many.
    :param norm_order: normalise ``"after"`` the activation or ``"before"`` it.
    :param output_init: how the last layer begins.
    :raises ValueError: an unknown order or initialisation, or more normalised layers than there are.
    """

    def __init__(
        self,
        members: int,
        in_features: int,
        out_features: int,
        net_arch: Sequence[int],
        activation_fn: str | type[nn.Module],
        layer_norm: bool | int,
        norm_order: NormOrder = "after",
        output_init: OutputInit = "xavier",
    ) -> None:
        super().__init__()
        for name, value, known in (("norm_order", norm_order, NormOrder), ("output_init", output_init, OutputInit)):
            if value not in get_args(known):
                raise ValueError(f"{name} is {value!r}, expected one of {get_args(known)}")
        normalised = len(net_arch) if layer_norm is True else int(layer_norm)
        if not 0 <= normalised <= len(net_arch):
            raise ValueError(
                f"layer_norm is {layer_norm}, expected True, False or a number of layers of at most {len(net_arch)}"
            )
        self.members = members
        self.norm_order = norm_order
        widths = [in_features, *net_arch]
        self.hidden = nn.ModuleList(StackedLinear(members, a, b) for a, b in pairwise(widths))
        norms = (StackedLayerNorm(members, width) for width in net_arch[:normalised])
        self.norms = nn.ModuleList(norms) if normalised else None
        self.output = StackedLinear(members, widths[-1], out_features)
        if output_init == "lecun":
            lecun_normal_(self.output)
        self.activation = make_activation(activation_fn)

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """[..., batch, in] → [..., members, batch, out].

        :param frozen: gradients reach the input alone, not the parameters.
        """
        (weight, bias), *following = self._layers(frozen=frozen)
        x = _widened(x, weight)
        norms = _select(self.norms or [], frozen=frozen)
        with no_autocast(x.device):
            outputs = self._after_first(_product(bias, x, weight), following, norms)
        return outputs.reshape(*x.shape[:-2], self.members, *outputs.shape[1:])

    def with_fixed(self, fixed: Tensor, member: int | None = None) -> Callable[[Tensor], Tensor]:
        """The perceptrons as functions of the rest of their input, with its first columns fixed.

        A sampler calls the result once per flow step: the fixed columns' share of the first layer is computed once, and
        unused members cost nothing. For training, call the stack itself: gradients through the slices that are taken
        here would cost more than they save.

        :param fixed: the first columns of the input, shape [..., batch, fixed].
        :param member: which perceptron; None: all.
        :return: function of the remaining columns [..., batch, in − fixed], giving [..., members, batch, out], or
            [..., batch, out] of the one member.
        """
        members = None if member is None else slice(member, None, self.members)
        (weight, bias), *following = self._layers(members)
        fixed = _widened(fixed, weight)
        norms = _select(self.norms or [], members)
        columns = fixed.shape[-1]
        with no_autocast(fixed.device):
            share = _product(bias, fixed, weight[:, :columns])
        remaining = weight[:, columns:]
        leading = (*fixed.shape[:-2], *([self.members] if member is None else []))

        def perceptrons(rest: Tensor) -> Tensor:
            with no_autocast(rest.device):
                outputs = self._after_first(_product(share, rest, remaining), following, norms)
            return outputs.reshape(*leading, *outputs.shape[1:])

        return perceptrons

    def _after_first(
        self, x: Tensor, following: list[tuple[Tensor, Tensor]], norms: list[tuple[Tensor, Tensor]]
    ) -> Tensor:
        for depth, (weight, bias) in enumerate(following):
            if self.norm_order == "after":
                x = self.activation(x)
            if depth < len(norms):
                scale, offset = norms[depth]
                x = torch.addcmul(offset, functional.layer_norm(x, x.shape[-1:], eps=1e-6), scale)
            if self.norm_order == "before":
                x = self.activation(x)
            if weight.dtype == x.dtype:
                x = torch.baddbmm(bias, x, weight)
            else:
                x = bias + torch.bmm(x.to(weight.dtype), weight)
        return x

    def _layers(self, members: slice | None = None, frozen: bool = False) -> list[tuple[Tensor, Tensor]]:
        """(weight, bias) of every layer, with the weights between hidden layers in autocast's type where it is on."""
        layers = _select([*self.hidden, self.output], members, frozen)
        device = self.output.weight.device.type
        if torch.is_autocast_enabled(device):
            narrow = torch.get_autocast_dtype(device)
            layers[1:-1] = [(weight.to(narrow), bias) for weight, bias in layers[1:-1]]
        return layers


def no_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Operations keep the types of their tensors."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _widened(x: Tensor, weight: Tensor) -> Tensor:
    """Inside autocast, features of an extractor come in its type; elsewhere another type is an error."""
    return x.to(weight.dtype) if torch.is_autocast_enabled(x.device.type) else x


def _select(
    layers: Iterable[nn.Module], members: slice | None = None, frozen: bool = False
) -> list[tuple[Tensor, Tensor]]:
    """(weight, bias) of every layer: the parameters themselves, or views of some members, or without gradients."""
    parameters = cast("Iterable[StackedLinear | StackedLayerNorm]", layers)
    if frozen:
        return [(weight.detach(), bias.detach()) for weight, bias in _select(layers, members)]
    if members is None:
        return [(layer.weight, layer.bias) for layer in parameters]
    return [(layer.weight[members], layer.bias[members]) for layer in parameters]


def _product(offset: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """offset + x·weight for every member; all members of a run share x, of shape [..., batch, in].

    :return: [runs · members, batch, out].
    """
    members = len(weight) // x.shape[:-2].numel()
    shared = x.unsqueeze(-3).expand(*x.shape[:-2], members, -1, -1).flatten(0, -3)
    return torch.baddbmm(offset, shared, weight)
