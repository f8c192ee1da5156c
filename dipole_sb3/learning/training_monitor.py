"""Training statistics that stay on the device until they are logged."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor

from dipole_sb3.common.observations import mapped
from dipole_sb3.learning.update_rule import Outcome, UpdateRule


class TrainingMonitor:
    """Sums the losses of every update and keeps the last updates' tensors; reads them when asked to record.

    :param rule: names the losses and describes the tensors.
    :param device: where the updates run.
    """

    def __init__(self, rule: UpdateRule, device: torch.device) -> None:
        self._rule = rule
        self._losses = torch.zeros(len(rule.loss_names), device=device)
        self._counts = torch.zeros_like(self._losses)
        self._details: dict[str, Tensor] | None = None
        self._updates = 0
        self._since = time.perf_counter()

    def add(self, outcome: Outcome, updates: int = 1) -> None:
        """Adds updates to the statistics, without waiting for the device.

        :param outcome: theirs together, see :meth:`Outcome.of_all`; its details may be overwritten later.
        :param updates: number of updates.
        """
        if self._updates == 0 and self._details is None:
            self._since = time.perf_counter()
        self._losses += outcome.losses
        self._counts += outcome.counts
        self._details = {**(self._details or {}), **outcome.details}
        self._updates += updates

    def record(self, logger: Logger, n_updates: int) -> None:
        """Writes means over the updates since the last call in which a loss counted, and the last distributions.

        :param logger: SB3's logger.
        :param n_updates: updates since the model was made.
        """
        if self._details is None or self._updates == 0:
            return
        means, counts = torch.stack([self._losses / self._counts, self._counts]).tolist()
        named = zip(self._rule.loss_names, means, counts, strict=True)
        losses = {name: mean for name, mean, count in named if count}
        logger.record("train/n_updates", n_updates, exclude="tensorboard")
        for name, value in {**losses, **self._rule.statistics(losses, self._details)}.items():
            logger.record(f"train/{name}", value)
        now = time.perf_counter()
        logger.record("time/updates_per_second", self._updates / max(now - self._since, 1e-9))
        self._losses.zero_()
        self._counts.zero_()
        self._updates, self._since = 0, now

    def state(self) -> dict[str, Any]:
        """What the next record depends on, as numbers and arrays."""
        last = None if self._details is None else mapped(lambda tensor: tensor.cpu().numpy(), self._details)
        seconds = time.perf_counter() - self._since
        sums = {"losses": self._losses.cpu().numpy(), "counts": self._counts.cpu().numpy()}
        return {**sums, "last": last, "updates": self._updates, "seconds": seconds}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from what :meth:`state` returned."""

        def tensor(array: np.ndarray) -> Tensor:
            return torch.as_tensor(array, device=self._losses.device)

        self._losses = tensor(state["losses"])
        # Checkpoints of earlier versions counted every loss in every update.
        counts = state.get("counts")
        self._counts = torch.full_like(self._losses, state["updates"]) if counts is None else tensor(counts)
        self._details = None if state["last"] is None else mapped(tensor, state["last"])
        self._updates, self._since = state["updates"], time.perf_counter() - state["seconds"]
