"""Processes that make OGBench episodes and leave each in a file of its own."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from dipole_sb3.common import renderers
from dipole_sb3.common.task_processes import Finish, finish_tasks
from dipole_sb3.datasets.ogbench.oracles import RECIPES, Collector, Episode

SPLITS = ("train", "val")


@dataclass(frozen=True)
class Task:
    """One episode: its split (``train`` or ``val``) and its place there, from 0."""

    split: str
    index: int

    def file(self, folder: Path) -> Path:
        return folder / f"{self.split}-{self.index:06d}.npz"

    def seed(self, seed: int) -> np.random.SeedSequence:
        """The episode's own seed; independent of how many episodes there are and of who makes it."""
        return np.random.SeedSequence(seed, spawn_key=(SPLITS.index(self.split), self.index))


@dataclass(frozen=True)
class Job:
    """What every worker needs to know.

    :param recipe: name of the data set, a key of RECIPES.
    :param max_episode_steps: steps of an episode.
    :param seed: of the whole data set, ≥ 0.
    :param folder: where episode files go.
    :param renderer: what MuJoCo draws pictures with; None: nothing is drawn.
    """

    recipe: str
    max_episode_steps: int
    seed: int
    folder: Path
    renderer: str | None = None


def make_episodes(
    job: Job, tasks: Sequence[Task], processes: int, elsewhere: Finish | None = None
) -> Generator[Task, None, None]:
    """Makes the episodes in worker processes and yields each one once its file is complete.

    :param job: what to make.
    :param tasks: episodes to make, each once.
    :param processes: workers, ≥ 1.
    :param elsewhere: makes them instead of these workers.
    :raises OSError: a file could not be written.
    :raises DatasetError: a worker was killed.
    """
    if elsewhere is not None:
        yield from elsewhere(_Making(job), tasks, _name, job.folder)
        return
    yield from finish_tasks(
        _Making(job),
        tasks,
        processes,
        _name,
        "finished episodes are kept, and the same call goes on from there",
    )


def _name(task: Task) -> str:
    return f"{task.split} episode {task.index}"


class _Making:
    """What a worker does: one episode after the other, in one environment."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._collector: Collector | None = None

    def __call__(self, task: Task) -> None:
        job = self._job
        if self._collector is None:
            gymnasium.logger.min_level = gymnasium.logger.ERROR  # its remarks on float precision, once per worker
            if job.renderer is not None:
                os.environ[renderers.VARIABLE] = job.renderer  # before MuJoCo is imported
            self._collector = Collector(RECIPES[job.recipe], job.max_episode_steps)
        save_episode(self._collector.collect(task.seed(job.seed)), task.file(job.folder))


def save_episode(episode: Episode, path: Path) -> None:
    """Writes one episode, whole or not at all.

    :raises OSError: no space left, no permission, …
    """
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.tmp")
    arrays: dict[str, Any] = dict(episode)
    try:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
