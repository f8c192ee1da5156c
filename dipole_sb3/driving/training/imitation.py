"""Pre-training: encoder and decoder learn together to say which noise is in the recorded plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dipole_sb3.common.checks import require_whole_number
from dipole_sb3.driving.model.adapters import train_only
from dipole_sb3.driving.model.diffusion import noised
from dipole_sb3.driving.model.planner import Planner
from dipole_sb3.driving.training.checks import require_positive
from dipole_sb3.driving.training.job import Job, Trainee, experts_of, optimizer_state, restore_optimizer

NOISES = 8
"""How often each plan of a batch is noised: it costs little beside encoding the scene, and steadies the gradient."""


@dataclass(frozen=True)
class ImitationArguments:
    """See :meth:`~dipole_sb3.driving.agent.DPVLA.pretrain`.

    :raises ValueError: a wrong argument.
    """

    epochs: int
    batch_size: int
    learning_rate: float

    def __post_init__(self) -> None:
        require_whole_number("epochs", self.epochs, 1)
        require_whole_number("batch_size", self.batch_size, 1)
        require_positive("learning_rate", self.learning_rate)


class ImitationLoss(nn.Module):
    """E|ε − ε̂|² over recorded plans; one module, so that one wrapper can average its gradients over processes."""

    def __init__(self, planner: Planner) -> None:
        super().__init__()
        self.planner = planner

    def forward(
        self, cameras: Tensor, text: Tensor, history: Tensor, plans: Tensor, noise: Tensor, time: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """
        :param plans: recorded, [S, 8, 3].
        :param noise: [S, P, 8, 4]; every plan is noised P times.
        :param time: [S, P].
        """
        decoder = self.planner.decoder
        memory = decoder.remember(self.planner.encoder(cameras, text), ())
        x = noised(self.planner.normalised(plans)[:, None], noise, time)
        answers = decoder(x[None], time, self.planner.normalised_history(history), memory, ())[0]
        loss = (answers.float() - noise).square().mean()
        return loss, {"train/loss": loss.detach()}


class Imitation(Job):
    """:param arguments: what was asked for."""

    kind = "imitation"

    def __init__(self, agent: Trainee, arguments: ImitationArguments) -> None:
        super().__init__(agent)
        self._arguments = arguments
        self._bounds = self.batch_bounds(len(agent.training_scenes), arguments.batch_size)
        encoder, decoder = agent.planner.encoder, agent.planner.decoder
        encoder.requires_grad_(True)
        self._optimizer = torch.optim.AdamW(
            [*encoder.parameters(), *train_only(decoder, ())], lr=arguments.learning_rate, fused=True
        )
        self._loss = self.prepared(ImitationLoss(agent.planner))
        self._order = torch.empty(0, dtype=torch.int64)

    @property
    def total(self) -> int:
        return self._arguments.epochs * len(self._bounds)

    def step(self) -> dict[str, Tensor | float]:
        scenes, device = self.agent.training_scenes, self.agent.device
        place = self.done % len(self._bounds)
        if place == 0:
            self._order = self.order(len(scenes))
        start, end = self._bounds[place]
        count = end - start
        noise, time = self.noise(count, NOISES, 8, 4), self.times(count, NOISES)
        indices = self.mine(self._order[start:end]).tolist()
        inputs = (
            *self.agent.tensors_of(scenes.observations(indices)),
            *(each.to(device) for each in (experts_of(scenes, indices), self.mine(noise), self.mine(time))),
        )
        values = self.update(self._loss, self._optimizer, count, *inputs)
        self.done += 1
        return {**values, "time/epochs": self.done / len(self._bounds)}

    def arguments(self) -> dict[str, Any]:
        return asdict(self._arguments)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {"order": self._order, **optimizer_state(self._optimizer)}, {"done": self.done}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        self.done, self._order = values["done"], tensors["order"]
        restore_optimizer(self._optimizer, tensors)
