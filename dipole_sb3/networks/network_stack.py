"""The networks of several policies as one: each policy's parameters become a part of a longer stack."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from dipole_sb3.buffers.device_mirror import ObservationTensors
from dipole_sb3.common.observations import mapped
from dipole_sb3.networks.feature_network import FeatureNetwork
from dipole_sb3.networks.stacked_mlp import StackedLayer

Head = TypeVar("Head", bound=nn.Module)


class StackablePolicy(Protocol):
    """What stacking needs from a policy."""

    def networks(self) -> dict[str, FeatureNetwork[Any]]:
        """All networks by name, in the same order for all policies of a class."""

    def architecture(self) -> Mapping[str, Any]:
        """What must be equal, besides the shapes of the networks, for several policies to run as one."""


def stacked_head(heads: Sequence[Head]) -> Head:
    """A copy of several heads of one architecture as one head, run by run; for shapes see :mod:`stacked_mlp`."""
    stack = copy.deepcopy(heads[0])
    parts = [dict(head.named_parameters()) for head in heads]
    for name, whole in stack.named_parameters():
        whole.data = torch.cat([part[name].data for part in parts])
    return stack


class NetworkStack(Generic[Head]):
    """One network of every policy: their heads run as one, their features extractors one after the other.

    :param networks: networks of one architecture. The parameters of their heads become views of the stack's, run by
        run: a change to one changes the other.
    """

    head: Head

    def __init__(self, networks: Sequence[FeatureNetwork[Head]]) -> None:
        self.networks = list(networks)
        self.head = stacked_head([network.head for network in networks])
        parts = [dict(network.head.named_parameters()) for network in networks]
        self._shares = [(whole, [part[name] for part in parts]) for name, whole in self.head.named_parameters()]
        for whole, own in self._shares:
            for part, view in zip(own, whole.data.chunk(len(own)), strict=True):
                part.data = view

    @property
    def features_extractor(self) -> nn.Module:
        """The first run's; where it is shared between networks, so are the others'."""
        return self.networks[0].features_extractor

    def features(self, observations: ObservationTensors) -> Tensor:
        """Observations [runs, batch, *observation] (or a dict of those) → features [runs, batch, features]."""
        return torch.stack(
            [
                network.features(mapped(lambda part, run=run: part[run], observations))
                for run, network in enumerate(self.networks)
            ]
        )

    def hand_out_gradients(self) -> None:
        """Gives every policy's parameters their part of the stack's gradient."""
        for whole, own in self._shares:
            if whole.grad is not None:
                for part, gradient in zip(own, whole.grad.chunk(len(own)), strict=True):
                    part.grad = gradient
                whole.grad = None

    def release(self) -> None:
        """Gives every policy its own memory again."""
        for _, own in self._shares:
            for part in own:
                part.data, part.grad = part.data.clone(), None


class PolicyStack:
    """Several policies' networks as one, for losses: each is an attribute of that name, with a leading axis of runs.

    :param policies: policies of one architecture, on one device; see :func:`require_alike`.
    """

    def __init__(self, policies: Sequence[StackablePolicy]) -> None:
        require_alike(policies)
        each = [policy.networks() for policy in policies]
        self._stacks = {name: NetworkStack([networks[name] for networks in each]) for name in each[0]}
        for name, stack in self._stacks.items():
            setattr(self, name, stack)

    def networks(self) -> dict[str, NetworkStack[Any]]:
        """All of them by name."""
        return dict(self._stacks)

    def hand_out_gradients(self) -> None:
        """See :meth:`NetworkStack.hand_out_gradients`."""
        for stack in self._stacks.values():
            stack.hand_out_gradients()

    def release(self) -> None:
        """See :meth:`NetworkStack.release`."""
        for stack in self._stacks.values():
            stack.release()


def require_alike(policies: Sequence[StackablePolicy]) -> None:
    """Refuses policies whose networks cannot run as one.

    :raises ValueError: networks of different shapes, activations or devices, with buffers (batch normalisation), or
        with heads that are not made of stacked layers.
    """
    shapes: list[dict[str, tuple[int, ...]]] = []
    for index, policy in enumerate(policies):
        for network in policy.networks().values():
            _require_stacked_layers(network)
        found = {"policy class": type(policy).__name__, **policy.architecture()}
        expected = {"policy class": type(policies[0]).__name__, **policies[0].architecture()}
        for what, value in found.items():
            if value != expected.get(what):
                raise _unlike(index, what, repr(value), repr(expected.get(what)))
        shapes.append(
            {
                f"{name}.{part}": tuple(tensor.shape)
                for name, network in policy.networks().items()
                for part, tensor in network.state_dict().items()
            }
        )
        if shapes[-1] != shapes[0]:
            raise _unlike(index, "networks", "others", "those")


def _unlike(run: int, what: str, found: str, expected: str) -> ValueError:
    return ValueError(
        f"run {run}: {what}: found {found}, expected {expected} of run 0: runs are trained together only with networks "
        "of one shape"
    )


def is_stackable(head: nn.Module) -> bool:
    """Whether all parameters of a head have members along their first axis, and it has no buffers."""
    layers = [m for m in head.modules() if isinstance(m, StackedLayer)]
    known = {id(parameter) for layer in layers for parameter in layer.parameters(recurse=False)}
    return {id(parameter) for parameter in head.parameters()} == known and not list(head.buffers())


def _require_stacked_layers(network: FeatureNetwork[Any]) -> None:
    if not is_stackable(network.head) or list(network.buffers()):
        raise ValueError(
            f"{type(network.head).__name__}: cannot be trained together with other runs: found parameters outside "
            "StackedMLP, or buffers such as those of batch normalisation; train these runs one after the other"
        )
