"""Stacks of frames: the last n images as one, channels after channels, the oldest first."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, SupportsFloat, TypeGuard

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first

from dipole_sb3.common import checks
from dipole_sb3.common.observations import space_parts


class FrameStack(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Shows the last n frames as one image; of a Dict observation its images, everything else as it is.

    At the beginning of an episode its first frame stands for those before it, exactly as in the data of
    :func:`~dipole_sb3.stack_frames` (Stable-Baselines3's VecFrameStack puts black images there).

    :param env: an environment whose observation is an image, or a Dict with at least one: [height, width, channels] or
        [channels, height, width].
    :param frame_stack: n ≥ 1, frames in an observation.
    :raises ValueError: n is no such number, or the observation has no image.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], frame_stack: int) -> None:
        RecordConstructorArgs.__init__(self, frame_stack=frame_stack)
        gymnasium.Wrapper.__init__(self, env)
        self.observation_space = stacked_space(env.observation_space, frame_stack)
        self.frame_space = env.observation_space
        """Of the frames, as data hold them."""
        self._frames: deque[Any] = deque(maxlen=frame_stack)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._frames.clear()
        return self._with(observation), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._with(observation), reward, terminated, truncated, info

    def _with(self, observation: Any) -> Any:
        images = image_parts(self.frame_space)
        # Copied: an environment may draw its next frame into the same memory.
        now = {key: np.array(observation if key is None else observation[key]) for key in images}
        self._frames.extend([now] * (1 if self._frames else self._frames.maxlen or 1))
        stacks = {
            key: np.concatenate([frame[key] for frame in self._frames], channel_axis(space))
            for key, space in images.items()
        }
        return with_images(observation, stacks)


def is_image(space: spaces.Space[Any]) -> TypeGuard[spaces.Box]:
    """Whatever its numbers mean: as uint8, or as floats for ``normalize_images=False``."""
    return is_image_space(space, check_channels=False, normalized_image=True)


def image_parts(space: spaces.Space[Any]) -> dict[str | None, spaces.Box]:
    """The images of a Dict by their keys; another space under None where it is one."""
    return {key: part for key, part in space_parts(space).items() if is_image(part)}


def with_images(observation: Any, images: Mapping[str | None, Any]) -> Any:
    """An observation with others as its images, by the keys of :func:`image_parts`."""
    return images[None] if None in images else {**observation, **images}  # noqa: SIM401 (not of an array)


def channel_axis(space: spaces.Box) -> int:
    """Where an image's channels are: −3 or −1."""
    return -3 if is_image_space_channels_first(space) else -1


def stacked_space(space: spaces.Space[Any], frame_stack: int) -> spaces.Space[Any]:
    """The space of stacks of frames of another.

    :raises ValueError: ``frame_stack`` is no whole number of at least 1, there is no image, or stacks would have more
        channels than pixels in a row or column, so that nobody could tell which axis is which.
    """
    checks.require_whole_number("frame_stack", frame_stack, 1)
    images = image_parts(space)
    if not images:
        raise ValueError(f"frame_stack is {frame_stack} for observations {space}, expected an image")
    stacked: dict[str | None, Any] = {}
    for key, part in images.items():
        axis = channel_axis(part)
        low, high = (np.concatenate([bound] * frame_stack, axis) for bound in (part.low, part.high))
        stacked[key] = spaces.Box(low, high, dtype=part.dtype)
        if channel_axis(stacked[key]) != axis:
            raise ValueError(
                f"frame_stack is {frame_stack} for images of shape {part.shape}, whose stacks would have more channels "
                "than pixels in a row or column; expected larger images"
            )
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: stacked.get(key, part) for key, part in space.spaces.items()})
    return stacked[None]  # type: ignore[no-any-return]
