"""Evaluations in a separate process: training takes a snapshot of its policy and continues."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper

from dipole_sb3.buffers.normalization import ObservationStatistics
from dipole_sb3.common.child_processes import live_and_die_with_parent, without_interrupts, without_script
from dipole_sb3.evaluation.batched_acting import ActingModel
from dipole_sb3.evaluation.environment_pool import KeptEnvironments, MakeEnv
from dipole_sb3.evaluation.sweep import SweepResult, evaluate_sweeps, own_setting
from dipole_sb3.learning.offline_policy import OfflinePolicy

Deliver = Callable[[SweepResult | None], None]
"""Receives a result, or None when there will be none."""


class PolicySnapshot(NamedTuple):
    """Copies of the parts of a model that act, at one moment; no data, optimizer or environment."""

    policy_class: type[OfflinePolicy]
    arguments: dict[str, Any]
    parameters: dict[str, np.ndarray]
    device: str
    statistics: Mapping[str | None, ObservationStatistics]

    @classmethod
    def of(cls, model: ActingModel) -> PolicySnapshot:
        """A snapshot of a model between two updates."""
        policy = model.policy
        parameters = {name: np.array(tensor.cpu()) for name, tensor in policy.state_dict().items()}
        return cls(
            type(policy),
            policy._get_constructor_parameters(),
            parameters,
            str(policy.device),
            model.observation_statistics,
        )

    def restored(self) -> RestoredModel:
        """A model that acts like the one in the snapshot, and cannot learn."""
        policy = self.policy_class(**{**self.arguments, "optimizer_class": _NoOptimizer}).to(self.device)
        policy.load_state_dict({name: torch.as_tensor(array) for name, array in self.parameters.items()})
        return RestoredModel(policy, self.statistics)


class _NoOptimizer:
    """In an optimizer's place: with the first of PyTorch's, a process imports the compiler, which takes seconds."""

    def __init__(self, *_: object, **__: object) -> None:
        pass


class RestoredModel:
    """Acts like the model in a snapshot: an :class:`~dipole_sb3.evaluation.batched_acting.ActingModel`."""

    def __init__(self, policy: OfflinePolicy, statistics: Mapping[str | None, ObservationStatistics]) -> None:
        self.policy, self.observation_statistics = policy, statistics
        self.predict = policy.predict


class _Request(NamedTuple):
    snapshot: PolicySnapshot
    deliver: Deliver


class BackgroundEvaluator:
    """Plays the evaluations of one training process, for one model or for several that learn side by side.

    A context manager. Its process starts with the first evaluation. It is a fresh process, not a fork, because training
    has threads and perhaps CUDA. It uses one thread and the models' device, and ends with the ``with`` block, with this
    process, or by :meth:`close`. It does not import the script that runs, so the script needs no ``if __name__ ==
    "__main__":``; everything that the models and environments are made of must be importable or defined in the script
    itself. Snapshots of the same timestep are played together. Those of the next timestep are taken only after these
    results have been delivered, so memory stays bounded.

    :param make_env: makes one environment, as in :func:`~dipole_sb3.evaluation.sweep.evaluate_sweep`.
    :param episodes: number of episodes in each evaluation, ≥ 1.
    :param seed: seed of the first episode.
    :param processes: number of processes that step the environments; 1: the background process steps them itself.
    """

    def __init__(self, make_env: MakeEnv, episodes: int, seed: int, processes: int | None) -> None:
        self._arguments = (CloudpickleWrapper(make_env), episodes, seed, processes)
        self._stop, theirs = multiprocessing.Pipe()
        self._theirs: Connection | None = theirs
        self._executor = ProcessPoolExecutor(
            max_workers=1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_prepare,
            initargs=(theirs,),
        )
        self._timestep = 0
        self._gathered: list[_Request] = []
        self._running: tuple[Future[list[SweepResult]], list[_Request]] | None = None

    def __enter__(self) -> BackgroundEvaluator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, model: ActingModel, timestep: int, deliver: Deliver) -> None:
        """Takes a snapshot of a model, to be evaluated at the model's own knob values.

        Waits until the snapshots of an earlier timestep have been evaluated.

        :param timestep: timestep of the snapshot.
        :param deliver: called with the result by a later :meth:`collect` or :meth:`wait` (for any model), or with None
            by :meth:`close` or after a failure.
        """
        if self._running is not None or timestep != self._timestep:
            self.wait()
        self._timestep = timestep
        self._gathered.append(_Request(PolicySnapshot.of(model), deliver))

    def collect(self, timestep: int) -> None:
        """Delivers the results that are ready, without waiting.

        :param timestep: the timestep that training has reached; waiting snapshots of an earlier one are sent to the
            process.
        :raises ChildProcessError: the process has died; other exceptions of an evaluation are raised as they are.
        """
        if self._running is not None and self._running[0].done():
            self._deliver()
        if timestep != self._timestep:
            self._send()

    def wait(self) -> None:
        """Waits for everything that was submitted and delivers it; raises as :meth:`collect` does."""
        while self._gathered or self._running is not None:
            if self._running is not None:
                self._deliver()
            self._send()

    def close(self) -> None:
        """Ends the process at once; unfinished evaluations are lost."""
        if self._running is not None:
            # An idle process exits normally and cleans up.
            with suppress(OSError):
                self._stop.send(None)
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._stop.close()
        if self._theirs is not None:
            self._theirs.close()
        lost = [*(self._running[1] if self._running is not None else []), *self._gathered]
        self._running, self._gathered = None, []
        for request in lost:
            request.deliver(None)

    def _send(self) -> None:
        if not self._gathered or self._running is not None:
            return
        requests, self._gathered = self._gathered, []
        snapshots = CloudpickleWrapper([request.snapshot for request in requests])
        try:
            with without_interrupts(), without_script():
                future = self._executor.submit(_evaluate, snapshots, *self._arguments)
        except BrokenProcessPool as error:
            self._fail(requests)
            raise self._death() from error
        self._running = future, requests
        if self._theirs is not None:
            self._theirs.close()  # the process has its own copy
            self._theirs = None

    def _deliver(self) -> None:
        assert self._running is not None
        future, requests = self._running
        try:
            results = future.result()
        except BrokenProcessPool as error:
            self._fail(requests)
            raise self._death() from error
        except Exception:
            self._fail(requests)
            raise
        self._running = None
        for request, result in zip(requests, results, strict=True):
            request.deliver(result)

    def _fail(self, requests: list[_Request]) -> None:
        self._running = None
        for request in requests:
            request.deliver(None)

    def _death(self) -> ChildProcessError:
        return ChildProcessError(
            f"the process that evaluates in the background died (killed, often for lack of memory); the evaluation of "
            f"timestep {self._timestep} is lost, expected it to live as long as training"
        )


# What follows runs in the background process.

_environments: KeptEnvironments | None = None


def _prepare(stop: Connection) -> None:
    torch.set_num_threads(1)  # leave the other cores to training and the environments
    live_and_die_with_parent(stop)


def _evaluate(
    snapshots: CloudpickleWrapper, make_env: CloudpickleWrapper, episodes: int, seed: int, processes: int | None
) -> list[SweepResult]:
    global _environments
    if _environments is None:
        _environments = KeptEnvironments(make_env.var)
    models = [snapshot.restored() for snapshot in snapshots.var]
    alike: dict[tuple[Any, ...], list[int]] = {}
    for index, model in enumerate(models):
        alike.setdefault((model.policy.knobs, *own_setting(model).values()), []).append(index)
    results: dict[int, SweepResult] = {}
    for indices in alike.values():
        sweeps = evaluate_sweeps(
            [models[index] for index in indices],
            make_env.var,
            episodes=episodes,
            seed=seed,
            processes=processes,
            environments=_environments,
        )
        results.update(zip(indices, sweeps, strict=True))
    return [results[index] for index in range(len(models))]
