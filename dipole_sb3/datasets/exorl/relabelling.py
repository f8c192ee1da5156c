"""ExORL's recordings with the rewards of a task, computed through dm_control's physics in several processes."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
from dm_control.rl.control import PhysicsError
from gymnasium import spaces
from numpy.typing import NDArray

from dipole_sb3.common.child_processes import Worker, quiet_children, without_script
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets.exorl.episodes import EpisodeFile, Widths, read_episode
from dipole_sb3.datasets.exorl.tasks import flat_observation, make_environment


class Relabeller:
    """Computes the rewards of one task from recorded states.

    :param domain: a key of :data:`dipole_sb3.datasets.exorl.names.DOMAINS`.
    :param task: one of its tasks.
    """

    def __init__(self, domain: str, task: str) -> None:
        self._domain = domain
        self._environment = make_environment(domain, task, np.random.RandomState(0))
        # Jaco's target takes its place when an episode starts, and keeps it.
        first = flat_observation(self._environment.reset().observation)
        action = self._environment.action_spec().shape[0]
        self.widths = Widths(len(first), action, len(self._environment.physics.get_state()))

    def rewards(self, states: NDArray[np.float64], source: str) -> NDArray[np.float32]:
        """The task's reward of every state, as ExORL computes it.

        :param states: [T, physics], as dm_control's ``physics.get_state()`` gives them.
        :param source: name of the data in error messages.
        :raises DatasetError: a state that the physics cannot be in.
        """
        physics, task = self._environment.physics, self._environment.task
        rewards = np.empty(len(states), np.float32)
        for row, state in enumerate(states):
            try:
                with physics.reset_context():
                    physics.set_state(state)
            except PhysicsError as error:
                raise DatasetError(
                    f"{source}: physics row {row + 1} is no state of the domain {self._domain} ({error})"
                ) from error
            rewards[row] = task.get_reward(physics)
        return rewards

    def label(self, file: EpisodeFile) -> dict[str, NDArray[Any]]:
        """An episode's transitions, as :meth:`dipole_sb3.OfflineReplayBuffer.from_arrays` takes them.

        :raises DatasetError: the file is not an episode of this domain, whole and sound.
        """
        episode = read_episode(file, self.widths, self._domain)
        terminals = np.zeros(file.steps, np.float32)
        terminals[-1] = 1.0
        return {
            "observations": episode.observations,
            "actions": episode.actions,
            "rewards": self.rewards(episode.states, str(file.path)),
            "next_observations": episode.next_observations,
            "terminals": terminals,
            "masks": np.ones(file.steps, np.float32),
        }

    def spaces(self) -> tuple[spaces.Box, spaces.Box]:
        """Observation and action space of the data."""
        return (
            spaces.Box(-np.inf, np.inf, (self.widths.observation,), np.float32),
            spaces.Box(-1.0, 1.0, (self.widths.action,), np.float32),
        )


def label_all(
    domain: str, task: str, episodes: Sequence[EpisodeFile], processes: int
) -> Generator[dict[str, NDArray[Any]], None, None]:
    """The labelled transitions of every episode, in order; the same whatever the number of processes.

    Workers end with this generator, and by themselves when this process is gone. Each is at most one episode ahead.

    :param domain: as for :class:`Relabeller`, as ``task``.
    :param task: to be rewarded for.
    :param episodes: files to label.
    :param processes: workers, ≥ 1; a single one is this process.
    :raises DatasetError: an episode that is damaged or of another domain (named), or a worker that was killed.
    """
    if processes == 1:
        relabeller = Relabeller(domain, task)
        for file in episodes:
            yield relabeller.label(file)
        return
    shares = [_Share(domain, task, list(episodes[rank::processes])) for rank in range(processes)]
    with _workers(shares) as workers:
        # Dealt out in turn and collected in turn; a worker whose pipe is full waits until it is its turn.
        for index, file in enumerate(episodes):
            yield _receive(workers[index % processes], file)


class _Share(NamedTuple):
    """What one worker labels, in this order."""

    domain: str
    task: str
    episodes: list[EpisodeFile]


@contextmanager
def _workers(shares: Sequence[_Share]) -> Iterator[list[Worker]]:
    workers: list[Worker] = []
    try:
        with quiet_children(), without_script():
            for share in shares:
                workers.append(Worker.start(_work, share))
        yield workers
    finally:
        for worker in workers:
            worker.end()


def _receive(worker: Worker, file: EpisodeFile) -> dict[str, NDArray[Any]]:
    answer = worker.receive(f"{file.path}: the worker process that relabelled it", "nothing was kept")
    if isinstance(answer, DatasetError):
        raise answer
    if isinstance(answer, str):
        raise RuntimeError(f"{file.path} failed in its worker process:\n{answer}")
    labelled: dict[str, NDArray[Any]] = answer
    return labelled


def _work(connection: Connection, share: _Share) -> None:
    """What a worker does: it labels its share of the episodes, or tells what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        try:
            relabeller = Relabeller(share.domain, share.task)
            for file in share.episodes:
                connection.send(relabeller.label(file))
        except DatasetError as error:
            connection.send(error)
        except Exception:
            # As text: not every exception survives pickling.
            connection.send(traceback.format_exc())
    except (BrokenPipeError, ConnectionResetError):
        sys.exit(0)  # the parent no longer waits for it
