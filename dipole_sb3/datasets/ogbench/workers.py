"""Processes that make OGBench episodes and leave each in a file of its own."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import traceback
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from dipole_sb3.common.child_processes import Worker, quiet_children
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
    """

    recipe: str
    max_episode_steps: int
    seed: int
    folder: Path


def make_episodes(job: Job, tasks: Sequence[Task], processes: int) -> Generator[Task, None, None]:
    """Makes the episodes in worker processes and yields each one once its file is complete.

    Workers end with this generator, and by themselves when this process is gone.

    :param job: what to make.
    :param tasks: episodes to make, each once.
    :param processes: workers, ≥ 1.
    :raises DatasetError: a file could not be written, or a worker was killed.
    """
    workers: dict[Connection, tuple[Worker, Task]] = {}
    pending = iter(tasks)
    try:
        with quiet_children():
            for task in itertools.islice(pending, processes):
                worker = Worker.start(_work, job)
                workers[worker.connection] = (worker, task)
        for connection, (_, task) in workers.items():
            _send(connection, task)
        while workers:
            for connection in [ready for ready in wait(list(workers)) if isinstance(ready, Connection)]:
                worker, task = workers[connection]
                _receive(worker, task)
                yield task
                following = next(pending, None)
                if following is None:
                    del workers[connection]
                    connection.close()
                    worker.process.join()
                else:
                    _send(connection, following)
                    workers[connection] = (worker, following)
    finally:
        for worker, _ in workers.values():
            worker.end()


def _send(connection: Connection, task: Task) -> None:
    # A worker that is gone is reported, with its exit code, when its answer is waited for.
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.send(task)


def _receive(worker: Worker, task: Task) -> None:
    """Waits for 'done' (None); anything else ends the whole run."""
    failure = worker.receive(
        f"the worker process that made {task.split} episode {task.index}",
        "finished episodes are kept, and the same call goes on from there",
    )
    if isinstance(failure, OSError):
        raise failure
    if failure is not None:
        raise RuntimeError(f"{task.split} episode {task.index} failed in its worker process:\n{failure}")


def _work(connection: Connection, job: Job) -> None:
    """What a worker does: an episode for every task it receives, until the other side closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gymnasium.logger.min_level = gymnasium.logger.ERROR  # its remarks on float precision, once per worker
    worker = _Worker(job)
    try:
        while True:
            connection.send(worker.attempt(connection.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sys.exit(0)


class _Worker:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._collector: Collector | None = None

    def attempt(self, task: Task) -> OSError | str | None:
        """Makes one episode; returns what went wrong."""
        job = self._job
        try:
            if self._collector is None:
                self._collector = Collector(RECIPES[job.recipe], job.max_episode_steps)
            save_episode(self._collector.collect(task.seed(job.seed)), task.file(job.folder))
        except OSError as error:
            return OSError(error.errno, error.strerror, str(error.filename or task.file(job.folder)))
        except Exception:
            # Sent as text, to be raised by the parent: not every exception survives pickling.
            return traceback.format_exc()
        return None


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
