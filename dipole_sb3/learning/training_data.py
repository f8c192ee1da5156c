"""What an algorithm learns from: a data set, what is gathered beside it, and how batches are drawn from both."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from dipole_sb3.buffers.mixed_buffer import MixedReplayBuffer, recorded_part
from dipole_sb3.buffers.normalization import BatchNormalizer
from dipole_sb3.buffers.offline_buffer import Batch, OfflineReplayBuffer
from dipole_sb3.common import checks
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets import is_file_name, load_dataset
from dipole_sb3.learning.saving import SavedAlgorithm

DatasetLike = OfflineReplayBuffer | ReplayBuffer | str | pathlib.Path | Mapping[str, Any]


class DataAlgorithm(SavedAlgorithm):
    """An SB3 off-policy algorithm with a data set, a ring of online transitions beside it and batches from both.

    Randomness of training comes from one generator of its own, so that evaluating or predicting in between does not
    change what is learned.
    """

    offline_ratio: float | Schedule | None
    _normalizer: BatchNormalizer | None

    def _adopt_dataset(self) -> None:
        """Turns ``dataset`` into the replay buffer, and takes the spaces from it where there is no environment."""
        known = hasattr(self, "observation_space")
        if self.dataset is None:
            if not known:
                raise ValueError(
                    f"{type(self).__name__} needs an environment or a data set: found env=None, dataset=None"
                )
            return
        buffer = self.dataset
        # Arrays and files hold what was recorded, in units that only the environment's spaces tell.
        known_spaces: dict[str, Any] = (
            {"observation_space": self.observation_space, "action_space": self.action_space} if known else {}
        )
        if isinstance(buffer, str | pathlib.Path):
            buffer = load_dataset(buffer, device=self.device, **(known_spaces if is_file_name(buffer) else {}))
        elif isinstance(buffer, ReplayBuffer) and not isinstance(buffer, OfflineReplayBuffer):
            buffer = OfflineReplayBuffer.from_replay_buffer(buffer, device=self.device)
        elif not isinstance(buffer, OfflineReplayBuffer):
            buffer = OfflineReplayBuffer.from_arrays(buffer, source="dataset", device=self.device, **known_spaces)
        if known:
            buffer = buffer.with_channels_of(self.observation_space)
            checks.require_same_spaces(
                buffer.source, buffer.observation_space, buffer.action_space, self.observation_space, self.action_space
            )
        else:
            buffer = buffer.with_channels_first()
            self.observation_space, self.action_space, self.n_envs = buffer.observation_space, buffer.action_space, 1
            self._spaces_from_data = True
        self.dataset = self.replay_buffer = buffer.to(self.device)

    def set_dataset(self, dataset: DatasetLike) -> None:
        """Trains on other data from the next ``learn()`` on, for example after ``load``.

        What was gathered online beside the old data is left behind with them.

        :param dataset: as in the constructor; must have the model's spaces.
        :raises DatasetError: when it is malformed or disagrees; the model then keeps what it had.
        """
        previous, self.dataset = self.dataset, dataset
        try:
            self._adopt_dataset()
        except BaseException:
            self.dataset = previous
            raise

    def _new_buffer(self, recorded: OfflineReplayBuffer | None) -> MixedReplayBuffer:
        """An empty ring for the present environments, beside recorded data where there are some."""
        buffer_class = self.replay_buffer_class or MixedReplayBuffer
        if not issubclass(buffer_class, MixedReplayBuffer):
            raise ValueError(
                f"replay_buffer_class: found {buffer_class.__name__}, expected a subclass of MixedReplayBuffer"
            )
        return buffer_class(
            self.buffer_size,
            self.observation_space,
            self.action_space,
            self.device,
            self.n_envs,
            **{"recorded": recorded, **self.replay_buffer_kwargs},
        )

    def _make_room(self) -> MixedReplayBuffer:
        """The buffer for online transitions, beside the data set or what a loaded replay buffer holds."""
        buffer = self._buffer()
        if buffer is self.dataset or not isinstance(buffer, MixedReplayBuffer):
            buffer = self._new_buffer(recorded=buffer)
        elif buffer.n_envs != self.n_envs:
            buffer = buffer.with_environments(self.n_envs)
        self.replay_buffer = buffer
        return buffer

    def _buffer(self) -> OfflineReplayBuffer:
        if self.replay_buffer is None:
            raise DatasetError(f"{type(self).__name__} has no data to train on: pass dataset= or env=")
        return self.replay_buffer

    def _draw(self, batch_size: int) -> Batch:
        """A batch for one update."""
        buffer = self._buffer()
        if isinstance(buffer, MixedReplayBuffer):
            buffer.offline_ratio = self._offline_ratio_now()
        return self._normalized(buffer.draw(batch_size, self._generator, self.n_steps))

    def _resident_buffer(self) -> OfflineReplayBuffer | None:
        """The buffer from which the device can gather batches by itself; None where the host has to."""
        buffer = self._buffer()
        normalized = self._vec_normalize_env is not None or self._learned_normalized
        # A user's subclass may draw in a way of its own.
        uniform = type(buffer).draw in (OfflineReplayBuffer.draw, MixedReplayBuffer.draw)
        return buffer if buffer.resident and uniform and not normalized else None

    def _offline_ratio_now(self) -> float | None:
        """``offline_ratio``, of the present progress where it is a schedule."""
        ratio = self.offline_ratio
        if ratio is None:
            return None
        name = "offline_ratio"
        if callable(ratio):
            name = f"offline_ratio({self._current_progress_remaining:g})"
            ratio = ratio(self._current_progress_remaining)
        if isinstance(ratio, bool) or not isinstance(ratio, Real) or not 0 <= ratio <= 1:
            raise ValueError(f"{name} is {ratio!r}, expected a number in [0, 1]")
        return float(ratio)

    def _normalized(self, batch: Batch) -> Batch:
        """The batch as the networks see it: normalised where the environment is."""
        statistics = self._vec_normalize_env
        if statistics is None:
            if self._learned_normalized:
                raise self._without_vec_normalize()
            return batch
        self._learned_normalized = True
        if self._normalizer is None or statistics.training:
            self._normalizer = BatchNormalizer(statistics, self.device)
        return self._normalizer(batch)

    def _require_consecutive_data(self) -> None:
        """Refuses to make one-step returns out of n-step ones where no row of the data set follows on another."""
        if self.n_steps == 1 or not self._has_recorded_data():
            return
        data = recorded_part(self._buffer())
        open_ended = int((data.dones[: data.size()] == 0).sum()) - data.n_envs
        if open_ended > 0 and data.breaks()[: data.size()].all():
            raise DatasetError(
                f"{data.source}: n_steps={self.n_steps} needs transitions in the order in which they were recorded: "
                f"found no next observation that is the observation of the row after it, in {data.n_transitions} rows"
            )

    def _has_recorded_data(self) -> bool:
        buffer = self.replay_buffer
        if isinstance(buffer, MixedReplayBuffer):
            return self.dataset is not None or buffer.n_recorded > 0
        return buffer is not None

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seeds SB3's generators, and the one of training."""
        super().set_random_seed(seed)
        self._generator = torch.Generator(self.device)
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        super().set_env(env, force_reset)
        self._normalizer = None

    set_env.__doc__ = SavedAlgorithm.set_env.__doc__


def require_n_steps(n_steps: int) -> None:
    if isinstance(n_steps, bool) or not isinstance(n_steps, int) or n_steps < 1:
        raise ValueError(f"n_steps is {n_steps!r}, expected a whole number of at least 1")
