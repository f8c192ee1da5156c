"""The base class of all algorithms: SB3's API, for learning from recorded data and then from an environment."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from dipole_sb3.common import checks
from dipole_sb3.common.random_state import restore_generator
from dipole_sb3.learning.augmentation import require_random_crop
from dipole_sb3.learning.model_files import plain_device
from dipole_sb3.learning.precision import Precision, require_precision
from dipole_sb3.learning.stacked_runs import OneRun
from dipole_sb3.learning.stored_algorithm import StoredAlgorithm
from dipole_sb3.learning.training_data import DatasetLike, offline_ratio_at, require_n_steps
from dipole_sb3.learning.training_monitor import TrainingMonitor
from dipole_sb3.learning.update_execution import Acceleration, CapturedUpdates, PlainUpdates, chosen


class OfflineAlgorithm(StoredAlgorithm):
    """An SB3 off-policy algorithm whose first timesteps may be updates on recorded data, without an environment.

    A sub-class names its policies and its update rule. Its constructor stores its own arguments as attributes before it
    calls this one. Arguments that are not listed here mean the same as in SB3.

    :param policy: ``"MlpPolicy"``, ``"MultiInputPolicy"``, ``"CnnPolicy"`` or a sub-class of the algorithm's policy.
    :param env: environment, its id, or a VecEnv; may be None when a data set gives the spaces.
    :param learning_rate: of the optimiser, which updates all networks; a number or a function of the remaining progress
        (1 → 0).
    :param buffer_size: capacity for what is gathered online, in transitions; recorded data do not count.
    :param learning_starts: random steps at the start of online learning from an empty buffer.
    :param batch_size: transitions per update.
    :param tau: Polyak rate of the targets, in (0, 1].
    :param gamma: discount factor in [0, 1].
    :param train_freq: online: environment steps (or ``(n, "episode")``) between trainings.
    :param gradient_steps: online: updates per training; −1: as many as steps were made.
    :param action_noise: online: added to the actions, in [−1, 1] units.
    :param replay_buffer_class: a sub-class of MixedReplayBuffer, such as HindsightReplayBuffer; SB3's HerReplayBuffer
        means HindsightReplayBuffer here.
    :param replay_buffer_kwargs: its keyword arguments.
    :param optimize_memory_usage: online: store each observation once; unlike in SB3, no observation is lost.
    :param n_steps: n ≥ 1, number of rewards (of recorded or gathered actions) before the critics bootstrap; as in
        SB3's SAC.
    :param dataset: recorded data: an OfflineReplayBuffer, a name or path for :func:`~dipole_sb3.load_dataset`, a
        mapping of arrays as in :meth:`OfflineReplayBuffer.from_arrays`, or the replay buffer of an SB3 algorithm.
    :param offline_steps: number of timesteps, from timestep 0, that are updates on the data set. None: with a data set,
        the whole first ``learn()`` call (every call when there is no env); without a data set, 0.
    :param offline_ratio: online: share in [0, 1] of every batch that is recorded data, or a function of the remaining
        progress (1 → 0) of ``learn()``; None: uniform over all transitions.
    :param random_crop: probability in [0, 1] with which the images of a batch move by up to three pixels, each on its
        own, in s and s' alike; 0.5 in the published agents for visual tasks.
    :param acceleration: how updates run: ``"eager"``: as plain PyTorch; ``"compiled"``: with torch.compile (takes half
        a minute at the start, then about a fifth faster on a CPU); ``"captured"``: compiled, and ten at a time as one
        CUDA graph; ``"auto"``: captured on CUDA; on a CPU compiled for a ``learn`` of 20,000 updates or more where
        torch.compile works, else eager.
    :param precision: of the products in updates: ``"fp32"``; ``"bf16"``: those between hidden layers and in encoders
        of images in bfloat16, with weights, sums and all else in single precision; ``"auto"``: ``"bf16"`` where the
        device has instructions for it and the networks run more than 1.2 times as fast.
    :param policy_kwargs: arguments of the policy.
    :param seed: seed of all random generators.
    :param device: torch device, or ``"auto"``.
    :raises ValueError: values out of range, unsupported spaces, neither env nor dataset.
    :raises DatasetError: data that is missing, malformed or disagrees with the environment.
    """

    own_stackable: ClassVar[tuple[str, ...]] = ()
    """Arguments in which stacked runs may differ, besides knobs and the objective's fields marked ``PER_RUN``."""
    arguments_of_policy: ClassVar[tuple[str, ...]] = ()
    """Arguments of the algorithm that its policy also takes, and has as attributes."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """``help()`` shows the arguments of a sub-class in SB3's order, followed by its own."""
        super().__init_subclass__(**kwargs)
        shared = inspect.signature(OfflineAlgorithm.__init__).parameters
        own = inspect.signature(cls.__init__).parameters
        added = [each for each in own.values() if each.name not in shared and each.kind is each.KEYWORD_ONLY]
        common = [own.get(each.name, each) for each in shared.values()]
        # The last one, _init_setup_model, is internal to SB3.
        cls.__signature__ = inspect.Signature([*common[1:-1], *added])  # type: ignore[attr-defined]

    def __init__(
        self,
        policy: str | type[BasePolicy],
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
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        dataset: DatasetLike | None = None,
        offline_steps: int | None = None,
        offline_ratio: float | Schedule | None = None,
        random_crop: float = 0.0,
        acceleration: Acceleration = "auto",
        precision: Precision = "fp32",
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        if optimize_memory_usage:
            replay_buffer_kwargs = {"optimize_memory_usage": True, **(replay_buffer_kwargs or {})}
        if env is not None:
            env = maybe_make_env(env, verbose)
            # SB3 refuses these too, but with an assertion.
            checks.require_box_actions(env.action_space)
        super().__init__(
            policy=policy,
            env=env,  # type: ignore[arg-type]
            learning_rate=learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            action_noise=action_noise,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            # SB3's implementation loses observations and ends running episodes; here the online buffer does it.
            optimize_memory_usage=False,
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
        self.random_crop = random_crop
        self.acceleration = acceleration
        self.precision = precision
        self._offline_end = 0
        self._iteration_ends: list[Callable[[], bool]] = []
        self._when_learning_begins: Callable[[], None] | None = None
        self._generators_online: dict[str, Any] | None = None
        self._updates: PlainUpdates | CapturedUpdates | None = None
        if _init_setup_model:
            # Not when a model is loaded: one that was trained on a GPU can act on any device.
            chosen(acceleration, self.device)
            require_precision(precision, self.device)
            self._setup_model()

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        require_n_steps(self.n_steps)
        offline_ratio_at(self.offline_ratio, self._current_progress_remaining)
        self._adopt_dataset()
        self.set_random_seed(self.seed)
        checks.require_box_actions(self.action_space)
        self._require_policy_for_observations()
        require_random_crop(self.random_crop, self.observation_space)
        # A model without data or environment only predicts: it needs no buffer.
        if self.replay_buffer is None and self.env is not None:
            self.replay_buffer = self._new_buffer(recorded=None)
        self._setup_policy()
        self._convert_train_freq()
        if self._generator_state is not None:
            restore_generator(self.training_generator, self._generator_state)
        # SB3 makes its logger in learn(), but train() may be called before it.
        self._logger = Logger(folder=None, output_formats=[])

    def _require_policy_for_observations(self) -> None:
        """SB3 checks this for environments; recorded data may have Dict observations, too."""
        for name in ("MlpPolicy", "CnnPolicy"):
            if self.policy_class is self.policy_aliases[name] and isinstance(self.observation_space, spaces.Dict):
                raise ValueError(
                    f"Dict observations need MultiInputPolicy: found {name} for keys {sorted(self.observation_space)}"
                )

    def _setup_policy(self) -> None:
        self.objective()  # refuses values out of range before anything is built
        for knob in self.knobs():
            if knob.name in self.policy_kwargs:
                raise ValueError(
                    f"policy_kwargs has {knob.name}={self.policy_kwargs[knob.name]!r}, expected it as an argument: "
                    f"{type(self).__name__}(…, {knob.name}={self.policy_kwargs[knob.name]!r})"
                )
        self.policy = self.policy_class(  # type: ignore[assignment]
            self.observation_space,
            self.action_space,
            self.lr_schedule,
            **{**{name: getattr(self, name) for name in self.arguments_of_policy}, **self.policy_kwargs},
        ).to(self.device)
        for name in self.arguments_of_policy:
            # policy_kwargs may override the argument.
            setattr(self, name, getattr(self.policy, name))
        for knob in self.policy.knobs:
            setattr(self, knob.name, getattr(self, f"_{knob.name}"))
        self._monitor = TrainingMonitor(self.update_rule, self.device)
        self._run = OneRun(self)
        self._updates = None

    @classmethod
    def stackable(cls) -> tuple[str, ...]:
        """Constructor arguments that may differ between runs that learn together."""
        numbers = cls.update_rule.objective.per_run_names()
        return ("seed", "learning_rate", *numbers, *(knob.name for knob in cls.knobs()), *cls.own_stackable)

    @property
    def actor(self) -> Any:  # type: ignore[override]
        """The policy's actor, as in SB3's algorithms."""
        return self.policy.actor

    @property
    def critic(self) -> Any:
        """The policy's critics, as in SB3's algorithms."""
        return self.policy.critic

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        **setting: Any,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """SB3's ``predict``, with an argument for each knob of the policy.

        See :meth:`~dipole_sb3.learning.offline_policy.OfflinePolicy.predict`.
        """
        return self.policy.predict(observation, state, episode_start, deterministic, **setting)
