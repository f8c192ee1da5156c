"""Networks that share a features extractor run it once for each observation of a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

Losses = TypeVar("Losses", bound=Callable[..., Any])


class Extracting(Protocol):
    """A network, or one of several policies."""

    head: Any
    features_extractor: Any

    def features(self, observations: Any) -> Tensor:
        """Of observations."""


class _Features:
    """A network in one computation of losses.

    :param found: what has been extracted so far by all networks: extractor, observations, whether gradients reach it,
        features.
    """

    def __init__(self, network: Extracting, found: list[tuple[Any, Any, bool, Tensor]]) -> None:
        self.head = network.head
        self._network, self._found = network, found

    def features(self, observations: Any) -> Tensor:
        """As the network's own."""
        with_gradient = torch.is_grad_enabled()
        for extractor, seen, has_gradient, features in self._found:
            if extractor is self._network.features_extractor and seen is observations and has_gradient == with_gradient:
                return features
        features = self._network.features(observations)
        self._found.append((self._network.features_extractor, observations, with_gradient, features))
        return features


class _Networks:
    """A policy's networks by name, for one computation of losses."""

    def __init__(self, networks: Mapping[str, Extracting]) -> None:
        found: list[tuple[Any, Any, bool, Tensor]] = []
        for name, network in networks.items():
            setattr(self, name, _Features(network, found))


def extracted_once(losses: Losses) -> Losses:
    """The same losses for a policy whose networks share an extractor; other policies are computed as they are.

    With ``share_features_extractor``, a loss of actor, critics and value would else run one encoder three times on the
    same images, forwards and backwards.

    :param losses: (networks, batch, noise, objective) → outcome.
    """

    @functools.wraps(losses)
    def computed(networks: Any, *arguments: Any) -> Any:
        each = networks.networks()
        if any(one.features_extractor is other.features_extractor for one, other in combinations(each.values(), 2)):
            networks = _Networks(each)
        return losses(networks, *arguments)

    return computed  # type: ignore[return-value]
