"""Images of another size than they were recorded in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from dipole_sb3.common import checks
from dipole_sb3.common.frame_stack import channel_axis, image_parts, with_images

ImageSize = tuple[int, int]
"""Height and width, in pixels."""


def require_image_size(image_size: Any) -> None:
    """Refuses anything but two whole numbers, and None.

    :raises ValueError: naming what was found.
    """
    if image_size is None:
        return
    if not isinstance(image_size, Sequence) or isinstance(image_size, str) or len(image_size) != 2:
        raise ValueError(f"image_size is {image_size!r}, expected (height, width)")
    for name, size in zip(("height", "width"), image_size, strict=True):
        checks.require_whole_number(f"the {name} in image_size", size, 1)


def resized(pixels: np.ndarray, image_size: ImageSize | None) -> np.ndarray:
    """An image [height, width, channels] of uint8 in another size, antialiased by Pillow's bilinear filter.

    :param image_size: None: the image as it is.
    """
    if image_size is None or tuple(image_size) == pixels.shape[:2]:
        return pixels
    from PIL import Image

    height, width = image_size
    # Channel by channel: Pillow has no pictures of just any number of channels.
    channels = [
        Image.fromarray(np.ascontiguousarray(channel)).resize((width, height), Image.Resampling.BILINEAR)
        for channel in np.moveaxis(pixels, -1, 0)
    ]
    return np.stack([np.asarray(channel) for channel in channels], -1)


def resized_rows(images: np.ndarray, space: spaces.Box, image_size: ImageSize | None) -> np.ndarray:
    """Images [T, …] in another size.

    :param space: of one image, channels first or last.
    """
    if image_size is None:
        return images
    axis = channel_axis(space)
    return np.stack([np.moveaxis(resized(np.moveaxis(image, axis, -1), image_size), -1, axis) for image in images])


def resized_space(space: spaces.Space[Any], image_size: ImageSize | None) -> spaces.Space[Any]:
    """The space with the images in it of another size.

    :raises ValueError: ``image_size`` is given, and there is no image of uint8.
    """
    if image_size is None:
        return space
    images = {key: part for key, part in image_parts(space).items() if part.dtype == np.uint8}
    if not images:
        raise ValueError(f"image_size is {image_size!r} for observations {space}, expected an image")
    made: dict[str | None, Any] = {}
    for key, part in images.items():
        first = channel_axis(part) == -3
        shape = (part.shape[0], *image_size) if first else (*image_size, part.shape[-1])
        made[key] = spaces.Box(0, 255, shape, np.uint8)
    changed = with_images(space.spaces if isinstance(space, spaces.Dict) else space, made)
    return spaces.Dict(changed) if isinstance(changed, dict) else changed
