"""The data of an algorithm: recorded, gathered online, or both, in one replay buffer."""

from __future__ import annotations

import pathlib
from typing import Any

from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import save_to_pkl
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from dipole_sb3.buffers.hindsight_buffer import HindsightReplayBuffer, options_of
from dipole_sb3.buffers.mixed_buffer import MixedReplayBuffer, recorded_part
from dipole_sb3.buffers.normalization import ObservationStatistics, observation_statistics
from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common import checks
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.files import replaced_when_complete
from dipole_sb3.learning.model_files import File, may_take_spaces, read_replay_buffer, with_ending
from dipole_sb3.learning.offline_policy import OfflinePolicy
from dipole_sb3.learning.stacked_runs import OneRun, without_vec_normalize
from dipole_sb3.learning.training_data import DatasetLike, adopted, has_recorded_data


class RecordedDataAlgorithm(OffPolicyAlgorithm):
    """An SB3 off-policy algorithm whose replay buffer may hold recorded data, which may also give the spaces."""

    policy: OfflinePolicy
    replay_buffer: OfflineReplayBuffer | None
    dataset: Any

    _run: OneRun
    _spaces_from_data: bool = False
    """Whether the spaces were inferred from recorded data, which do not tell an environment's bounds and dtype."""
    learned_normalized_observations: bool = False
    """Whether an update has used observations that VecNormalize normalised."""
    _saved_statistics: dict[str | None, ObservationStatistics] | None = None

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

    def _has_recorded_data(self) -> bool:
        return has_recorded_data(self.replay_buffer, self.dataset)

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
