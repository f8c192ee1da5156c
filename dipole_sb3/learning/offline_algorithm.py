"""The base class of all algorithms: SB3's API, for learning from recorded data and then from an environment."""

from __future__ import annotations

import copy
import inspect
import io
import pathlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import load_from_zip_file, recursive_getattr, save_to_pkl
from stable_baselines3.common.type_aliases import (
    GymEnv,
    MaybeCallback,
    Schedule,
    TensorDict,
    TrainFreq,
)
from stable_baselines3.common.utils import check_for_correct_spaces, configure_logger, get_device
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from dipole_sb3.buffers.hindsight_buffer import HindsightReplayBuffer, options_of
from dipole_sb3.buffers.mixed_buffer import MixedReplayBuffer, recorded_part
from dipole_sb3.buffers.normalization import (
    ObservationStatistics,
    fit_vec_normalize,
    observation_statistics,
    restore_vec_normalize,
    vec_normalize_state,
)
from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common import checks
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.files import replaced_when_complete, require_model_file
from dipole_sb3.common.profiler_sections import section
from dipole_sb3.common.random_state import (
    generator_state,
    global_generators,
    restore_generator,
    restore_global_generators,
)
from dipole_sb3.learning import checkpoints, hub, model_card, safe_files
from dipole_sb3.learning.advantage_weights import AdvantageWeights
from dipole_sb3.learning.augmentation import require_random_crop
from dipole_sb3.learning.callbacks import RecordedSpaces, TimestepProgressBar
from dipole_sb3.learning.compilation import OnCPU, way_on_cpu
from dipole_sb3.learning.knobs import Knob
from dipole_sb3.learning.model_files import (
    File,
    alone,
    classic,
    may_take_spaces,
    origin_of,
    plain_device,
    read_replay_buffer,
    require_same_algorithm,
    with_ending,
)
from dipole_sb3.learning.offline_policy import OfflinePolicy
from dipole_sb3.learning.phases import end_of_offline_phase, planned_updates, require_data, require_environment
from dipole_sb3.learning.precision import Precision, ProductType, faster_type, has_fast_bfloat16, require_precision
from dipole_sb3.learning.stacked_runs import OneRun, without_vec_normalize
from dipole_sb3.learning.training_data import (
    DatasetLike,
    adopted,
    has_recorded_data,
    offline_ratio_at,
    require_consecutive,
    require_n_steps,
)
from dipole_sb3.learning.training_monitor import TrainingMonitor
from dipole_sb3.learning.update_execution import (
    Acceleration,
    CapturedUpdates,
    PlainUpdates,
    chosen,
    set_learning_rate,
    updates_of,
    without_device,
)
from dipole_sb3.learning.update_rule import Objective, UpdateRule

Self = TypeVar("Self", bound="OfflineAlgorithm")

OFFLINE_LOG_UNIT = 250
"""Updates per unit of ``log_interval`` in the offline phase, where there are no episodes to count."""


class OfflineAlgorithm(OffPolicyAlgorithm):
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

    update_rule: ClassVar[UpdateRule]
    own_stackable: ClassVar[tuple[str, ...]] = ()
    """Arguments in which stacked runs may differ, besides knobs and the objective's fields marked ``PER_RUN``."""
    arguments_of_policy: ClassVar[tuple[str, ...]] = ()
    """Arguments of the algorithm that its policy also takes, and has as attributes."""

    policy: OfflinePolicy
    replay_buffer: OfflineReplayBuffer | None
    dataset: Any

    _generator_state: tuple[str, bytes] | None = None
    _origin: Mapping[str, str] | None = None
    product_type_found: ProductType | None = None
    """What ``precision="auto"`` came to."""
    way_on_cpu_found: OnCPU | None = None
    """What ``acceleration="auto"`` came to on a CPU."""
    _spaces_from_data: bool = False
    """Whether the spaces were inferred from recorded data, which do not tell an environment's bounds and dtype."""
    learned_normalized_observations: bool = False
    """Whether an update has used observations that VecNormalize normalised."""
    _updates_prepared: int = 0
    _saved_statistics: dict[str | None, ObservationStatistics] | None = None

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

    # Setting up

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

    def objective(self) -> Objective:
        """The update's hyperparameters, with their current values.

        :raises ValueError: a hyperparameter is out of range, or no number where one is expected.
        """
        objective = self.update_rule.objective
        return objective.of({name: getattr(self, name) for name in objective.names()})

    def hyperparameters(self) -> dict[str, Any]:
        """What the updates depend on, for the records that accompany a trained policy."""
        return {**vars(self.objective()), "batch_size": self.batch_size}

    def advantage_weights(self) -> AdvantageWeights | None:
        """How the losses weight recorded transitions by their advantage; None where they do not."""
        return None

    def arguments_that_need_order(self) -> list[str]:
        """Names of arguments whose values ask for transitions in the order in which they were recorded."""
        return ["n_steps"] if self.n_steps > 1 else []

    @classmethod
    def knobs(cls) -> tuple[Knob, ...]:
        """The knobs of a trained model: arguments of ``predict`` that are also attributes of the model."""
        kind: type[Any] = cls.policy_aliases["MlpPolicy"]
        knobs: tuple[Knob, ...] = kind.knobs
        return knobs

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

    # Data

    def _adopt_dataset(self) -> None:
        """Turns ``dataset`` into the replay buffer, and takes the spaces from it when there is no environment."""
        known = hasattr(self, "observation_space")
        of_goals = self.dataset if isinstance(self.dataset, HerReplayBuffer) else None
        if of_goals is not None and self.replay_buffer_class is None:
            self.replay_buffer_class = HindsightReplayBuffer
            self.replay_buffer_kwargs = {**options_of(of_goals), **self.replay_buffer_kwargs}
        if self.dataset is None:
            if not known:
                raise ValueError(
                    f"{type(self).__name__} needs an environment or a data set: found env=None, dataset=None"
                )
            return
        buffer = adopted(self.dataset, (self.observation_space, self.action_space) if known else None, self.device)
        if not known:
            self.observation_space, self.action_space, self.n_envs = buffer.observation_space, buffer.action_space, 1
            self._spaces_from_data = True
        self.dataset = self.replay_buffer = buffer
        if issubclass(self._ring_class(), HindsightReplayBuffer):
            # Recorded transitions get new goals, too, even before anything is gathered online.
            hindsight = self._new_buffer(recorded=buffer)
            if of_goals is not None and self.env is None and isinstance(hindsight, HindsightReplayBuffer):
                hindsight.set_env(of_goals.env)
            self.replay_buffer = hindsight

    def set_dataset(self, dataset: DatasetLike) -> None:
        """Makes the next ``learn()`` train on other data, for example after ``load``.

        Transitions that were gathered online are dropped together with the old data.

        :param dataset: as in the constructor; must have the model's spaces.
        :raises DatasetError: the data are malformed or have other spaces; the model then keeps the old data.
        """
        changed = ("dataset", "replay_buffer", "replay_buffer_class", "replay_buffer_kwargs")
        previous = {name: getattr(self, name) for name in changed}
        self.dataset = dataset
        try:
            self._adopt_dataset()
        except BaseException:
            vars(self).update(previous)
            raise

    def _new_buffer(self, recorded: OfflineReplayBuffer | None) -> MixedReplayBuffer:
        """An empty online buffer for the current environments, next to recorded data if there are any."""
        buffer_class = self._ring_class()
        if not issubclass(buffer_class, MixedReplayBuffer):
            raise ValueError(
                f"replay_buffer_class: found {buffer_class.__name__}, expected a subclass of MixedReplayBuffer"
            )
        goals = {"env": self.env} if issubclass(buffer_class, HindsightReplayBuffer) else {}
        return buffer_class(
            self.buffer_size,
            self.observation_space,
            self.action_space,
            self.device,
            self.n_envs,
            **{"recorded": recorded, **goals, **self.replay_buffer_kwargs},
        )

    def _ring_class(self) -> type[ReplayBuffer]:
        """The class of the online buffer; HerReplayBuffer means our class, which also relabels recorded episodes."""
        asked_for: type[ReplayBuffer] = self.replay_buffer_class or MixedReplayBuffer
        return HindsightReplayBuffer if asked_for is HerReplayBuffer else asked_for

    def _make_room(self) -> MixedReplayBuffer:
        """The replay buffer, with room for online transitions next to the data set or to a loaded replay buffer."""
        buffer = self.filled_buffer()
        if buffer is self.dataset or not isinstance(buffer, MixedReplayBuffer):
            buffer = self._new_buffer(recorded=buffer)
        elif buffer.n_envs != self.n_envs:
            buffer = buffer.with_environments(self.n_envs)
        self.replay_buffer = buffer
        return buffer

    def filled_buffer(self) -> OfflineReplayBuffer:
        """The replay buffer.

        :raises DatasetError: there is no replay buffer.
        """
        if self.replay_buffer is None:
            raise DatasetError(f"{type(self).__name__} has no data to train on: pass dataset= or env=")
        return self.replay_buffer

    @property
    def observation_statistics(self) -> dict[str | None, ObservationStatistics]:
        """How observations are normalised for the networks: by key of a Dict, or under None; empty if they are not.

        The statistics come from the environment's VecNormalize, or, without one, from the saved model. (SB3 saves
        VecNormalize in a file of its own; :meth:`save` keeps a copy, so that an export cannot lose it.)

        :raises ValueError: the model has learned from normalised observations, but has neither.
        """
        if self._vec_normalize_env is not None:
            return observation_statistics(self._vec_normalize_env)
        if self._saved_statistics is None and self.learned_normalized_observations:
            raise without_vec_normalize(type(self).__name__)
        return self._saved_statistics or {}

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seeds SB3's generators and the training generator.

        Training has its own generator, so that calling ``predict`` in between does not change what is learned.
        """
        super().set_random_seed(seed)
        self.training_generator = torch.Generator(self.device)
        if seed is None:
            self.training_generator.seed()
        else:
            self.training_generator.manual_seed(seed)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """As in SB3; spaces that were inferred from data are replaced by the environment's if both fit the same data.

        :param env: environment with the model's spaces; a VecEnv may have more or fewer environments than before.
        :param force_reset: reset the environment before its next step.
        :raises ValueError: the environment has other spaces.
        """
        env = self._wrap_env(env, self.verbose)
        if may_take_spaces(vars(self), env):
            self.observation_space, self.action_space = env.observation_space, env.action_space
        check_for_correct_spaces(env, self.observation_space, self.action_space)
        # The last observations do not fit another number of environments.
        force_reset = force_reset or env.num_envs != self.n_envs
        self.n_envs = env.num_envs
        super().set_env(env, force_reset)
        self._run.forget_normalizer()
        self._set_env_of_goals()

    def _set_env_of_goals(self) -> None:
        """The environment computes the rewards of new goals, and a saved buffer does not contain it."""
        if isinstance(self.replay_buffer, HindsightReplayBuffer) and self.env is not None:
            self.replay_buffer.set_env(self.env)

    # Acting

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        **setting: Any,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """SB3's ``predict``, with an argument for each knob of the policy; see :meth:`OfflinePolicy.predict`."""
        return self.policy.predict(observation, state, episode_start, deterministic, **setting)

    # Learning

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

    def _has_recorded_data(self) -> bool:
        return has_recorded_data(self.replay_buffer, self.dataset)

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

    def choose_way(self, updates: int, begins: bool) -> None:
        """Decides whether a ``learn`` compiles its updates, where ``acceleration`` leaves that open.

        The answer stays with the model, in its file too, so that a resumed run continues as it began.

        :param updates: that it will make.
        :param begins: False: it continues an earlier one.
        """
        if self.acceleration == "auto" and self.device.type == "cpu":
            way, message = way_on_cpu(updates, None if begins else self.way_on_cpu_found)
            self.adopt_way(way)
            if self.verbose >= 1 and message:
                print(message)

    def adopt_way(self, way: OnCPU | None) -> None:
        """Runs updates on a CPU in this way where ``acceleration`` leaves it open."""
        before = self.way_of_updates
        self.way_on_cpu_found = way
        if self.way_of_updates != before:
            self._updates = None

    @property
    def way_of_updates(self) -> Acceleration:
        """How updates run: what ``acceleration`` says, and for ``"auto"`` on a CPU what the running ``learn`` chose."""
        if self.acceleration == "auto" and self.device.type == "cpu":
            return self.way_on_cpu_found or "eager"
        return self.acceleration

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

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Updates all networks on fresh batches of the replay buffer.

        :param gradient_steps: number of updates.
        :param batch_size: transitions per update.
        """
        self.begin_training()
        self._running_updates(batch_size).run(gradient_steps, batch_size)
        self.count_updates(gradient_steps)

    def count_updates(self, gradient_steps: int) -> None:
        """Counts updates that were made by this model or by a stack of several models."""
        self._n_updates += gradient_steps

    def next_update(self) -> int:
        """The number, from 1, of the update whose batch and noise are drawn next; each call counts one."""
        self._updates_prepared += 1
        return self._updates_prepared

    def begin_training(self) -> None:
        """Sets training mode and learning rate, before updates of this model or of a stack of several models."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        self._updates_prepared = self._n_updates

    def _running_updates(self, batch_size: int) -> PlainUpdates | CapturedUpdates:
        """What makes this model's updates, in the way that ``acceleration`` and ``precision`` say."""
        if self._updates is None:
            products, must_compile = self.product_type(batch_size), self.acceleration != "auto"
            self._updates = updates_of(self._run, self.way_of_updates, products, must_compile)
        return self._updates

    def product_type(self, batch_size: int) -> ProductType:
        """The type in which updates multiply: what ``precision`` says.

        ``"auto"`` measures once; the answer stays with the model, in its file too, so that a resumed run continues as
        it began.

        :param batch_size: transitions per update.
        """
        if self.precision != "auto":
            return self.precision
        found = self.product_type_found
        if found is None or (found == "bf16" and not has_fast_bfloat16(self.device)):
            self.product_type_found, reason = faster_type(self.policy, batch_size, self.device)
            if self.verbose >= 1:
                print(f"Products of updates in {self.product_type_found}: {reason}")
        assert self.product_type_found is not None
        return self.product_type_found

    def _update_learning_rate(self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer) -> None:
        """As in SB3, but a learning rate that is a tensor stays one: a CUDA graph reads it."""
        learning_rate = self.lr_schedule(self._current_progress_remaining)
        self.logger.record("train/learning_rate", learning_rate)
        factors = self.policy.learning_rate_factors(self._n_updates)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            set_learning_rate(optimizer, [learning_rate * factor for factor in factors])

    # The log

    @property
    def training_monitor(self) -> TrainingMonitor:
        """Collects the statistics of updates for the log."""
        return self._monitor

    def dump_logs(self) -> None:
        """Writes the statistics since the last call to all of the logger's outputs."""
        with section("logging"):
            self.record_training()
            super().dump_logs()

    def record_training(self) -> None:
        """Gives the logger the statistics of the updates since the last call, and the losses on validation data."""
        self._monitor.record(self.logger, self._n_updates)
        self._run.record_validation(self.logger)

    # Files

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            "dataset",
            "training_generator",
            "_iteration_ends",
            "_when_learning_begins",
            "_generators_online",
            "_monitor",
            "_run",
            "_updates",
            "_updates_prepared",
        ]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []

    def save(
        self,
        path: File,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
        format: Literal["classic", "safe"] = "classic",
    ) -> None:
        """Saves the model as SB3 does, but under its final name only when it is complete.

        The file also keeps the name of the algorithm, the version of this package and the state of the training
        generator, so that a loaded model continues with the same random numbers.

        :param path: file (``.zip`` is added when it has no ending) or an open binary file.
        :param exclude: attributes to leave out in addition to SB3's.
        :param include: attributes to keep that would otherwise be left out.
        :param format: ``"classic"`` is SB3's, whose pickled parts run when they are loaded; ``"safe"`` is JSON and
            safetensors, for models that others load. Both continue alike.
        :raises OSError: the file cannot be written (for example, the disk is full); an earlier file of that name is
            untouched.
        :raises ValueError: another format, or an attribute that a safe file cannot hold.
        """
        if format not in ("classic", "safe"):
            raise ValueError(f"format is {format!r}, expected 'classic' or 'safe'")
        if format == "safe":
            whole = io.BytesIO()
            self.save(whole, exclude, include)
            if isinstance(path, str | pathlib.Path):
                with replaced_when_complete(with_ending(path, ".zip")) as file:
                    safe_files.write(whole, file)
            else:
                safe_files.write(whole, path)
            return
        self._generator_state = generator_state(self.training_generator)
        self._origin = origin_of(type(self))
        if self._vec_normalize_env is not None:
            self._saved_statistics = observation_statistics(self._vec_normalize_env)
        if isinstance(path, str | pathlib.Path):
            with replaced_when_complete(with_ending(path, ".zip")) as file:
                super().save(file, exclude, include)
        else:
            super().save(path, exclude, include)

    @classmethod
    def load(
        cls: type[Self],
        path: File,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        trust: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Loads a model as SB3 does; to continue learning from data, pass ``dataset=``: it is not part of the file.

        **A file in SB3's format runs what its writer pickled into it.** Load only files that you trust, or pass
        ``trust=False``: then only files that ``save(..., format="safe")`` wrote are read, and nothing of them runs.

        :param path: file written by :meth:`save`.
        :param env: environment, if the model is to learn online.
        :param device: torch device, or ``"auto"``.
        :param custom_objects: attributes to use instead of the saved ones.
        :param trust: False: refuse a file whose loading could run code; None: as True, unless the environment has
            ``DIPOLE_SAFE=1``.
        :param kwargs: constructor arguments to change.
        :raises OSError: there is no such file.
        :raises ValueError: the file is truncated, damaged, not a saved model, of another algorithm or from an
            incompatible older version, or ``env`` has other spaces.
        """
        # First: not even the name of the algorithm is looked up for a file that may not be read.
        file, device = classic(path, trust), plain_device(device)
        require_same_algorithm(path, cls)
        if env is not None:
            env = cls._wrap_env(env)
            data, _, _ = load_from_zip_file(file, device=device, custom_objects=custom_objects)
            if data is not None and may_take_spaces(data, env):
                taken = {"observation_space": env.observation_space, "action_space": env.action_space}
                custom_objects = {**(custom_objects or {}), **taken}
        # Knobs are properties; the file has the attributes behind them.
        knobs = {knob.name for knob in cls.knobs()}
        attributes = {f"_{name}" if name in knobs else name: value for name, value in kwargs.items()}
        get_device(device)  # that there is no such device is not the file's fault, nor that its memory is full
        try:
            return super().load(file, env, device, custom_objects, print_system_info, force_reset, **attributes)
        except (ValueError, torch.cuda.OutOfMemoryError):
            raise
        except safe_files.WRONG_CONTENT as error:
            # Values of a safe file may be of any kind; a file in SB3's format is trusted, and its errors are a bug's.
            if file is path:
                raise
            raise safe_files.wrong_content(path, error) from error

    def push_to_hub(
        self,
        repo_id: str,
        *,
        evaluation: model_card.Evaluation | None = None,
        license: str | None = None,
        private: bool | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> str:
        """Publishes the model on the Hugging Face hub, with a card, in one commit; ``dipole hub push`` knows more.

        The file is a safe one (JSON and safetensors) without paths of this machine. An earlier model in the repository,
        and its card, are replaced. Needs the extra ``hub``.

        :param repo_id: ``"USER/NAME"``, or ``"NAME"`` among your own; made when it is not there.
        :param evaluation: what :func:`~dipole_sb3.evaluate_sweep` found in the environment of the data, for the card.
        :param license: the hub's name of a licence, e.g. ``"mit"``; None: the card names none.
        :param private: whether a new repository is private; None: as the account's default says.
        :param revision: an existing branch; None: main.
        :param token: None: that of ``hf auth login``, or the environment variable HF_TOKEN.
        :return: the address of the commit.
        :raises OSError: the hub cannot be reached or refuses; nothing is committed then.
        :raises ValueError: an attribute that a safe file cannot hold, or no id of a repository.
        :raises ModuleNotFoundError: the extra is not installed.
        """
        hub.library()
        content, story = io.BytesIO(), model_card.story_of(self, evaluation, license)
        self.save(content, format="safe")
        return hub.push(
            repo_id,
            {hub.MODEL: content.getvalue()},
            lambda full_id: model_card.write_card(self, full_id, story),
            private=private,
            revision=revision,
            token=token,
        )

    @classmethod
    def from_hub(
        cls: type[Self],
        repo_id: str,
        env: GymEnv | None = None,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Loads a model from the Hugging Face hub; nothing of it can run: only safe files are read.

        Needs the extra ``hub``. A model that was downloaded before comes from the hub's cache.

        :param repo_id: ``"USER/NAME"``, as :meth:`push_to_hub` or ``dipole hub push`` filled it.
        :param env: as in :meth:`load`.
        :param revision: branch, tag or commit; None: main.
        :param token: None: that of ``hf auth login``, or the environment variable HF_TOKEN.
        :param kwargs: further arguments of :meth:`load`, except ``trust``.
        :raises OSError: the repository, the revision or the model is not there, may not be read, or cannot be reached.
        :raises ValueError: the model is in SB3's format, damaged, or of another algorithm.
        :raises ModuleNotFoundError: the extra is not installed.
        """
        return cls.load(hub.download(repo_id, revision=revision, token=token), env, trust=False, **kwargs)

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """As in SB3, but any device can load them, and networks that share memory with other runs are copied."""
        parameters: dict[str, dict[str, Any]] = super().get_parameters()
        networks = {name: alone(value) for name, value in parameters["policy"].items()}
        return {"policy": networks, "policy.optimizer": without_device(parameters["policy.optimizer"])}

    def set_parameters(
        self, load_path_or_dict: File | TensorDict, exact_match: bool = True, device: torch.device | str = "auto"
    ) -> None:
        """As in SB3, but names are checked before anything changes, and no tensor is shared with the source.

        :param load_path_or_dict: saved model, or a dict as :meth:`get_parameters` gives it.
        :param exact_match: whether all parameters, and the optimiser's state, must be there.
        :param device: torch device, or ``"auto"``.
        :raises ValueError: names are unknown or missing, or the file is truncated or damaged.
        """
        if isinstance(load_path_or_dict, dict):
            # torch's optimisers keep the tensors that they are given.
            parameters = copy.deepcopy(load_path_or_dict)
        else:
            file = classic(load_path_or_dict, None)
            require_model_file(file)
            _, parameters, _ = load_from_zip_file(file, device=plain_device(device), load_data=False)
        for name in parameters:
            try:
                recursive_getattr(self, name)
            except AttributeError as error:
                raise ValueError(f"Key {name} is an invalid object name: the model has no such parameters") from error
        expected = self._get_torch_save_params()[0]
        if exact_match and sorted(parameters) != sorted(expected):
            raise ValueError(
                f"Names of parameters do not match the model's: found {sorted(parameters)}, expected {sorted(expected)}"
            )
        super().set_parameters(parameters, exact_match)

    def save_replay_buffer(self, path: File) -> None:
        """Saves the replay buffer as SB3 does, but under its final name only when it is complete.

        :param path: file (``.pkl`` is added when it has no ending) or an open binary file.
        :raises OSError: the file cannot be written; an earlier file of that name is untouched.
        """
        if isinstance(path, str | pathlib.Path):
            with replaced_when_complete(with_ending(path, ".pkl")) as file:
                save_to_pkl(file, self.replay_buffer, self.verbose)
        else:
            save_to_pkl(path, self.replay_buffer, self.verbose)

    def load_replay_buffer(self, path: File, truncate_last_traj: bool = True) -> None:
        """Replaces the replay buffer by a saved one; without an environment, it also becomes the data set.

        :param path: file written by :meth:`save_replay_buffer`. It is a pickle: load only files that you trust.
        :param truncate_last_traj: ignored; SB3's signature has it.
        :raises ValueError: the file is truncated or holds something else.
        :raises DatasetError: its transitions have other spaces than the model; the model then keeps its replay buffer.
        """
        loaded = read_replay_buffer(path, self.verbose)
        checks.require_same_spaces(
            loaded.source, loaded.observation_space, loaded.action_space, self.observation_space, self.action_space
        )
        self.replay_buffer = loaded.to(self.device)
        self._set_env_of_goals()
        if self.env is None:
            self.dataset = recorded_part(self.replay_buffer)

    # Interrupted runs

    @classmethod
    def resume(
        cls: type[Self],
        path: str | pathlib.Path,
        env: GymEnv | None = None,
        dataset: Any = None,
        device: torch.device | str = "auto",
        **arguments: Any,
    ) -> Self:
        """Loads an interrupted run from its newest checkpoint; ``learn(…, reset_num_timesteps=False)`` continues it.

        On the CPU, and with :class:`~dipole_sb3.ReplayableEpisodes` around every environment, it continues as if it had
        never stopped. Without ReplayableEpisodes it warns and continues with new episodes. Load only files that you
        trust: SB3's format holds pickled objects.

        :param path: folder of :class:`~dipole_sb3.ResumableCheckpoint`, or one checkpoint.
        :param env: an environment like the run's; None if the rest of the run needs none.
        :param dataset: the data that the run began with, as in the constructor.
        :param device: torch device, or ``"auto"``.
        :param arguments: constructor arguments to change.
        :raises FileNotFoundError: there is no checkpoint.
        :raises ValueError: all are damaged, the file has no state of a run, or ``env`` is not like the run's.
        :raises DatasetError: the data set is missing or has another checksum.
        """
        model: Self = checkpoints.resume(cls, path, env, dataset, device, **arguments)
        return model

    def run_state(self) -> dict[str, Any]:
        """What a run needs besides the model's file: online transitions, statistics, the action space's generator.

        Call it at the end of an iteration. Of the data set it has only the name and checksum, of the environment only
        VecNormalize's statistics.
        """
        buffer, statistics = self.replay_buffer, self.get_vec_normalize_env()
        online = buffer if isinstance(buffer, MixedReplayBuffer) else None
        recorded = buffer if online is None else online.recorded
        return {
            "dataset": None if recorded is None else {"source": recorded.source, "checksum": recorded.checksum},
            "online": None if online is None else online.online_state(),
            "n_envs": self.n_envs,
            "vec_normalize": None if statistics is None else vec_normalize_state(statistics),
            "statistics": self._monitor.state(),
            "action_space": self.action_space.np_random.bit_generator.state,
        }

    def restore_run_state(self, state: Mapping[str, Any], where: str) -> None:
        """Restores what :meth:`run_state` returned.

        :param where: where the state comes from, for messages.
        :raises ValueError: the environment is of another kind than the run's.
        """
        if state["n_envs"] != self.n_envs and state["online"] is not None:
            raise ValueError(f"{where}: the run has {state['n_envs']} environments, found {self.n_envs} in env=")
        statistics = self.get_vec_normalize_env()
        if (statistics is None) != (state["vec_normalize"] is None) and self.env is not None:
            found, expected = ("no VecNormalize", "one") if statistics is None else ("a VecNormalize", "none")
            raise ValueError(
                f"{where}: found {found} around env=, expected {expected}, as when the checkpoint was taken"
            )
        if statistics is not None:
            restore_vec_normalize(statistics, state["vec_normalize"])
        if state["online"] is not None:
            self._make_room().restore_online(state["online"])
        self._monitor.restore(state["statistics"])
        self.action_space.np_random.bit_generator.state = state["action_space"]

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
