"""Pictures of cameras, from messages of type sensor_msgs/msg/Image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipole_policy.errors import Cause, InputError, Kind, shown
from dipole_policy.topic_reader import Received, TopicReader

CHANNELS = {"rgb8": 3, "bgr8": 3, "mono8": 1}
"""Encoding → bytes of a pixel."""


class ImageReader(TopicReader):
    """The picture of one camera."""

    size = 0

    def read_received(self, received: Received) -> NDArray[np.uint8]:
        """RGB, [height, width, 3]; a view of the message where that is possible.

        :raises InputError: another encoding, or not as many bytes as the message says.
        """
        return picture(self.entry.topic, received.message)

    def wrong_size(self, found: tuple[int, ...], expected: tuple[int, ...]) -> InputError:
        """For a picture that is not as large as the bundle's."""
        (height, width, _), (rows, columns, _) = found, expected
        detail = f"{self.entry.topic} is {width} × {height} pixels, expected the bundle's {columns} × {rows}"
        return InputError(Cause(Kind.WRONG_SIZE, detail))


def picture(topic: str, image: Any) -> NDArray[np.uint8]:
    """RGB, [height, width, 3], of a message; see :class:`ImageReader`."""
    channels = CHANNELS.get(image.encoding)
    if channels is None:
        known = ", ".join(CHANNELS)
        raise InputError(Cause(Kind.WRONG_SIZE, f"{topic} is encoded as {shown(image.encoding)}, expected {known}"))
    height, width, step = int(image.height), int(image.width), int(image.step)
    data = np.frombuffer(image.data, np.uint8)
    if step < width * channels or len(data) != step * height:
        raise InputError(
            Cause(
                Kind.WRONG_SIZE,
                f"{topic} has {len(data)} bytes in rows of {step}, expected {height} rows of at least "
                f"{width * channels} bytes ({width} × {height}, {image.encoding})",
            )
        )
    # Rows may be longer than their pixels.
    pixels = data.reshape(height, step)[:, : width * channels].reshape(height, width, channels)
    if image.encoding == "bgr8":
        return pixels[:, :, ::-1]
    return pixels if channels == 3 else np.repeat(pixels, 3, axis=2)
