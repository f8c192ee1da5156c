"""What all trainings share: the loop with its log, progress bar and checkpoints, and the way over several processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from dipole_sb3.driving.model.planner import Planner
from dipole_sb3.driving.scene import Observation
from dipole_sb3.driving.training.interfaces import Scenes
from dipole_sb3.learning.precision import ProductType, products_in

CLIP = 1.0
"""Largest norm of a gradient."""


class Trainee(Protocol):
    """What a job needs of the agent that it trains."""

    planner: Planner
    generator: torch.Generator
    device: torch.device
    products: ProductType

    @property
    def training_scenes(self) -> Scenes: ...

    def tensors_of(self, observation: Observation) -> tuple[Tensor, Tensor, Tensor]:
        """Cameras, text and history of a batch, on the device."""
        ...


class Job(ABC):
    """A training that can stop after any step, and go on from its state as if it had not.

    All processes draw the same numbers for a whole batch from the CPU's generator, and each takes its own rows: the
    number of processes does not change what is learned.

    :param agent: who is trained.
    """

    kind: str

    def __init__(self, agent: Trainee) -> None:
        self.agent = agent
        # Moving things to devices is the agent's business. Without `accelerate launch` there is one process.
        self.workers = Accelerator(device_placement=False)
        self.products = agent.products
        self.done = 0

    @property
    @abstractmethod
    def total(self) -> int:
        """Updates until the end."""

    @abstractmethod
    def step(self) -> dict[str, Tensor | float]:
        """The next piece of work: one update, or one batch of rollouts. Gives what the log is told of it."""

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """What the training was asked for, for a JSON file."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Where the training is: tensors, and values for a JSON file."""

    @abstractmethod
    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Goes on from what :meth:`state` gave."""

    def mine(self, rows: Any) -> Any:
        """Of the rows of a whole batch, those of this process."""
        return rows[self.workers.process_index :: self.workers.num_processes]

    def together(self, rows: Tensor, count: int) -> Tensor:
        """Rows of all processes, in the order of the whole batch of ``count``."""
        if self.workers.num_processes == 1:
            return rows
        whole = rows.new_zeros((count, *rows.shape[1:]))
        whole[self.workers.process_index :: self.workers.num_processes] = rows
        return self.workers.reduce(whole.to(self.agent.device), "sum").to(rows.device)  # type: ignore[no-any-return]

    def prepared(self, module: nn.Module) -> nn.Module:
        """A module whose gradients are averaged over the processes; its ``forward`` gives the loss."""
        return self.workers.prepare(module)  # type: ignore[no-any-return]

    def noise(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.agent.generator)

    def times(self, *shape: int) -> Tensor:
        """t ~ U(0.001, 1)."""
        return torch.rand(shape, generator=self.agent.generator) * 0.999 + 0.001

    def order(self, count: int) -> Tensor:
        return torch.randperm(count, generator=self.agent.generator)

    def batch_bounds(self, count: int, size: int) -> list[tuple[int, int]]:
        """First and last row of each batch; the last is left out where it has no row for every process."""
        bounds = [(start, min(start + size, count)) for start in range(0, count, size)]
        return [each for each in bounds if each[1] - each[0] >= self.workers.num_processes]

    def update(self, module: nn.Module, optimizer: torch.optim.Optimizer, count: int, *inputs: Any) -> dict[str, Any]:
        """One step down the gradient of the loss that a module computes of this process's rows.

        :param module: gives (loss, values for the log).
        :param count: rows of the whole batch.
        """
        own = len(range(self.workers.process_index, count, self.workers.num_processes))
        with products_in(self.products, self.agent.device):
            loss, values = module(*inputs)
        # The processes' gradients are averaged, whatever the number of their rows.
        self.workers.backward(loss * (own * self.workers.num_processes / count))
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        norm = self.workers.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {**values, "train/gradient_norm": norm}


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's moments and counts, by the index of their parameter."""
    return {
        f"optimizer/{index}/{name}": value
        for index, row in optimizer.state_dict()["state"].items()
        for name, value in row.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Goes on from what :func:`optimizer_state` gave."""
    rows: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            _, index, name = key.split("/")
            rows.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": rows})


def experts_of(scenes: Scenes, indices: Sequence[int]) -> Tensor:
    """Recorded plans [indices, 8, 3]."""
    return torch.stack([torch.as_tensor(scenes[index].expert, dtype=torch.float32) for index in indices])
