"""The loop around a job: progress bar, log and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable

from stable_baselines3.common.logger import Logger
from torch import Tensor
from tqdm import tqdm

from dipole_sb3.driving.training.job import Job


class TrainingStopped(Exception):
    """A training was asked to stop before its end; its checkpoint is written, where it has a folder."""


def run(
    job: Job,
    logger: Logger,
    updates_before: int,
    progress_bar: bool,
    log_interval: int,
    save: Callable[[], None] | None,
    save_freq: int,
    stop: Callable[[], bool] | None = None,
) -> None:
    """Works until the job is done.

    :param updates_before: of earlier trainings; the log goes on counting from there.
    :param log_interval: updates between rows of the log; rollouts have rows of their own.
    :param save: writes a checkpoint; called between two pieces of work.
    :param save_freq: pieces of work (updates, and batches of rollouts) between checkpoints.
    :param stop: asked between two pieces of work, whether to stop.
    :raises TrainingStopped: it was to stop, and is saved.
    """
    shown = progress_bar and job.workers.is_main_process
    log = _Log(logger, updates_before, job)
    pieces = 0
    with tqdm(total=job.total, initial=job.done, desc=job.kind, unit=" updates", disable=not shown) as bar:
        while job.done < job.total:
            before = job.done
            values = job.step()
            pieces += 1
            learned = job.done > before
            if learned != log.learning:
                log.write()
                log.learning = learned
                bar.set_postfix_str("" if learned else "rollouts")
            log.add(values)
            bar.update(job.done - before)
            if learned and job.done % log_interval == 0:
                log.write()
            stopping = job.done < job.total and stop is not None and stop()
            if save is not None and (pieces % save_freq == 0 or stopping):
                save()
            if stopping:
                raise TrainingStopped(f"{job.kind} stopped after {job.done} of {job.total} updates")
        log.write()


class _Log:
    """Means over the pieces of work since the last row."""

    def __init__(self, logger: Logger, updates_before: int, job: Job) -> None:
        self.learning = True
        self._logger, self._before, self._job = logger, updates_before, job
        self._values: dict[str, list[Tensor | float]] = {}
        self._start, self._done_at_start = time.monotonic(), job.done

    def add(self, values: dict[str, Tensor | float]) -> None:
        for name, value in values.items():
            self._values.setdefault(name, []).append(value)

    def write(self) -> None:
        if not self._values or not self._job.workers.is_main_process:
            return
        for name, values in self._values.items():
            # Counts grow; of them the last one is told, of all else the mean. Here the device is waited for.
            numbers = [float(value) for value in values]
            self._logger.record(name, numbers[-1] if name in _COUNTS else sum(numbers) / len(numbers))
        self._values.clear()
        elapsed = time.monotonic() - self._start
        updates = self._job.done - self._done_at_start
        self._logger.record("time/updates_per_second", updates / max(elapsed, 1e-9))
        self._logger.record("time/time_elapsed", int(elapsed), exclude="tensorboard")
        self._logger.record("time/updates", self._before + self._job.done, exclude="tensorboard")
        self._logger.dump(self._before + self._job.done)


_COUNTS = ("rollout/scored_plans", "time/epochs")
