"""Recorded frames, stored once each, of which batches show stacks."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from dipole_sb3.buffers import image_layout
from dipole_sb3.buffers.assembled_rows import AssembledRows
from dipole_sb3.buffers.device_mirror import DeviceMirror
from dipole_sb3.buffers.episode_bounds import bounds_between
from dipole_sb3.buffers.n_step_windows import require_consecutive
from dipole_sb3.buffers.offline_buffer import Batch, OfflineReplayBuffer
from dipole_sb3.common import checks
from dipole_sb3.common.checks import ObservationArrays
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.frame_stack import channel_axis, image_parts, stacked_space, with_images
from dipole_sb3.common.observations import mapped


def stack_frames(frames: OfflineReplayBuffer, frame_stack: int) -> OfflineReplayBuffer:
    """Recorded data with the last n frames as one image, as :class:`~dipole_sb3.FrameStack` shows them.

    Frames stay stored once: stacks are put together when a batch is drawn. An episode's first frame stands for those
    before it; of a Dict observation images are stacked, everything else stays as it is.

    :param frames: in memory or on the disk.
    :param frame_stack: n ≥ 1, frames in an observation; 1: the data as they are.
    :raises DatasetError: the data are not in the order of time.
    :raises ValueError: n is no such number, or there is no image.
    """
    checks.require_whole_number("frame_stack", frame_stack, 1)
    return frames if frame_stack == 1 else StackedFramesBuffer.over(frames, frame_stack)


class StackedFramesBuffer(OfflineReplayBuffer):
    """Transitions whose images are the last n frames; made by :func:`stack_frames`.

    It gives the same batches for the same generator as arrays that were stacked beforehand. ``observations`` and
    ``next_observations`` are put together when they are indexed; everything else is that of the frames.
    """

    _frames: OfflineReplayBuffer
    _frame_stack: int
    _ages: np.ndarray
    """Transitions of the same episode before each, at most n − 1, [rows, n_envs]."""

    @classmethod
    def over(cls, frames: OfflineReplayBuffer, frame_stack: int) -> StackedFramesBuffer:
        """A buffer over recorded frames and their validation split; raises what :func:`stack_frames` does."""
        buffer = cls(1, stacked_space(frames.observation_space, frame_stack), frames.action_space, frames.device)
        if not frames.full or frames.pos or frames.n_transitions != frames.buffer_size * frames.n_envs:
            raise DatasetError(
                f"{frames.source}: is still being gathered; expected recorded data, to stack their frames"
            )
        require_consecutive(frames.source, frames.dones, frames.breaks(), f"frame_stack={frame_stack}")
        starts = bounds_between(frames.breaks()).starts
        buffer._ages = np.minimum(np.arange(len(starts))[:, None] - starts, frame_stack - 1).astype(np.int32)
        buffer._frames, buffer._frame_stack = frames, frame_stack
        buffer.n_envs, buffer.buffer_size, buffer.pos, buffer.full = frames.n_envs, frames.buffer_size, 0, True
        buffer.source, buffer.metadata = frames.source, {**frames.metadata, "frame_stack": frame_stack}
        buffer._open()
        if frames.validation is not None:
            buffer.validation = cls.over(frames.validation, frame_stack)
        return buffer

    def _open(self) -> None:
        frames = self._frames
        self.actions, self.rewards = frames.actions, frames.rewards
        self.dones, self.timeouts = frames.dones, frames.timeouts
        self.observations, self.next_observations = (self._assembled(which) for which in (0, 1))

    def _assembled(self, which: int) -> Any:
        def rows(key: str | None, space: spaces.Space[Any]) -> Any:
            shape = self.obs_shape if key is None else self.obs_shape[key]  # type: ignore[call-overload]
            stored: Any = self._frames.observations if key is None else self._frames.observations[key]
            return AssembledRows((self.buffer_size, self.n_envs, *shape), stored.dtype, partial(self._rows, which, key))

        if isinstance(self.observation_space, spaces.Dict):
            return {key: rows(key, space) for key, space in self.observation_space.spaces.items()}
        return rows(None, self.observation_space)

    def _rows(self, which: int, key: str | None, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        found: Any = self._observation_pairs(rows, columns)[which]
        return found if key is None else found[key]  # type: ignore[no-any-return]

    @property
    def resident(self) -> bool:
        return self._frames.resident

    def take(self, indices: Tensor, n_steps: int = 1, next_actions: bool = False) -> Batch:
        batch = self._frames.take(indices, n_steps, next_actions)
        images = image_parts(self._frames.observation_space)
        before = {key: self._before(indices, key) for key in images}
        stacks = {key: [*frames, _part(batch.observations, key)] for key, frames in before.items()}
        if n_steps == 1:
            following = {key: frames[1:] for key, frames in stacks.items()}
        else:
            assert batch.steps is not None
            last = indices + (batch.steps - 1) * self.n_envs
            following = {key: [*self._before(last, key), self._frames.observations_at(last, key)][1:] for key in images}
        return batch._replace(
            observations=self._with(batch.observations, stacks),
            next_observations=self._with(
                batch.next_observations,
                {key: [*frames, _part(batch.next_observations, key)] for key, frames in following.items()},
            ),
        )

    take.__doc__ = OfflineReplayBuffer.take.__doc__

    def _before(self, indices: Tensor, key: str | None) -> tuple[Tensor, ...]:
        """The n − 1 frames before those of transitions, the oldest first, [batch, *frame] each."""
        ages = self._current_mirror().of("_ages", self._ages)[indices].long()
        back = torch.arange(self._frame_stack - 1, 0, -1, device=indices.device)[:, None]
        rows = indices - torch.minimum(back, ages) * self.n_envs
        found = self._frames.observations_at(rows.flatten(), key)
        # Not torch.split: of no transitions at all it makes one part instead of n − 1.
        return found.reshape(self._frame_stack - 1, len(indices), *found.shape[1:]).unbind()

    def _with(self, newest: Any, stacks: dict[str | None, list[Tensor]]) -> Any:
        """Observations whose images are stacks."""
        spaces_of = image_parts(self._frames.observation_space)
        stacked = {key: torch.cat(frames, channel_axis(spaces_of[key])) for key, frames in stacks.items()}
        return with_images(newest, stacked)

    def observations_at(self, indices: Tensor, key: str | None = None) -> Tensor:
        found: Tensor = _part(self.take(indices).observations, key)
        return found

    observations_at.__doc__ = OfflineReplayBuffer.observations_at.__doc__

    def _observation_pairs(self, rows: np.ndarray, columns: np.ndarray) -> tuple[ObservationArrays, ObservationArrays]:
        one, other = self._frames._observation_pairs(rows, columns)
        ages = self._ages[rows, columns]
        before = [
            self._frames._observation_pairs(rows - np.minimum(back, ages), columns)[0]
            for back in range(self._frame_stack - 1, 0, -1)
        ]
        return self._stacked([*before, one]), self._stacked([*before, one, other][1:])

    def _stacked(self, frames: list[Any]) -> Any:
        stacks = {
            key: np.concatenate([_part(frame, key) for frame in frames], channel_axis(space))
            for key, space in image_parts(self._frames.observation_space).items()
        }
        return with_images(frames[-1], stacks)

    def breaks(self) -> np.ndarray:
        return self._frames.breaks()

    breaks.__doc__ = OfflineReplayBuffer.breaks.__doc__

    def ends_of_recordings(self) -> np.ndarray:
        return self._frames.ends_of_recordings()

    ends_of_recordings.__doc__ = OfflineReplayBuffer.ends_of_recordings.__doc__

    @property
    def checksum(self) -> str:
        """What identifies the data: SHA-256 of the frames' checksum and n."""
        return hashlib.sha256(f"{self._frames.checksum} frame_stack={self._frame_stack}".encode()).hexdigest()

    def tensors(self) -> dict[str, Any]:
        """All arrays as tensors on the buffer's device, stacked at each call; batches do not need them."""
        apart, tensors = DeviceMirror(self.device), self._frames.tensors()
        stacks = {
            name: apart.of(name, mapped(np.asarray, getattr(self, name)))
            for name in ("observations", "next_observations")
        }
        return {**tensors, **stacks}

    def tensors_to_take(self, n_steps: int = 1, next_actions: bool = False) -> list[Tensor]:
        ages = self._current_mirror().of("_ages", self._ages)
        return [*self._frames.tensors_to_take(n_steps, next_actions), ages]

    tensors_to_take.__doc__ = OfflineReplayBuffer.tensors_to_take.__doc__

    def add(self, *_: Any, **__: Any) -> None:
        """Refuses: what was recorded stays as it is.

        :raises ValueError: always.
        """
        raise ValueError(f"{self.source}: recorded data are not written to; a MixedReplayBuffer gathers beside them")

    def to(self, device: torch.device | str) -> OfflineReplayBuffer:
        self._frames.to(device)
        return super().to(device)

    to.__doc__ = OfflineReplayBuffer.to.__doc__

    def _with_observation_space(self, space: spaces.Space[Any]) -> OfflineReplayBuffer:
        if image_layout.same_shapes(space, self.observation_space):
            return self
        return type(self).over(self._frames.with_channels_first(), self._frame_stack)

    def __getstate__(self) -> dict[str, Any]:
        of_frames = {"observations", "next_observations", "actions", "rewards", "dones", "timeouts"}
        kept = {key: value for key, value in self.__dict__.items() if key not in of_frames}
        return {**kept, "_mirror": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def _part(observations: Any, key: str | None) -> Any:
    return observations if key is None else observations[key]
