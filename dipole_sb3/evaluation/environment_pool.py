"""Many environments stepped together, in this process or in several, for one batched policy."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper

from dipole_sb3.common.child_processes import live_and_die_with_parent

MakeEnv = Callable[[], gymnasium.Env[Any, Any]]

SUCCESS_KEYS = ("success", "is_success")
"""Info keys where environments report success: OGBench's, then that of Gymnasium-Robotics and Stable-Baselines3."""


class Step(NamedTuple):
    """One environment's answer to an action; ``success`` is None unless the episode's last info reports it."""

    observation: Any
    reward: float
    done: bool
    success: bool | None


class LocalEnvironments:
    """Environments in this process, addressed by slot.

    Each slot has its own state of NumPy's global generator, seeded at reset. Some environments (OGBench's mazes) draw
    from it; what they draw must not depend on other environments or on a training run, nor affect them.

    :param make_env: called once per slot.
    :param slots: names of the slots.
    """

    def __init__(self, make_env: MakeEnv, slots: Iterable[int]) -> None:
        self._environments = {slot: make_env() for slot in slots}
        self._numpy_states: dict[int, Any] = {}

    def reset(self, seeds: Mapping[int, int]) -> dict[int, Any]:
        """Starts an episode in some slots; slot → seed gives slot → observation."""
        observations = {}
        for slot, seed in seeds.items():
            self._numpy_states[slot] = np.random.RandomState(seed).get_state()
            with self._numpy_state(slot):
                observations[slot], _ = self._environments[slot].reset(seed=seed)
        return observations

    def step(self, actions: Mapping[int, np.ndarray]) -> dict[int, Step]:
        """One step in some slots; slot → action in the environment's units gives slot → answer."""
        answers = {}
        for slot, action in actions.items():
            with self._numpy_state(slot):
                observation, reward, terminated, truncated, info = self._environments[slot].step(action)
            done = bool(terminated or truncated)
            answers[slot] = Step(observation, float(reward), done, _success(info) if done else None)
        return answers

    def close(self) -> None:
        """Closes every environment."""
        for environment in self._environments.values():
            environment.close()

    @contextmanager
    def _numpy_state(self, slot: int) -> Iterator[None]:
        outer = np.random.get_state()
        np.random.set_state(self._numpy_states[slot])
        try:
            yield
        finally:
            self._numpy_states[slot] = np.random.get_state()
            np.random.set_state(outer)


class ProcessEnvironments:
    """The same interface as :class:`LocalEnvironments`, with the slots divided among several processes.

    There is one executor per process, because an environment must always be stepped in the process that holds it.

    :param make_env: must be picklable by cloudpickle.
    :param slots: number of environments.
    :param processes: number of processes, at most ``slots``.
    :raises ChildProcessError: a process died (also from :meth:`reset` and :meth:`step`); exceptions of the environments
        are raised as they are.
    """

    def __init__(self, make_env: MakeEnv, slots: int, processes: int) -> None:
        # Forking a process that runs torch's threads can deadlock; Windows only has "spawn".
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        # Imported once, in the server that all processes are forked from, instead of in each of them.
        context.set_forkserver_preload(["__main__", __name__])
        self._executors = [
            ProcessPoolExecutor(max_workers=1, mp_context=context, initializer=live_and_die_with_parent)
            for _ in range(processes)
        ]
        wrapped = CloudpickleWrapper(make_env)
        try:
            futures = [
                executor.submit(_open, wrapped, list(range(rank, slots, processes)))
                for rank, executor in enumerate(self._executors)
            ]
            for future in futures:
                _result(future)
        except BaseException:
            self.close()
            raise

    def reset(self, seeds: Mapping[int, int]) -> dict[int, Any]:
        """As :meth:`LocalEnvironments.reset`."""
        return self._call(_reset, seeds)

    def step(self, actions: Mapping[int, np.ndarray]) -> dict[int, Step]:
        """As :meth:`LocalEnvironments.step`."""
        return self._call(_step, actions)

    def close(self) -> None:
        """Ends the processes."""
        for executor in self._executors:
            executor.shutdown(wait=True, cancel_futures=True)

    def _call(self, function: Callable[..., dict[int, Any]], arguments: Mapping[int, Any]) -> dict[int, Any]:
        count = len(self._executors)
        futures = []
        for rank, executor in enumerate(self._executors):
            own = {slot: argument for slot, argument in arguments.items() if slot % count == rank}
            if own:
                futures.append(_submit(executor, function, own))
        return {slot: answer for future in futures for slot, answer in _result(future).items()}


@contextmanager
def open_environments(
    make_env: MakeEnv, slots: int, processes: int
) -> Iterator[LocalEnvironments | ProcessEnvironments]:
    """Environments in ``processes`` processes (1: in this one), closed when the block ends."""
    pool = (
        LocalEnvironments(make_env, range(slots))
        if processes == 1
        else ProcessEnvironments(make_env, slots, min(processes, slots))
    )
    try:
        yield pool
    finally:
        pool.close()


class KeptEnvironments:
    """Environments that stay open from one evaluation to the next of the same size, where this process steps them.

    Making one of OGBench's takes longer than an episode in it.

    :param make_env: as in :func:`open_environments`.
    """

    def __init__(self, make_env: MakeEnv) -> None:
        self._make_env = make_env
        self._kept: tuple[int, LocalEnvironments] | None = None

    @contextmanager
    def open(self, slots: int, processes: int) -> Iterator[LocalEnvironments | ProcessEnvironments]:
        """As :func:`open_environments`; after an exception, which may leave episodes half played, all are closed."""
        if processes > 1:
            with open_environments(self._make_env, slots, processes) as pool:
                yield pool
            return
        if self._kept is None or self._kept[0] != slots:
            self.close()
            self._kept = slots, LocalEnvironments(self._make_env, range(slots))
        try:
            yield self._kept[1]
        except BaseException:
            self.close()
            raise

    @cached_property
    def seconds_per_episode(self) -> float:
        """See :func:`seconds_per_episode`; measured once."""
        return seconds_per_episode(self._make_env)

    def close(self) -> None:
        """Closes them; the next call of :meth:`open` makes others."""
        if self._kept is not None:
            self._kept[1].close()
        self._kept = None


def seconds_per_episode(make_env: MakeEnv, seed: int = 0, steps: int = 20, unlimited: int = 1000) -> float:
    """How long an episode's steps last, from a few random ones: tells whether processes are worth starting.

    :param make_env: one environment is made, and closed again.
    :param seed: of its reset and of the actions.
    :param steps: number of them.
    :param unlimited: steps of an episode where the environment's spec sets no limit.
    """
    environments = LocalEnvironments(make_env, [0])
    environment = environments._environments[0]
    try:
        limit = environment.spec.max_episode_steps if environment.spec is not None else None
        environment.action_space.seed(seed)
        environments.reset({0: seed})
        spent = 0.0
        for _ in range(steps):
            action = environment.action_space.sample()
            started = time.perf_counter()
            done = environments.step({0: action})[0].done
            spent += time.perf_counter() - started
            if done:
                environments.reset({0: seed})
    finally:
        environments.close()
    return spent / steps * (limit or unlimited)


def _success(info: Mapping[str, Any]) -> bool | None:
    for key in SUCCESS_KEYS:
        if key in info:
            return bool(info[key])
    return None


def _submit(executor: ProcessPoolExecutor, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    try:
        return executor.submit(function, *arguments)
    except BrokenProcessPool as error:
        raise _death() from error


def _result(future: Future[Any]) -> Any:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise _death() from error


def _death() -> ChildProcessError:
    return ChildProcessError(
        "a process with environments died (out of memory, or a script without `if __name__ == '__main__':`, which "
        "processes need); processes=1 steps everything in this one"
    )


# What follows runs in the processes.

_environments: LocalEnvironments | None = None


def _open(make_env: CloudpickleWrapper, slots: list[int]) -> None:
    global _environments
    _environments = LocalEnvironments(make_env.var, slots)


def _reset(seeds: dict[int, int]) -> dict[int, Any]:
    assert _environments is not None
    return _environments.reset(seeds)


def _step(actions: dict[int, np.ndarray]) -> dict[int, Step]:
    assert _environments is not None
    return _environments.step(actions)
