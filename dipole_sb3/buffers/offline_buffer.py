"""Recorded data behind Stable-Baselines3's replay-buffer face."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.preprocessing import get_obs_shape
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from dipole_sb3.buffers import array_conventions, image_layout, recorded_arrays, sb3_buffers
from dipole_sb3.buffers.checksums import TransitionDigest
from dipole_sb3.buffers.device_mirror import DeviceMirror, ObservationTensors
from dipole_sb3.buffers.n_step_windows import differ, find_breaks, windows
from dipole_sb3.buffers.recorded_arrays import RecordedArrays
from dipole_sb3.buffers.shared_observations import SharedNextObservations
from dipole_sb3.common import checks
from dipole_sb3.common.checks import ObservationArrays
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.observations import mapped, together

SelfOfflineReplayBuffer = TypeVar("SelfOfflineReplayBuffer", bound="OfflineReplayBuffer")

TRANSITION_ARRAYS = ("observations", "actions", "rewards", "next_observations", "dones", "timeouts")
"""What a buffer holds of every transition."""


class Batch(NamedTuple):
    """Transitions on the training device.

    =================  ==========================================
    observations       [batch, *observation], or a dict of those
    actions            [batch, action], scaled to [−1, 1]
    rewards            [batch]
    next_observations  as observations
    masks              [batch], 0 where bootstrapping must stop
    steps              None
    next_actions       None, or [batch, action], what was done in next_observations, scaled to [−1, 1]
    continues          None, or [batch], 1 where next_actions are of the same episode, else 0: they mean nothing there
    =================  ==========================================

    For n-step returns: ``rewards`` [batch, n] are those of up to n transitions, 0 after the last; ``steps`` [batch],
    1 to n, says how many they are; ``next_observations`` and ``masks`` are the last one's.
    """

    observations: ObservationTensors
    actions: Tensor
    rewards: Tensor
    next_observations: ObservationTensors
    masks: Tensor
    steps: Tensor | None = None
    next_actions: Tensor | None = None
    continues: Tensor | None = None


class OfflineReplayBuffer(ReplayBuffer):
    """An SB3 replay buffer that adopts recorded arrays, and from which whole batches are drawn on the device.

    Made by :func:`dipole_sb3.load_dataset` or :meth:`from_arrays`. Built through SB3's constructor it is an ordinary,
    empty ring buffer. It serves Box and Dict observations alike.

    ===================================  =====================================================
    observations, next_observations      [transitions, envs, *observation], or dicts of those
    actions                              [transitions, envs, action], scaled to [−1, 1]
    rewards, dones, timeouts             [transitions, envs], float32
    ===================================  =====================================================

    ``dones`` is 1 where an episode ended or bootstrapping must stop; ``timeouts`` marks the ends after which the
    value goes on (a time limit), as in SB3.

    :param buffer_size: capacity in transitions (over all environments).
    :param observation_space: Box or Dict of Box (also SB3's other observation spaces).
    :param action_space: Box.
    :param device: where batches are drawn; the arrays are mirrored there when it is not the CPU.
    :param n_envs: environments that write at a time.
    :param optimize_memory_usage: store observations once. Unlike in SB3 the last observation of every episode is kept,
        so batches are the same as without it, also after time limits.
    :param handle_timeout_termination: as in SB3: remember which ends were time limits.
    """

    observations: ObservationArrays  # type: ignore[assignment]
    next_observations: ObservationArrays  # type: ignore[assignment]

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
    ) -> None:
        # Not ReplayBuffer's constructor: it allocates arrays, of one Box only.
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs=n_envs)
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage = optimize_memory_usage
        self.handle_timeout_termination = handle_timeout_termination
        self.observations = self._allocate_observations()
        self._shared: SharedNextObservations | None = None
        if optimize_memory_usage:
            self._share_observations()
        else:
            self.next_observations = self._allocate_observations()
        self.actions = np.zeros((self.buffer_size, n_envs, self.action_dim), np.float32)
        self.rewards = np.zeros((self.buffer_size, n_envs), np.float32)
        self.dones = np.zeros((self.buffer_size, n_envs), np.float32)
        self.timeouts = np.zeros((self.buffer_size, n_envs), np.float32)
        self.source = "replay buffer"
        self.metadata: dict[str, Any] = {}
        self.validation: OfflineReplayBuffer | None = None
        self._mirror: DeviceMirror | None = None
        self._rows_to_send = 0
        self._breaks: np.ndarray | None = None
        self._checksum: str | None = None

    def _share_observations(self, next_observations: ObservationArrays | None = None) -> None:
        """Stores observations once from now on; see :class:`SharedNextObservations`.

        :param next_observations: of the filled rows; None: there are none.
        """
        self._shared = SharedNextObservations(self.observations)
        if next_observations is not None and self._filled_rows():
            self._shared.fill(next_observations, (self.pos - 1) % self.buffer_size)
        self.next_observations = self._shared.views()

    def _allocate_observations(self) -> ObservationArrays:
        shape = (self.buffer_size, self.n_envs)
        if isinstance(self.observation_space, spaces.Dict):
            return {
                key: np.zeros((*shape, *self.obs_shape[key]), checks.stores_as(space))  # type: ignore[call-overload]
                for key, space in self.observation_space.spaces.items()
            }
        return np.zeros((*shape, *self.obs_shape), checks.stores_as(self.observation_space))

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, Any],
        *,
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Box | None = None,
        device: torch.device | str = "auto",
        source: str = "arrays",
        metadata: Mapping[str, Any] | None = None,
    ) -> OfflineReplayBuffer:
        """A full buffer over recorded arrays.

        C-contiguous float32 (or uint8 image) observations are adopted, not copied. Arrays mean here what they mean in
        files.

        :param arrays: ``observations`` [T, *observation] (or a mapping of those), ``actions`` [T, action] in the
            environment's units, ``rewards`` [T], ``next_observations`` as observations; and how episodes end:
            ``terminals`` or ``dones`` [T] (1 where an episode ended), ``timeouts`` [T] (1 where a time limit ended it)
            and ``masks`` [T] (0 only where bootstrapping must stop). Terminals or masks are enough: without masks and
            timeouts every terminal stops bootstrapping, without terminals only masks end episodes. Where two of the
            three are there, next_observations may be missing, as in D4RL's and d3rlpy's data: they are the
            observations of the next rows. Other keys are ignored.
        :param observation_space: checked against; inferred from the data when None.
        :param action_space: bounds of the actions; Box(−1, 1) when None, if the actions fit into it.
        :param device: where batches will be drawn.
        :param source: name of the data in error messages.
        :param metadata: anything worth keeping (environment id, provenance).
        :raises DatasetError: missing keys, wrong shapes, NaN or infinity, emptiness, values out of bounds.
        """
        (transitions,) = array_conventions.transition_blocks(source, arrays, whole=True)
        array_conventions.require_keys(source, transitions, arrays)
        known = recorded_arrays.spaces_of(source, transitions, observation_space, action_space)
        found = recorded_arrays.adopted(source, transitions, *known)
        buffer = cls(1, *known, device)._filled_with(found, source)
        buffer.metadata = dict(metadata or {})
        return buffer

    @classmethod
    def from_replay_buffer(
        cls, buffer: ReplayBuffer, *, device: torch.device | str = "auto", source: str = "replay buffer"
    ) -> OfflineReplayBuffer:
        """What an SB3 algorithm's replay buffer holds, oldest first; of several environments, too.

        Arrays are shared with ``buffer`` where they can be, so it must not be written to meanwhile; a full ring is
        copied into the order of time. As SB3 stores it: actions scaled to [−1, 1], observations and rewards as they
        were before VecNormalize. With ``optimize_memory_usage`` the observations after the ends of episodes, and which
        ends were time limits, are lost: every end stops bootstrapping, as in SB3.

        :param buffer: ReplayBuffer or DictReplayBuffer, in whichever algorithm it was filled; of a HerReplayBuffer
            the transitions as they were recorded; an OfflineReplayBuffer is returned as it is.
        :param device: where batches will be drawn.
        :param source: name of the data in error messages.
        :raises DatasetError: it is empty, has no Box actions, or holds NaN or actions outside
            [−1, 1].
        """
        if isinstance(buffer, cls):
            return buffer.to(get_device(device))
        found = sb3_buffers.transitions(source, buffer)
        return cls(buffer.n_envs, buffer.observation_space, buffer.action_space, device, buffer.n_envs)._filled_with(
            found, source
        )

    def _filled_with(self: SelfOfflineReplayBuffer, found: RecordedArrays, source: str) -> SelfOfflineReplayBuffer:
        """Itself as a full buffer of these transitions, whose arrays it adopts."""
        self.buffer_size, self.pos, self.full, self.source = len(found.rewards), 0, True, source
        for name in TRANSITION_ARRAYS:
            setattr(self, name, getattr(found, name))
        return self

    # SB3's face

    def size(self) -> int:
        """Rows that hold transitions (each of ``n_envs`` transitions)."""
        return self._filled_rows()

    def _filled_rows(self) -> int:
        return self.buffer_size if self.full else self.pos

    @property
    def n_transitions(self) -> int:
        """Transitions to draw from, over all environments."""
        return self.size() * self.n_envs

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """One transition of every environment, as in SB3; a full buffer overwrites its oldest row."""
        row = self.pos
        self._write(row, self.observations, obs)
        if self._shared is None:
            self._write(row, self.next_observations, next_obs)
        else:
            self._shared.write(row, next_obs)
        self.actions[row] = np.asarray(action).reshape(self.n_envs, self.action_dim)
        self.rewards[row], self.dones[row] = reward, done
        if self.handle_timeout_termination:
            # Some environments report it as an array of one element.
            self.timeouts[row] = [bool(info.get("TimeLimit.truncated", False)) for info in infos]
        if self._breaks is not None:
            self._breaks[row - 1] = (self.dones[row - 1] > 0) | self._begins_anew(row)
            self._breaks[row] = True
        self._rows_to_send = min(self._rows_to_send + 1, self.buffer_size)
        self._checksum = None
        self.pos = (row + 1) % self.buffer_size
        self.full = self.full or self.pos == 0

    def _write(self, row: int, stored: ObservationArrays, given: Any) -> None:
        for array, value in together(stored, given):
            array[row] = np.asarray(value).reshape(array.shape[1:])

    def _begins_anew(self, row: int) -> np.ndarray:
        """Where a row's observation is not the next observation of the row before, [n_envs]."""
        begins = [
            differ(leading[[row - 1]], following[[row]])[0]
            for leading, following in together(self.next_observations, self.observations)
        ]
        return np.any(begins, axis=0)  # type: ignore[no-any-return]

    def sample(  # type: ignore[override]
        self, batch_size: int, env: VecNormalize | None = None
    ) -> ReplayBufferSamples | DictReplayBufferSamples:
        """As in SB3.

        :param batch_size: transitions to draw with replacement.
        :param env: normalises observations and rewards.
        """
        # Not ReplayBuffer's, which leaves a row out where observations are stored once.
        samples: ReplayBufferSamples | DictReplayBufferSamples = BaseBuffer.sample(self, batch_size, env)
        return samples

    def _get_samples(  # type: ignore[override]
        self, batch_inds: np.ndarray, env: VecNormalize | None = None
    ) -> ReplayBufferSamples | DictReplayBufferSamples:
        columns = np.random.randint(0, self.n_envs, size=len(batch_inds))
        observations, following = (
            self._normalize_obs(value, env) for value in self._observation_pairs(batch_inds, columns)
        )
        dones = self.dones[batch_inds, columns] * (1 - self.timeouts[batch_inds, columns])
        rewards = self._normalize_reward(self.rewards[batch_inds, columns].reshape(-1, 1), env)
        actions = self.to_torch(self.actions[batch_inds, columns])
        ends = self.to_torch(dones.reshape(-1, 1))
        if isinstance(observations, dict):
            assert isinstance(following, dict)
            return DictReplayBufferSamples(
                {key: self.to_torch(value) for key, value in observations.items()},
                actions,
                {key: self.to_torch(value) for key, value in following.items()},
                ends,
                self.to_torch(rewards),
            )
        assert isinstance(following, np.ndarray)
        return ReplayBufferSamples(
            self.to_torch(observations), actions, self.to_torch(following), ends, self.to_torch(rewards)
        )

    def _observation_pairs(self, rows: np.ndarray, columns: np.ndarray) -> tuple[ObservationArrays, ObservationArrays]:
        """Observations of the transitions and what followed them, [n, *observation] each."""
        one, other = (
            mapped(lambda array: array[rows, columns], value) for value in (self.observations, self.next_observations)
        )
        return one, other

    def blocks(self, rows: int | None = None) -> Iterator[dict[str, Any]]:
        """All transitions in the order of flat indices, as copies or views of at most so many at a time.

        Memory stays bounded where the data lie in storage.

        :param rows: of a block, each of ``n_envs`` transitions; None: blocks of about 32 MiB.
        :return: ``observations`` and ``next_observations`` [n, *observation] (or dicts of those), ``actions``
            [n, action] scaled to [−1, 1], ``rewards``, ``dones`` and ``timeouts`` [n].
        """
        rows = image_layout.rows_per_block(self._row_bytes()) if rows is None else rows
        filled = self._filled_rows()
        for start in range(0, filled, rows):
            part = slice(start, min(start + rows, filled))
            yield {
                key: mapped(lambda array, part=part: array[part].reshape(-1, *array.shape[2:]), getattr(self, key))
                for key in TRANSITION_ARRAYS
            }

    def recordings(self, rows: int | None = None) -> Iterator[Iterator[dict[str, Any]]]:
        """All transitions in the order of time: those of every environment together, the oldest first.

        Nothing goes on from one recording to the next, whatever its observations are.

        :param rows: transitions of a block; None: blocks of about 32 MiB.
        :return: for each environment its blocks, as :meth:`blocks` gives them.
        """
        oldest = self.pos if self.full else 0
        rows = image_layout.rows_per_block(self._row_bytes() // self.n_envs) if rows is None else rows
        order = (oldest + np.arange(self._filled_rows())) % self.buffer_size
        for column in range(self.n_envs):
            yield self._blocks_of(order, column, rows)

    def ends_of_recordings(self) -> np.ndarray:
        """Rows after which another recording begins although its first observation might follow, int64 [K]."""
        return np.zeros(0, np.int64)

    def _blocks_of(self, order: np.ndarray, column: int, rows: int) -> Iterator[dict[str, Any]]:
        """One environment's transitions in the rows of ``order``, so many at a time, as copies."""
        for start in range(0, len(order), rows):
            part = order[start : start + rows]
            yield {
                key: mapped(lambda array, part=part: array[part, column], getattr(self, key))
                for key in TRANSITION_ARRAYS
            }

    def _row_bytes(self) -> int:
        """Of the observations in a row, by far the most of it."""
        return sum(array[:1].nbytes for (array,) in together(self.observations))

    @property
    def checksum(self) -> str:
        """What identifies the data: SHA-256 over every transition as training sees it, in hexadecimal digits.

        It does not depend on where the data lie (in memory, in storage, in a file of either kind), nor on whether
        images have their channels first or last. Computed once, then remembered until something is added.
        """
        if self._checksum is None:
            digest = TransitionDigest(self.observation_space)
            for block in self.blocks():
                digest.update(block)
            self._checksum = digest.hexdigest()
        return self._checksum

    # Training's face

    def draw(self, batch_size: int, generator: torch.Generator, n_steps: int = 1, next_actions: bool = False) -> Batch:
        """A uniform batch with replacement; indices and rows are drawn on the device, without a copy from the host.

        :param batch_size: transitions to draw, ≥ 1.
        :param generator: on the buffer's device; the only source of randomness.
        :param n_steps: as in :meth:`take`.
        :param next_actions: as in :meth:`take`.
        :raises DatasetError: when the buffer is empty.
        """
        return self.take(self.draw_indices(batch_size, generator), n_steps, next_actions)

    def draw_indices(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """The flat indices of a uniform batch for :meth:`take`: what :meth:`draw` draws.

        :raises DatasetError: when the buffer is empty.
        """
        available = self.n_transitions
        if available == 0:
            raise DatasetError(f"{self.source}: no transitions to train on; expected at least one")
        return torch.randint(available, (batch_size,), generator=generator, device=self.device)

    @property
    def resident(self) -> bool:
        """Whether all transitions are on the device and stay as they are: :meth:`take` then needs the host no more."""
        return self.full and self._shared is None

    def take(self, indices: Tensor, n_steps: int = 1, next_actions: bool = False) -> Batch:
        """The transitions at flat indices (row · n_envs + environment), shape [batch], on the buffer's device.

        :param n_steps: n ≥ 1. Above 1 each comes with the rewards of the up to n − 1 transitions that follow it in its
            episode, and with the last one's next observation and mask (see :class:`Batch`).
        :param next_actions: whether to add the action that followed, and where there is one.
        """
        mirror = self._current_mirror()

        def tensor_of(name: str) -> Any:
            return mirror.of(name, getattr(self, name))

        last, rewards, steps = indices, tensor_of("rewards")[indices], None
        if n_steps > 1:
            breaks = mirror.of("_breaks", self.breaks())
            window = windows(indices, breaks, n_steps, self.n_envs)
            last, steps = window.last, window.steps
            rewards = tensor_of("rewards")[window.rows] * window.counts
        observations = tensor_of("observations")
        if self._shared is None:
            following = mapped(lambda tensor: tensor[last], tensor_of("next_observations"))
        else:
            following = self._shared.take(last, tensor_of("_slots"), observations)
        actions = tensor_of("actions")
        batch = Batch(
            mapped(lambda tensor: tensor[indices], observations),
            actions[indices],
            rewards,
            following,
            1.0 - tensor_of("dones")[last] * (1.0 - tensor_of("timeouts")[last]),
            steps,
        )
        if not next_actions:
            return batch
        continues = (~mirror.of("_breaks", self.breaks())[last]).to(torch.float32)
        return batch._replace(next_actions=actions[(last + self.n_envs) % len(actions)], continues=continues)

    def observations_at(self, indices: Tensor, key: str | None = None) -> Tensor:
        """The observations of transitions at flat indices, [n, *observation], on the buffer's device.

        :param key: which part of a Dict observation.
        """
        observations = self._current_mirror().of("observations", self.observations)
        found: Tensor = (observations if key is None else observations[key])[indices]
        return found

    @property
    def _slots(self) -> np.ndarray:
        """Of shared observations, for the mirror on the device."""
        assert self._shared is not None
        return self._shared.slots

    def breaks(self) -> np.ndarray:
        """Where the row after a transition does not continue it, [rows, n_envs], bool; found once, then kept up."""
        if self._breaks is None:
            newest = (self.pos - 1) % self.buffer_size
            self._breaks = find_breaks(self.observations, self.next_observations, self.dones, newest)
        return self._breaks

    def tensors(self) -> dict[str, Any]:
        """All arrays as tensors on the buffer's device, [rows · n_envs, ...]; views of the same memory on the CPU.

        Where observations are stored once, next observations are put together at each call; batches do not need them.
        """
        mirror = self._current_mirror()
        if self._shared is None:
            return {name: mirror.of(name, getattr(self, name)) for name in TRANSITION_ARRAYS}
        apart = DeviceMirror(self.device)
        whole = mapped(np.asarray, self.next_observations)
        return {
            name: apart.of(name, whole) if name == "next_observations" else mirror.of(name, getattr(self, name))
            for name in TRANSITION_ARRAYS
        }

    def tensors_to_take(self, n_steps: int = 1, next_actions: bool = False) -> list[Tensor]:
        """All that :meth:`take` reads: always the same tensors, until the buffer changes or has another device."""
        read: list[Tensor] = []
        for part in self.tensors().values():
            mapped(read.append, part)
        if n_steps > 1 or next_actions:
            read.append(self._current_mirror().of("_breaks", self.breaks()))
        return read

    def _current_mirror(self) -> DeviceMirror:
        if self._mirror is None:
            self._mirror = DeviceMirror(self.device)
        elif self._rows_to_send:
            # With the row before them, which is no longer the newest.
            rows = min(self._rows_to_send + 1, self.buffer_size)
            self._mirror.send(lambda name: getattr(self, name), self.pos - rows, rows)
        self._rows_to_send = 0
        return self._mirror

    def to(self, device: torch.device | str) -> OfflineReplayBuffer:
        """Draws from now on on another device (and the validation split with it); returns itself."""
        device = torch.device(device)
        if device != self.device:
            self.device, self._mirror = device, None
        if self.validation is not None:
            self.validation.to(device)
        return self

    def with_channels_first(self) -> OfflineReplayBuffer:
        """This data with every image's channels first, as SB3's extractors expect; itself when they are already."""
        return self._with_observation_space(image_layout.channels_first(self.observation_space))

    def with_channels_of(self, space: spaces.Space[Any]) -> OfflineReplayBuffer:
        """This data with images laid out as in ``space`` (SB3 turns an environment's images channels-first)."""
        transposed = image_layout.channels_first(self.observation_space)
        return self._with_observation_space(transposed) if image_layout.same_shapes(transposed, space) else self

    def _with_observation_space(self, space: spaces.Space[Any]) -> OfflineReplayBuffer:
        if image_layout.same_shapes(space, self.observation_space):
            return self
        other = copy.copy(self)
        other.observation_space, other.obs_shape = space, get_obs_shape(space)  # type: ignore[assignment]
        other.observations = image_layout.transposed(self.observations, space)
        following = self.next_observations if self._shared is None else mapped(np.asarray, self.next_observations)
        other.next_observations, other._shared = image_layout.transposed(following, space), None
        other.optimize_memory_usage = False
        if self.validation is not None:
            other.validation = self.validation._with_observation_space(space)
        return other

    def __getstate__(self) -> dict[str, Any]:
        # These are derived; pickling them (SB3's save_replay_buffer) would store everything twice.
        return {**self.__dict__, "_mirror": None, "_breaks": None}
