"""The networks of several policies as one: longer stacks of parameters, of which each policy keeps its part."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from dipole_sb3.algorithms.dipole.policies import DIPOLEPolicy, sample_guided
from dipole_sb3.buffers.device_mirror import ObservationTensors
from dipole_sb3.common.observations import mapped
from dipole_sb3.networks.feature_network import FeatureNetwork
from dipole_sb3.networks.stacked_mlp import StackedLayerNorm, StackedLinear

Head = TypeVar("Head", bound=nn.Module)

NETWORKS = ("actor", "critic", "critic_target", "value")


def stacked_head(heads: Sequence[Head]) -> Head:
    """A copy of several heads of one architecture as one, run by run; for shapes see :class:`StackedMLP`."""
    stack = copy.deepcopy(heads[0])
    parts = [dict(head.named_parameters()) for head in heads]
    for name, whole in stack.named_parameters():
        whole.data = torch.cat([part[name].data for part in parts])
    return stack


class NetworkStack(Generic[Head]):
    """One network of every policy: their heads run as one, their features extractors one after the other.

    :param networks: of one architecture. The parameters of their heads become views of the stack's, run by run, so that
        whoever changes the one changes the other.
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

    def features(self, observations: ObservationTensors) -> Tensor:
        """Observations [runs, batch, *observation] (or a dict of those) → features [runs, batch, features]."""
        return torch.stack(
            [
                network.features(mapped(lambda part, run=run: part[run], observations))
                for run, network in enumerate(self.networks)
            ]
        )

    def hand_out_gradients(self) -> None:
        """Gives every policy's parameters their part of the gradient that the stack has gathered."""
        for whole, own in self._shares:
            if whole.grad is not None:
                for part, gradient in zip(own, whole.grad.chunk(len(own)), strict=True):
                    part.grad = gradient
                whole.grad = None

    def release(self) -> None:
        """Gives every policy memory of its own again."""
        for _, own in self._shares:
            for part in own:
                part.data, part.grad = part.data.clone(), None


class PolicyStack:
    """Several policies' networks as one, for losses and for acting; shapes get a leading axis of runs.

    :param policies: of one architecture, on one device; see :func:`require_alike`.
    """

    def __init__(self, policies: Sequence[DIPOLEPolicy]) -> None:
        require_alike(policies)
        self.flow_steps = policies[0].flow_steps
        self.actor = NetworkStack([policy.actor for policy in policies])
        self.critic = NetworkStack([policy.critic for policy in policies])
        self.critic_target = NetworkStack([policy.critic_target for policy in policies])
        self.value = NetworkStack([policy.value for policy in policies])

    def sample_actions(self, features: Tensor, noise: Tensor, omega: float | Tensor) -> Tensor:
        """As :meth:`DIPOLEPolicy.sample_actions`, of all runs: [runs, batch, …]."""
        return sample_guided(self.actor.head, features, noise, omega, self.flow_steps)

    def _stacks(self) -> list[NetworkStack[Any]]:
        return [self.actor, self.critic, self.critic_target, self.value]

    def hand_out_gradients(self) -> None:
        """See :meth:`NetworkStack.hand_out_gradients`."""
        for stack in self._stacks():
            stack.hand_out_gradients()

    def release(self) -> None:
        """See :meth:`NetworkStack.release`."""
        for stack in self._stacks():
            stack.release()


def require_alike(policies: Sequence[DIPOLEPolicy]) -> None:
    """Refuses policies whose networks cannot run as one.

    :raises ValueError: networks of different shapes, activations, devices or flow steps, with buffers (batch
        normalisation), or with heads that are not made of stacked layers.
    """
    first = policies[0]
    for index, policy in enumerate(policies):
        for name in NETWORKS:
            _require_stacked_layers(getattr(policy, name))
        for what, of in (
            ("policy class", lambda each: type(each).__name__),
            ("flow_steps", lambda each: each.flow_steps),
            ("activation_fn", lambda each: each.activation_fn),
            ("time_features", lambda each: each.time_features),
            ("device", lambda each: str(each.device)),
            ("networks", lambda each: {name: tuple(value.shape) for name, value in each.state_dict().items()}),
        ):
            if of(policy) != of(first):
                found = "others" if what == "networks" else repr(of(policy))
                expected = "those" if what == "networks" else repr(of(first))
                raise ValueError(
                    f"run {index}: {what}: found {found}, expected {expected} of run 0: runs are trained together only "
                    "with networks of one shape"
                )


def is_stackable(head: nn.Module) -> bool:
    """Whether all that a head knows is in layers whose parameters have members along their first axis."""
    layers = [m for m in head.modules() if isinstance(m, StackedLinear | StackedLayerNorm)]
    known = {id(parameter) for layer in layers for parameter in layer.parameters(recurse=False)}
    return {id(parameter) for parameter in head.parameters()} == known and not list(head.buffers())


def _require_stacked_layers(network: FeatureNetwork[Any]) -> None:
    if not is_stackable(network.head) or list(network.buffers()):
        raise ValueError(
            f"{type(network.head).__name__}: cannot be trained together with other runs: found parameters outside "
            "StackedMLP, or buffers such as those of batch normalisation; train these runs one after the other"
        )
