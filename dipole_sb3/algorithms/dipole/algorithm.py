"""DIPOLE as a Stable-Baselines3 algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from dipole_sb3.algorithms.dipole.dichotomy import Aggregation
from dipole_sb3.algorithms.dipole.losses import LOSS_NAMES, CriticTarget, Objective, Outcome, compute_losses, draw_noise
from dipole_sb3.algorithms.dipole.policies import (
    CnnPolicy,
    DIPOLEPolicy,
    MlpPolicy,
    MultiInputPolicy,
    require_num_candidates,
    require_omega,
)
from dipole_sb3.buffers.mixed_buffer import MixedReplayBuffer
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm
from dipole_sb3.learning.training_data import DatasetLike
from dipole_sb3.learning.training_monitor import TrainingMonitor
from dipole_sb3.learning.update_execution import Acceleration, CapturedUpdates, PlainUpdates, chosen
from dipole_sb3.learning.update_sources import OneRun, updates_of

SelfDIPOLE = TypeVar("SelfDIPOLE", bound="DIPOLE")

_VALIDATION_SEED = 0
_VALIDATION_TRANSITIONS = 1024


class DIPOLE(OfflineAlgorithm):
    """Dichotomous policy optimisation (arXiv 2601.00898) on recorded data, with SB3's habits.

    Two flow policies are trained with the bounded weights σ(βA + k) and 1 − σ(βA + k): one towards high return, one
    towards low. Acting combines their velocities, v = (1 + ω)·v⁺ − ω·v⁻: ω is greediness, set without retraining.

    :param policy: ``"MlpPolicy"``, ``"MultiInputPolicy"``, ``"CnnPolicy"`` or a subclass of DIPOLEPolicy.
    :param env: environment, its id, or a VecEnv; may be None when a data set gives the spaces.
    :param learning_rate: of the one Adam over all networks; a number or a function of the remaining progress (1 → 0).
    :param buffer_size: capacity for what is gathered online, in transitions; recorded data do not count.
    :param learning_starts: random steps at the start of online learning from an empty buffer.
    :param batch_size: transitions per update.
    :param tau: Polyak rate of the target critics, in (0, 1].
    :param gamma: discount factor in [0, 1].
    :param train_freq: online: environment steps (or ``(n, "episode")``) between trainings.
    :param gradient_steps: online: updates per training; −1: as many as steps were made.
    :param action_noise: online: added to the actions, in [−1, 1] units.
    :param replay_buffer_class: a subclass of MixedReplayBuffer.
    :param replay_buffer_kwargs: its keyword arguments.
    :param n_steps: n ≥ 1, rewards of the recorded or gathered actions before the critics bootstrap; as in SB3's SAC.
    :param dataset: recorded data: an OfflineReplayBuffer, a name or path for :func:`~dipole_sb3.load_dataset`, a
        mapping of arrays as in :meth:`OfflineReplayBuffer.from_arrays`, or the replay buffer of an SB3 algorithm.
    :param offline_steps: timesteps (from 0) that are updates on the data set. None: with a data set, all of the first
        ``learn()`` call (every call when there is no env); without one, none.
    :param offline_ratio: online: share in [0, 1] of every batch that is recorded data, or a function of the remaining
        progress (1 → 0) of ``learn()``; None: uniform over all transitions.
    :param beta: β > 0, inverse temperature of the weights.
    :param shift: k, shift of the weights: below 0 only the best data count as good.
    :param omega: ω ≥ −1, greediness of acting; a property that may be set at any time.
    :param expectile: τ in (0, 1) of the value's regression.
    :param critic_target: ``"policy"``: bootstrap from the critics at the positive policy's action; ``"value"``: from V.
    :param q_agg: ``"min"`` or ``"mean"`` of the target critics for the value's regression.
    :param flow_steps: K ≥ 1, Euler steps from noise to action.
    :param num_candidates: N ≥ 1 actions drawn, of which the best by the critics is taken; a property like ``omega``.
    :param explore_omega: online: ω ≥ −1 of the actions that gather data.
    :param acceleration: how updates run: ``"eager"``: as they are written; ``"compiled"``: with torch.compile (half a
        minute at the start, then about a fifth faster on a CPU); ``"captured"``: compiled, and ten of them at a time as
        one CUDA graph; ``"auto"``: captured on CUDA, else eager.
    :param stats_window_size: episodes over which rollout statistics are averaged.
    :param tensorboard_log: folder for TensorBoard.
    :param policy_kwargs: arguments of :class:`~dipole_sb3.algorithms.dipole.policies.DIPOLEPolicy`.
    :param verbose: 0: nothing, 1: information, 2: debug.
    :param seed: of every random generator involved.
    :param device: torch device, or ``"auto"``.
    :raises ValueError: values out of range, unsupported spaces, neither env nor dataset.
    :raises DatasetError: data that is missing, malformed or disagrees with the environment.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    renamed_on_load: ClassVar[dict[str, str]] = {"omega": "_omega", "num_candidates": "_num_candidates"}
    policy: DIPOLEPolicy

    def __init__(
        self,
        policy: str | type[DIPOLEPolicy],
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 3e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[MixedReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        n_steps: int = 1,
        dataset: DatasetLike | None = None,
        offline_steps: int | None = None,
        offline_ratio: float | Schedule | None = None,
        beta: float = 1.0,
        shift: float = 0.0,
        omega: float = 0.5,
        expectile: float = 0.9,
        critic_target: CriticTarget = "policy",
        q_agg: Aggregation = "min",
        flow_steps: int = 10,
        num_candidates: int = 4,
        explore_omega: float = 0.0,
        acceleration: Acceleration = "auto",
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate,
            buffer_size,
            learning_starts,
            batch_size,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            action_noise,
            replay_buffer_class,
            replay_buffer_kwargs,
            n_steps,
            dataset,
            offline_steps,
            offline_ratio,
            stats_window_size,
            tensorboard_log,
            policy_kwargs,
            verbose,
            seed,
            device,
        )
        self.beta = beta
        self.shift = shift
        self.expectile = expectile
        self.critic_target = critic_target
        self.q_agg = q_agg
        self.flow_steps = flow_steps
        self.explore_omega = explore_omega
        self.acceleration = acceleration
        self._omega = omega
        self._num_candidates = num_candidates
        self._how_updated: PlainUpdates | CapturedUpdates | None = None
        if _init_setup_model:
            # Not where a model is loaded: one that was trained on a GPU acts anywhere.
            chosen(acceleration, self.device)
            self._setup_model()

    def _setup_policy(self) -> None:
        self._objective()  # refuses values out of range before anything is built
        self.explore_omega = require_omega(self.explore_omega, "explore_omega")
        self.policy = self.policy_class(  # type: ignore[assignment]
            self.observation_space,
            self.action_space,
            self.lr_schedule,
            **{"flow_steps": self.flow_steps, **self.policy_kwargs},
        ).to(self.device)
        self.omega, self.num_candidates = self._omega, self._num_candidates
        self._monitor = TrainingMonitor(self.device)
        self._how_updated = None

    def _objective(self) -> Objective:
        return Objective(self.beta, self.shift, self.gamma, self.tau, self.expectile, self.critic_target, self.q_agg)

    @property
    def omega(self) -> float:
        """Greediness ω ≥ −1 of ``predict``: −1 the negative policy, 0 the positive, above 0 greedier than the data."""
        return self._omega

    @omega.setter
    def omega(self, omega: float) -> None:
        self._omega = self.policy.omega = require_omega(omega)

    @property
    def num_candidates(self) -> int:
        """Candidates N ≥ 1 of ``predict``; 1 is the guided policy without rejection sampling."""
        return self._num_candidates

    @num_candidates.setter
    def num_candidates(self, num_candidates: int) -> None:
        self._num_candidates = self.policy.num_candidates = require_num_candidates(num_candidates)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        omega: float | np.ndarray | None = None,
        num_candidates: int | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """SB3's ``predict``; see :meth:`DIPOLEPolicy.predict` for ``omega`` and ``num_candidates``."""
        return self.policy.predict(observation, state, episode_start, deterministic, omega, num_candidates)

    def learn(
        self: SelfDIPOLE,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "DIPOLE",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfDIPOLE:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    learn.__doc__ = OfflineAlgorithm.learn.__doc__

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Updates all networks on fresh batches of the replay buffer.

        :param gradient_steps: number of updates.
        :param batch_size: transitions in each.
        """
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        self._updates().run(gradient_steps, batch_size)
        self._n_updates += gradient_steps

    def _updates(self) -> PlainUpdates | CapturedUpdates:
        if self._how_updated is None:
            self._how_updated = updates_of(OneRun(self), self.acceleration)
        return self._how_updated

    def _updates_at_once(self) -> int:
        return self._updates().per_replay

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """SB3's exploration, at ``explore_omega`` instead of the ω that the operator has set."""
        acting_omega = self.policy.omega
        self.policy.omega = self.explore_omega
        try:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        finally:
            self.policy.omega = acting_omega

    def _record_training(self) -> None:
        self._monitor.record(self.logger, self._n_updates)
        outcome = self._validation_outcome()
        if outcome is not None:
            for name, loss in zip(LOSS_NAMES, outcome.losses.tolist(), strict=True):
                self.logger.record(f"validation/{name}", loss)

    def _training_statistics(self) -> dict[str, Any]:
        return self._monitor.state()

    def _restore_training_statistics(self, statistics: Mapping[str, Any]) -> None:
        self._monitor.restore(statistics)

    def _validation_outcome(self) -> Outcome | None:
        """Losses on the data set's validation split, always on the same transitions and noise: curves compare."""
        validation = None if self.replay_buffer is None else self.replay_buffer.validation
        if validation is None:
            return None
        generator = torch.Generator(self.device).manual_seed(_VALIDATION_SEED)
        batch = self._normalized(validation.draw(_VALIDATION_TRANSITIONS, generator, self.n_steps))
        noise = draw_noise(_VALIDATION_TRANSITIONS, self.policy.action_dim, generator)
        self.policy.set_training_mode(False)
        with torch.no_grad():
            return compute_losses(self.policy, batch, noise, self._objective())

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_monitor", "_how_updated"]
