"""Training statistics that stay on the device until they are logged."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor

from dipole_sb3.algorithms.dipole.losses import LOSS_NAMES, Outcome

SATURATION = 0.05
"""A weight below this or above one minus this counts as saturated: the sample trains one policy only."""

_ADVANTAGE_QUANTILES = (0.1, 0.5, 0.9)


class TrainingMonitor:
    """Sums the losses of every update and keeps the last update's tensors; reads them when asked to record.

    :param device: where the updates run.
    """

    def __init__(self, device: torch.device) -> None:
        self._losses = torch.zeros(len(LOSS_NAMES), device=device)
        self._last: Outcome | None = None
        self._updates = 0
        self._since = time.perf_counter()

    def add(self, outcome: Outcome, updates: int = 1) -> None:
        """Takes note of updates, without waiting for the device.

        :param outcome: of the last of them, but ``losses`` is the sum over all; its tensors may be overwritten later.
        :param updates: how many.
        """
        if self._updates == 0 and self._last is None:
            self._since = time.perf_counter()
        self._losses += outcome.losses
        self._last = outcome
        self._updates += updates

    def record(self, logger: Logger, n_updates: int) -> None:
        """Writes means over the updates since the last call, and the last update's distributions.

        :param logger: SB3's logger.
        :param n_updates: updates since the model was made.
        """
        if self._last is None or self._updates == 0:
            return
        losses = dict(zip(LOSS_NAMES, (self._losses / self._updates).tolist(), strict=True))
        logger.record("train/n_updates", n_updates, exclude="tensorboard")
        logger.record("train/actor_loss", losses["positive_loss"] + losses["negative_loss"])
        for name, loss in losses.items():
            logger.record(f"train/{name}", loss)
        for name, value in describe(self._last).items():
            logger.record(f"train/{name}", value)
        now = time.perf_counter()
        logger.record("time/updates_per_second", self._updates / max(now - self._since, 1e-9))
        self._losses.zero_()
        self._updates, self._since = 0, now

    def state(self) -> dict[str, Any]:
        """What the next record will rest on, as numbers and arrays."""
        last = None if self._last is None else {k: v.cpu().numpy() for k, v in self._last._asdict().items()}
        seconds = time.perf_counter() - self._since
        return {"losses": self._losses.cpu().numpy(), "last": last, "updates": self._updates, "seconds": seconds}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from what :meth:`state` gave."""

        def tensor(array: np.ndarray) -> Tensor:
            return torch.as_tensor(array, device=self._losses.device)

        self._losses = tensor(state["losses"])
        self._last = None if state["last"] is None else Outcome(**{k: tensor(v) for k, v in state["last"].items()})
        self._updates, self._since = state["updates"], time.perf_counter() - state["seconds"]


def describe(outcome: Outcome) -> dict[str, float]:
    """Mean, standard deviation and saturation of the weights, quantiles of the advantage, means of Q and V."""
    weight = outcome.weight
    saturated = ((weight < SATURATION) | (weight > 1 - SATURATION)).float()
    quantiles = torch.quantile(outcome.advantage, torch.tensor(_ADVANTAGE_QUANTILES, device=weight.device))
    statistics: dict[str, Tensor] = {
        "weight_mean": weight.mean(),
        "weight_std": weight.std(correction=0),
        "weight_saturation": saturated.mean(),
        "q_mean": outcome.q.mean(),
        "value_mean": outcome.value.mean(),
    }
    for name, quantile in zip(_ADVANTAGE_QUANTILES, quantiles, strict=True):
        statistics[f"advantage_q{round(100 * name)}"] = quantile
    return {name: float(value) for name, value in statistics.items()}
