"""What every algorithm on recorded data shares: data, one axis of learning. SB3's contract, offline too."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule, TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import configure_logger
from stable_baselines3.common.vec_env import DummyVecEnv

from dipole_sb3.buffers.mixed_buffer import MixedReplayBuffer, recorded_part
from dipole_sb3.buffers.normalization import BatchNormalizer, fit_vec_normalize
from dipole_sb3.common import checks
from dipole_sb3.common.profiler_sections import section
from dipole_sb3.learning.callbacks import RecordedSpaces, TimestepProgressBar
from dipole_sb3.learning.saving import plain_device
from dipole_sb3.learning.training_data import DataAlgorithm, DatasetLike, require_n_steps
from dipole_sb3.learning.update_execution import set_learning_rate

SelfOfflineAlgorithm = TypeVar("SelfOfflineAlgorithm", bound="OfflineAlgorithm")

OFFLINE_LOG_UNIT = 250
"""Updates for which ``log_interval`` counts one in the offline phase, where there are no episodes to count."""


class OfflineAlgorithm(DataAlgorithm):
    """An SB3 off-policy algorithm whose first timesteps may be updates on recorded data, without stepping anything.

    Sub-classes give :meth:`train` and :meth:`_record_training`. Parameters are explained in
    :class:`~dipole_sb3.DIPOLE`; those of SB3 keep their meaning.
    """

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule,
        buffer_size: int,
        learning_starts: int,
        batch_size: int,
        tau: float,
        gamma: float,
        train_freq: int | tuple[int, str],
        gradient_steps: int,
        action_noise: ActionNoise | None,
        replay_buffer_class: type[MixedReplayBuffer] | None,
        replay_buffer_kwargs: dict[str, Any] | None,
        n_steps: int,
        dataset: DatasetLike | None,
        offline_steps: int | None,
        offline_ratio: float | Schedule | None,
        stats_window_size: int,
        tensorboard_log: str | None,
        policy_kwargs: dict[str, Any] | None,
        verbose: int,
        seed: int | None,
        device: torch.device | str,
    ) -> None:
        if env is not None:
            env = maybe_make_env(env, verbose)
            # SB3 refuses these too, but with an assertion.
            checks.require_box_actions(env.action_space)
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]
            learning_rate,
            buffer_size,
            learning_starts,
            batch_size,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            action_noise=action_noise,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            n_steps=n_steps,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=plain_device(device),
            seed=seed,
            sde_support=False,
            support_multi_env=True,
        )
        self.dataset = dataset
        self.offline_steps = offline_steps
        self.offline_ratio = offline_ratio
        self._offline_end = 0
        self._normalizer: BatchNormalizer | None = None
        self._iteration_ends: list[Callable[[], bool]] = []

    # Setting up

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        require_n_steps(self.n_steps)
        self._offline_ratio_now()
        self._adopt_dataset()
        self.set_random_seed(self.seed)
        checks.require_box_actions(self.action_space)
        self._require_policy_for_observations()
        # A model without data or environment only predicts: no need for memory that nothing will fill.
        if self.replay_buffer is None and self.env is not None:
            self.replay_buffer = self._new_buffer(recorded=None)
        self._setup_policy()
        self._convert_train_freq()
        self._restore_generator()
        # train() may be called before learn(), which is where SB3 makes its logger.
        self._logger = Logger(folder=None, output_formats=[])

    def _require_policy_for_observations(self) -> None:
        """SB3 refuses this for environments; data may have Dict observations, too."""
        for name in ("MlpPolicy", "CnnPolicy"):
            if self.policy_class is self.policy_aliases[name] and isinstance(self.observation_space, spaces.Dict):
                raise ValueError(
                    f"Dict observations need MultiInputPolicy: found {name} for keys {sorted(self.observation_space)}"
                )

    @abstractmethod
    def _setup_policy(self) -> None:
        """Builds ``self.policy`` on ``self.device``."""

    def _updates_at_once(self) -> int:
        """Offline updates that are made before callbacks hear of them."""
        return 1

    @abstractmethod
    def _record_training(self) -> None:
        """Writes the training statistics since the last call to the logger."""

    def _training_statistics(self) -> dict[str, Any]:
        """Numbers and arrays that :meth:`_record_training` will need, for a checkpoint."""
        return {}

    def _restore_training_statistics(self, statistics: Mapping[str, Any]) -> None:
        """Takes what :meth:`_training_statistics` gave."""

    # Learning

    def learn(
        self: SelfOfflineAlgorithm,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "run",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfOfflineAlgorithm:
        """Learns for ``total_timesteps`` more timesteps, on one axis.

        Up to ``offline_steps`` a timestep is one update on the data set; ``callback.on_step()`` runs after each, so
        SB3's callbacks work as they are (there are no episodes: ``dones`` is all False, ``infos`` empty). The rest are
        environment steps, with SB3's ``train_freq`` and ``gradient_steps``; the data set stays in the replay buffer.

        :param total_timesteps: how many.
        :param callback: SB3 callback(s).
        :param log_interval: offline: log every ``250 · log_interval`` updates; online: every so many episodes.
        :param tb_log_name: name of the run for TensorBoard.
        :param reset_num_timesteps: False goes on counting (and, with ``offline_steps=None``, goes on where the
            earlier call left the offline phase).
        :param progress_bar: tqdm and rich progress bar.
        :return: the model.
        :raises ValueError: no data to learn from, or timesteps that would need an environment.
        """
        learning = self._learning(
            total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
        )
        with closing(learning):
            for updates in learning:
                self.train(updates, self.batch_size)
        return self

    def _learning(
        self,
        total_timesteps: int,
        callback: MaybeCallback,
        log_interval: int,
        tb_log_name: str,
        reset_num_timesteps: bool,
        progress_bar: bool,
    ) -> Generator[int, None, None]:
        """All of :meth:`learn` but the updates on recorded data: whoever iterates makes as many as it says each time.

        So several models can learn side by side, while one of them makes the updates of all.
        """
        self._plan_phases(total_timesteps, reset_num_timesteps)
        self._require_consecutive_data()
        if self._vec_normalize_env is not None and self.dataset is not None:
            fit_vec_normalize(self._vec_normalize_env, recorded_part(self._buffer()))
            self._normalizer = None
        with self._environment_for_callbacks():
            total_timesteps, callback = self._setup_learn(
                total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
            )
            self._iteration_ends = []
            callback.on_training_start(locals(), globals())
            if self._before_learning is not None:
                self._before_learning()
                self._before_learning = None
            offline_end = min(self._offline_end, total_timesteps)
            goes_on = yield from self._learn_offline(offline_end, callback, log_interval)
            if goes_on and self.num_timesteps < total_timesteps:
                if self._before_going_online is not None:
                    self._before_going_online()
                    self._before_going_online = None
                self._learn_online(total_timesteps, callback, log_interval)
            callback.on_training_end()

    def _plan_phases(self, total_timesteps: int, reset_num_timesteps: bool) -> None:
        """Decides at which timestep the offline phase ends; refuses what could not be finished before it begins."""
        start = 0 if reset_num_timesteps else self.num_timesteps
        if self.offline_steps is not None:
            self._offline_end = self.offline_steps
        elif self.dataset is None:
            self._offline_end = min(self._offline_end, start)
        elif start == 0:
            self._offline_end = total_timesteps
        elif self.env is None:
            self._offline_end = max(self._offline_end, start + total_timesteps)
        if self._offline_end > start and not self._has_recorded_data():
            raise ValueError(
                "learn() has no data to learn offline from: pass dataset= to the constructor or to load(), "
                "or call set_dataset()"
            )
        if self.offline_ratio is not None and not self._has_recorded_data():
            raise ValueError(
                f"offline_ratio={self.offline_ratio!r} needs recorded data: found none; pass dataset= or leave it out"
            )
        if start + total_timesteps <= self._offline_end:
            return
        if self.env is None:
            raise ValueError(
                f"learn() would go on online after timestep {self._offline_end} and has no environment: pass env=, or "
                "dataset= (and a larger offline_steps=) to learn from recorded data"
            )
        assert isinstance(self.train_freq, TrainFreq)
        if self.train_freq.unit == TrainFrequencyUnit.EPISODE and self.n_envs > 1:
            raise ValueError(
                f"train_freq=({self.train_freq.frequency}, 'episode') with {self.n_envs} environments: expected one "
                "environment, or train_freq in steps"
            )

    @contextmanager
    def _environment_for_callbacks(self) -> Iterator[None]:
        """SB3's callbacks ask for ``training_env`` when they start; without an environment they get its spaces."""
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
        """One update a timestep until ``end``, asking for each; False when a callback stopped it."""
        # What SB3's callbacks look for among the local variables after an environment step.
        dones = np.zeros(self.n_envs, dtype=bool)
        infos: list[dict[str, Any]] = [{} for _ in range(self.n_envs)]
        updates_per_log = OFFLINE_LOG_UNIT * log_interval if log_interval else 0
        while self.num_timesteps < end:
            self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
            # Up to a multiple: what is due every so many timesteps finds all of them done, and no more.
            at_once = self._updates_at_once()
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

    def at_iteration_ends(self, listener: Callable[[], bool]) -> None:
        """Calls ``listener`` until ``learn`` returns, wherever all of a timestep is done; for ``_on_training_start``.

        That is after every update of the offline phase, and online after every rollout with its training: parameters,
        counters, replay buffer, environment and log then belong together, which they do not in a callback's
        ``_on_step``.

        :param listener: False ends learning.
        """
        self._iteration_ends.append(listener)

    def _iteration_ended(self) -> bool:
        # Each of them runs, also after one that ends learning.
        with section("callbacks"):
            answers = [listener() for listener in self._iteration_ends]
        return all(answers)

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
            # Not where an episode goes on: correlated noise goes on with it.
            if self.action_noise is not None:
                self.action_noise.reset()
        # A policy that has learned from data has no use for random actions.
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

    def _update_learning_rate(self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer) -> None:
        """SB3's, which would put a number where a CUDA graph reads a tensor."""
        learning_rate = self.lr_schedule(self._current_progress_remaining)
        self.logger.record("train/learning_rate", learning_rate)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            set_learning_rate(optimizer, learning_rate)

    def dump_logs(self) -> None:
        """Writes the statistics since the last call to all of the logger's outputs."""
        with section("logging"):
            self._record_training()
            super().dump_logs()


def _noise_of_environments(noise: ActionNoise, n_envs: int) -> ActionNoise:
    """The noise for so many environments as SB3 has it, also where there were more or fewer of them before."""
    if isinstance(noise, VectorizedActionNoise):
        if noise.n_envs == n_envs:
            return noise
        noise = noise.base_noise
    return noise if n_envs == 1 else VectorizedActionNoise(noise, n_envs)
