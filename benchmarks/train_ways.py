"""What train_speed.py measures of this project: a run alone or several at once, on data of a task's size."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing import get_context
from typing import Any

import hydra
import torch
from omegaconf import OmegaConf
from train_peers import random_transitions
from update_work import PeakMemory, counted_operations

from dipole_sb3 import OfflineReplayBuffer, stack_frames
from dipole_sb3.cli.configuration import config_folder, open_configuration_tree
from dipole_sb3.cli.models import algorithm_of
from dipole_sb3.learning.learn_together import Together
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm

Train = Callable[[int, int], None]
"""``train(gradient_steps, batch_size)``."""

PRECISIONS = ("fp32", "tf32", "bf16")
"""Of products; ``"tf32"`` is single precision with PyTorch's ``set_float32_matmul_precision("high")``, CUDA only."""

DEPTH = 3
UPDATES_TO_WARM_UP = 13
"""Three before a CUDA graph is captured, and the ten that it holds."""


@dataclass(frozen=True)
class Task:
    """Shapes, and the options of ``dipole train`` that name the hyperparameters.

    :param observation: of one vector or one image, channels last.
    :param frame_stack: images in what is observed.
    """

    observation: tuple[int, ...]
    action: int
    options: tuple[str, ...]
    frame_stack: int = 1


VISUAL = "visual"
TASKS = {
    "ogbench": Task((28,), 5, ("task=ogbench/cube-single-play", "task_id=1")),
    "exorl": Task((78,), 12, ("task=exorl/quadruped-walk",)),
    VISUAL: Task((64, 64, 3), 5, ("task=ogbench/visual-cube-single-play",), 3),
}


def composed(options: list[str]) -> Any:
    """The configuration of ``dipole train`` with these options."""
    with open_configuration_tree():
        return hydra.compose("train", overrides=options)


_NAMES = sorted(file.stem for file in (config_folder() / "algo").glob("*.yaml"))

ALGORITHMS = ("dipole", *(name for name in _NAMES if name != "dipole"))
"""What ``algo=`` may be; first the one at whose batch size peers and products are measured."""


@dataclass(frozen=True)
class Setup:
    """One algorithm's runs on a task, at one width on one device.

    :param task: a key of :data:`TASKS`.
    :param algorithm: one of :data:`ALGORITHMS`.
    :param width: of the three hidden layers, the same for every algorithm.
    :param device: of torch.
    """

    task: str
    algorithm: str
    width: int
    device: torch.device

    @cached_property
    def config(self) -> Any:
        """What ``dipole train`` would read."""
        return composed([*TASKS[self.task].options, f"algo={self.algorithm}"])

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """Of the algorithm, from the configuration tree but for the width."""
        found: Any = OmegaConf.to_container(self.config.algo, resolve=True)
        del found["_target_"]
        found["policy_kwargs"]["net_arch"] = [self.width] * DEPTH
        return {**found, "verbose": 0, "device": self.device}

    @property
    def batch(self) -> int:
        return int(self.arguments["batch_size"])

    @cached_property
    def operations(self) -> int:
        """Floating-point operations of one update's matrix products: the mean of two, for ReBRAC's differ in turns."""
        return sum(counted_operations(self.eager_update) for _ in range(2)) // 2

    @cached_property
    def eager_update(self) -> Callable[[], None]:
        """One update of one run, on which its work is counted."""
        train = self.trainer("eager", 1)
        return lambda: train(1, self.batch)

    @cached_property
    def data(self) -> OfflineReplayBuffer:
        """Random transitions on the device."""
        task = TASKS[self.task]
        arrays = random_transitions(task.observation, task.action)
        return stack_frames(OfflineReplayBuffer.from_arrays(arrays, device=self.device), task.frame_stack)

    def trainer(self, way: str, runs: int, precision: str = "fp32") -> Train:
        """How so many runs are trained, each with a seed of its own.

        :param way: ``"auto"``, ``"eager"``, ``"compiled"`` or ``"captured"``.
        :param precision: one of :data:`PRECISIONS`.
        """
        models = [self.model(way, seed, precision) for seed in range(runs)]
        train = models[0].train if runs == 1 else Together(models).train

        def train_so(gradient_steps: int, batch_size: int) -> None:
            # PyTorch's switch is one for the process, and what it says when a product starts is what counts.
            torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
            train(gradient_steps, batch_size)

        return train_so

    def model(self, way: str, seed: int, precision: str = "fp32") -> OfflineAlgorithm:
        """A model that trains in this way."""
        how = {"acceleration": way, "precision": "bf16" if precision == "bf16" else "fp32"}
        return algorithm_of(self.config)(**{**self.arguments, **how}, dataset=self.data, seed=seed)

    def memory(self, way: str, runs: int, precision: str) -> float | None:
        """MiB that :meth:`trainer` and its first updates take at most, in a process of its own, beyond the data."""
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            return process.submit(_memory, replace(self), way, runs, precision).result()


def _memory(setup: Setup, way: str, runs: int, precision: str) -> float | None:
    _ = setup.data
    with PeakMemory(setup.device) as memory:
        train = setup.trainer(way, runs, precision)
        train(UPDATES_TO_WARM_UP, setup.batch)
    return memory.added
