"""Random crops of a batch's images: they move by a few pixels, so that networks do not learn single pixels by heart.

Source: Kostrikov et al., Image Augmentation Is All You Need (2020); drawn as for the visual tasks of Flow Q-Learning
(2025): with some probability for a whole batch, then for each of its images, the same for s and s'.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.common.frame_stack import is_image

PADDING = 3
"""Pixels by which an image moves at most, in each direction."""

Shifts = Tensor | dict[str, Tensor]
"""Rows and columns [..., batch, 2], from −PADDING to PADDING, by which images move; of a Dict those of its images."""


def require_random_crop(probability: float, space: spaces.Space[Any]) -> None:
    """Refuses a probability that is none, and crops where there is nothing to crop.

    :param space: of the observations.
    :raises ValueError: naming ``random_crop``, what was found and what was expected.
    """
    if isinstance(probability, bool) or not isinstance(probability, Real) or not 0 <= probability <= 1:
        raise ValueError(f"random_crop is {probability!r}, expected a number in [0, 1]")
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    if probability and not any(map(is_image, parts)):
        raise ValueError(f"random_crop is {probability!r} for observations {space}, expected 0: there is no image")


def draw_shifts(
    space: spaces.Space[Any], batch_size: int, probability: float, generator: torch.Generator
) -> Shifts | None:
    """How far each image of a batch moves; all stay where they are with the probability 1 − ``probability``.

    :param space: of the observations.
    :return: None where the probability is 0, which draws nothing.
    """
    if not probability:
        return None
    moves = torch.rand((), generator=generator, device=generator.device) < probability

    def drawn() -> Tensor:
        shift = torch.randint(-PADDING, PADDING + 1, (batch_size, 2), generator=generator, device=generator.device)
        return shift * moves

    if isinstance(space, spaces.Dict):
        return {key: drawn() for key, part in space.spaces.items() if is_image(part)}
    return drawn()


def augmented(batch: Batch, shifts: Shifts | None) -> Batch:
    """The batch with its images moved, those of s and of s' alike."""
    if shifts is None:
        return batch

    def moved(observations: Any) -> Any:
        if isinstance(shifts, Tensor):
            return shifted(observations, shifts)
        return {**observations, **{key: shifted(observations[key], shift) for key, shift in shifts.items()}}

    return batch._replace(observations=moved(batch.observations), next_observations=moved(batch.next_observations))


def shifted(images: Tensor, shift: Tensor) -> Tensor:
    """Images of which row y and column x are what was at y + shift and x + shift; edges are repeated beyond themselves.

    That is a crop of the image with its edges repeated around it.

    :param images: [..., channels, height, width]; the channels of stacked frames move together.
    :param shift: whole numbers [..., 2]: of rows and of columns.
    """
    height, width = images.shape[-2:]
    rows = (torch.arange(height, device=images.device) + shift[..., :1]).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) + shift[..., 1:]).clamp(0, width - 1)
    pixels = (rows.unsqueeze(-1) * width + columns.unsqueeze(-2)).flatten(-2)
    flat = images.flatten(-2)
    return flat.gather(-1, pixels.unsqueeze(-2).expand(flat.shape)).view(images.shape)
