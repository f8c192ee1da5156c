"""The phases of learning: updates on recorded data, then environment steps."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any, TypeVar

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule, TrainFreq
from stable_baselines3.common.utils import configure_logger
from stable_baselines3.common.vec_env import DummyVecEnv

from dipole_sb3.buffers.mixed_buffer import recorded_part
from dipole_sb3.buffers.normalization import fit_vec_normalize
from dipole_sb3.common.profiler_sections import section
from dipole_sb3.common.random_state import global_generators, restore_global_generators
from dipole_sb3.learning.callbacks import RecordedSpaces, TimestepProgressBar
from dipole_sb3.learning.phases import end_of_offline_phase, planned_updates, require_data, require_environment
from dipole_sb3.learning.training_data import require_consecutive
from dipole_sb3.learning.updating_algorithm import UpdatingAlgorithm

Self = TypeVar("Self", bound="PhasedAlgorithm")

OFFLINE_LOG_UNIT = 250
"""Updates per unit of ``log_interval`` in the offline phase, where there are no episodes to count."""


class PhasedAlgorithm(UpdatingAlgorithm):
    """An algorithm whose ``learn`` makes its first timesteps without an environment."""

    offline_steps: int | None
    offline_ratio: float | Schedule | None
    _offline_end: int
    _iteration_ends: list[Callable[[], bool]]
    _when_learning_begins: Callable[[], None] | None
    _generators_online: dict[str, Any] | None

    def arguments_that_need_order(self) -> list[str]:
        """Names of arguments whose values ask for transitions in the order in which they were recorded."""
        return ["n_steps"] if self.n_steps > 1 else []

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Learns for ``total_timesteps`` more timesteps: first offline, then online.

        Up to timestep ``offline_steps``, a timestep is one update on the data set. ``callback.on_step()`` runs after
        each, so SB3's callbacks work unchanged (there are no episodes: ``dones`` is all False, ``infos`` empty). The
        remaining timesteps are environment steps, with SB3's ``train_freq`` and ``gradient_steps``; the data set stays
        in the replay buffer.

        :param total_timesteps: number of timesteps, offline and online together.
        :param callback: SB3 callback(s).
        :param log_interval: offline: log every ``250 · log_interval`` updates; online: every ``log_interval`` episodes.
        :param tb_log_name: name of the run for TensorBoard; None: the algorithm's name.
        :param reset_num_timesteps: False continues the count of timesteps (with ``offline_steps=None`` and an
            environment, the offline phase stays where the earlier call ended it).
        :param progress_bar: tqdm and rich progress bar.
        :return: the model.
        :raises ValueError: there are no data to learn from, or there are online timesteps but no environment.
        """
        self.choose_way(self.updates_ahead(total_timesteps, reset_num_timesteps), reset_num_timesteps)
        learning = self.learning(
            total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
        )
        with closing(learning):
            for updates in learning:
                self.train(updates, self.batch_size)
        return self

    def learning(
        self,
        total_timesteps: int,
        callback: MaybeCallback,
        log_interval: int,
        tb_log_name: str | None,
        reset_num_timesteps: bool,
        progress_bar: bool,
    ) -> Generator[int, None, None]:
        """All of :meth:`learn` except the updates on recorded data: yields how many of them the caller must make.

        This lets several models learn side by side, with their updates made as one.
        """
        self._plan_phases(total_timesteps, reset_num_timesteps)
        if self._has_recorded_data():
            for argument in self.arguments_that_need_order():
                require_consecutive(self.filled_buffer(), f"{argument}={getattr(self, argument)!r}")
        if self._vec_normalize_env is not None and self.dataset is not None:
            fit_vec_normalize(self._vec_normalize_env, recorded_part(self.filled_buffer()))
            self._run.forget_normalizer()
        with self._environment_for_callbacks():
            total_timesteps, callback = self._setup_learn(
                total_timesteps, callback, reset_num_timesteps, tb_log_name or type(self).__name__, progress_bar
            )
            self._iteration_ends = []
            callback.on_training_start(locals(), globals())
            if self._when_learning_begins is not None:
                self._when_learning_begins()
                self._when_learning_begins = None
            offline_end = min(self._offline_end, total_timesteps)
            goes_on = yield from self._learn_offline(offline_end, callback, log_interval)
            if goes_on and self.num_timesteps < total_timesteps:
                if self._generators_online is not None:
                    restore_global_generators(self._generators_online)
                    self._generators_online = None
                self._learn_online(total_timesteps, callback, log_interval)
            callback.on_training_end()

    def when_learning_begins(self, listener: Callable[[], None] | None) -> None:
        """Calls ``listener`` once, when ``learn`` has set up everything and before its first timestep."""
        self._when_learning_begins = listener

    def go_online_with(self, generators: dict[str, Any] | None) -> None:
        """Sets the global generators once, before the first environment step of a ``learn`` that goes online.

        :param generators: of :func:`~dipole_sb3.common.random_state.global_generators`; None: leave them as they are.
        """
        self._generators_online = generators

    def generators_of_run(self) -> dict[str, Any]:
        """The global generators that this run goes on with, which in between may be at the service of others."""
        return global_generators() if self._generators_online is None else self._generators_online

    @property
    def goes_online(self) -> bool:
        """Whether the running ``learn`` ends with environment steps."""
        return self._total_timesteps > self._offline_end

    def _plan_phases(self, total_timesteps: int, reset_num_timesteps: bool) -> None:
        """Decides at which timestep the offline phase ends; raises at once if one of the phases could not run."""
        start = 0 if reset_num_timesteps else self.num_timesteps
        self._offline_end = end_of_offline_phase(
            self.offline_steps,
            self._offline_end,
            start,
            total_timesteps,
            has_dataset=self.dataset is not None,
            has_env=self.env is not None,
        )
        require_data(self._offline_end, start, self._has_recorded_data(), self.offline_ratio)
        if start + total_timesteps > self._offline_end:
            assert isinstance(self.train_freq, TrainFreq)
            require_environment(self._offline_end, self.env is not None, self.train_freq, self.n_envs)

    def updates_ahead(self, total_timesteps: int, reset_num_timesteps: bool) -> int:
        """How many updates a ``learn`` of these arguments would make; raises what it would raise."""
        self._plan_phases(total_timesteps, reset_num_timesteps)
        start = 0 if reset_num_timesteps else self.num_timesteps
        assert isinstance(self.train_freq, TrainFreq)
        return planned_updates(
            self._offline_end, start, start + total_timesteps, self.train_freq, self.gradient_steps, self.n_envs
        )

    @contextmanager
    def _environment_for_callbacks(self) -> Iterator[None]:
        """SB3's callbacks need ``training_env`` when they start; without an environment they get a placeholder."""
        if self.env is not None:
            yield
            return
        self.env = DummyVecEnv([lambda: RecordedSpaces(self.observation_space, self.action_space)])
        try:
            yield
        finally:
            self.env = None

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        """SB3's preparation without ``env.reset()``: updates on recorded data must not move a robot."""
        self.start_time = time.time_ns()
        if self.ep_info_buffer is None or reset_num_timesteps:
            self.ep_info_buffer = deque(maxlen=self._stats_window_size)
            self.ep_success_buffer = deque(maxlen=self._stats_window_size)
        if reset_num_timesteps:
            self.num_timesteps = self._episode_num = 0
            self._last_obs = None
        else:
            total_timesteps += self.num_timesteps
        self._total_timesteps = total_timesteps
        self._num_timesteps_at_start = self.num_timesteps
        if not self._custom_logger:
            self._logger = configure_logger(self.verbose, self.tensorboard_log, tb_log_name, reset_num_timesteps)
        return total_timesteps, self._init_callback(callback, progress_bar)

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        if progress_bar:
            callbacks = callback if isinstance(callback, list) else [callback]
            converted = [part if isinstance(part, BaseCallback) else ConvertCallback(part) for part in callbacks]
            callback = CallbackList([*converted, TimestepProgressBar()])
        return super()._init_callback(callback, progress_bar=False)

    def _learn_offline(self, end: int, callback: BaseCallback, log_interval: int) -> Generator[int, None, bool]:
        """One update per timestep until ``end``, each requested by a yield; False when a callback stopped it."""
        # What SB3's callbacks look for among the local variables after an environment step.
        dones = np.zeros(self.n_envs, dtype=bool)
        infos: list[dict[str, Any]] = [{} for _ in range(self.n_envs)]
        updates_per_log = OFFLINE_LOG_UNIT * log_interval if log_interval else 0
        while self.num_timesteps < end:
            self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
            # Stops at multiples of per_replay, so that a callback due there finds exactly that many updates done.
            at_once = self._running_updates(self.batch_size).per_replay
            updates = min(at_once - self.num_timesteps % at_once, end - self.num_timesteps)
            yield updates
            for _ in range(updates):
                self.num_timesteps += 1
                callback.update_locals({"self": self, "dones": dones, "infos": infos})
                with section("callbacks"):
                    if not callback.on_step():
                        return False
                if updates_per_log and (self.num_timesteps % updates_per_log == 0 or self.num_timesteps == end):
                    self.dump_logs()
            if not self._iteration_ended():
                return False
        return True

    def _learn_online(self, end: int, callback: BaseCallback, log_interval: int) -> None:
        """SB3's loop of rollouts and trainings until ``end``."""
        assert self.env is not None
        assert isinstance(self.train_freq, TrainFreq)
        buffer = self._make_room()
        if self.action_noise is not None:
            self.action_noise = _noise_of_environments(self.action_noise, self.n_envs)
        if self._last_obs is None:
            self._last_obs = self.env.reset()
            self._last_episode_starts = np.ones((self.n_envs,), dtype=bool)
            if self._vec_normalize_env is not None:
                self._last_original_obs = self._vec_normalize_env.get_original_obs()
            # Not when an episode continues: correlated noise continues with it.
            if self.action_noise is not None:
                self.action_noise.reset()
        # A policy that has learned from data needs no random actions at the start.
        learning_starts = 0 if buffer.n_recorded else self.learning_starts
        while self.num_timesteps < end:
            with section("environment steps"):
                rollout = self.collect_rollouts(
                    self.env, callback, self.train_freq, buffer, self.action_noise, learning_starts, log_interval
                )
            if not rollout.continue_training:
                return
            steps = self.gradient_steps if self.gradient_steps >= 0 else rollout.episode_timesteps
            if self.num_timesteps > learning_starts and steps > 0:
                self.train(gradient_steps=steps, batch_size=self.batch_size)
            if not self._iteration_ended():
                return

    def at_iteration_ends(self, listener: Callable[[], bool]) -> None:
        """Calls ``listener`` at the end of every iteration until ``learn`` returns; for ``_on_training_start``.

        An iteration is one update offline (or those of one CUDA graph), and a rollout with its training online. At its
        end, parameters, counters, replay buffer, environment and log belong to the same timestep; in a callback's
        ``_on_step`` they do not.

        :param listener: False ends learning.
        """
        self._iteration_ends.append(listener)

    def _iteration_ended(self) -> bool:
        # All of them run, even after one of them has ended learning.
        with section("callbacks"):
            answers = [listener() for listener in self._iteration_ends]
        return all(answers)

    @property
    def is_inside_an_episode(self) -> bool:
        """Whether the next environment step continues the running episodes; if not, it begins with a reset."""
        return self._last_obs is not None

    def begin_new_episodes(self) -> None:
        """Makes the next environment step begin with a reset."""
        self._last_obs = None


def _noise_of_environments(noise: ActionNoise, n_envs: int) -> ActionNoise:
    """The noise in SB3's form for this number of environments; it may have been made for another number."""
    if isinstance(noise, VectorizedActionNoise):
        if noise.n_envs == n_envs:
            return noise
        noise = noise.base_noise
    return noise if n_envs == 1 else VectorizedActionNoise(noise, n_envs)
