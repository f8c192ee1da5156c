"""Reads cameras: pixels → the region that counts → 8 bits → the last frames; and knows a camera that sees nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipole_policy.camera_options import CameraOptions
from dipole_policy.contract import ObservationEntry
from dipole_policy.driven_types import COMPRESSED_IMAGE
from dipole_policy.errors import Cause, InputError, Kind
from dipole_policy.fields import Describe
from dipole_policy.images import Pixels, decoded, pixels, require_decoder
from dipole_policy.topic_reader import Received, TopicReader

Frame = NDArray[np.uint8]
"""[height, width, channels]; RGB or one channel."""


class CameraReader(TopicReader):
    """The picture of one camera.

    :param period_ns: the control period, in which the frames of a stack follow each other.
    :raises ContractError: the camera is compressed and Pillow is not installed.
    """

    size = 0

    def __init__(self, entry: ObservationEntry, where: str, describe: Describe, period_ns: int) -> None:
        super().__init__(entry, where, describe)
        self._decode: Callable[[str, Any], Pixels] = pixels
        if entry.type == COMPRESSED_IMAGE:
            require_decoder(where)
            self._decode = decoded
        self.options: CameraOptions = entry.camera or CameraOptions()
        self.resize: Callable[[Frame], Frame] | None = None
        """What is done to every frame before it is stacked; a robot's bundle does it inside."""
        self._bytes = None if self.options.range is None else _bytes_of(*self.options.range)
        self._period_ns = period_ns
        self._last: tuple[Any, Pixels, Frame] | None = None
        self._alive_ns = 0
        self._is_blank = False
        self._since_ns = 0
        self._frames: list[Frame] = []
        self._stacked_ns = 0

    def forget(self, now_ns: int) -> None:
        # The clock may have gone back: what was seen in its future would hide a dead camera until then.
        self._since_ns = self._alive_ns = now_ns

    def fresh(self, inputs: Mapping[str, Received], now_ns: int) -> Frame:
        """The picture of now, one frame: a view of the message where no bits are changed.

        :raises InputError: as for every input; or it cannot be decoded, has another size than its crop needs or other
            bits than the contract says, has not changed for too long, or shows one colour only.
        """
        frame: Frame = super().fresh(inputs, now_ns)
        limit_s = self.options.frozen_after_s
        if limit_s is not None:
            still_s = (inputs[self.entry.topic].received_ns - self._alive_ns) * 1e-9
            if still_s > limit_s:
                what = "is of one colour" if self._is_blank else "shows the same picture"
                raise InputError(
                    Cause(
                        Kind.BLIND,
                        f"{self.entry.topic} {what} for {still_s:.3f} s, expected a change within {limit_s} s "
                        "(frozen_after_s)",
                    )
                )
        return frame

    def read_received(self, received: Received) -> Frame:
        """As :meth:`fresh`, without the look at the time. A message that came before is not decoded again."""
        message = received.message
        if self._last is None or self._last[0] is not message:
            found = self._cropped(self._decode(self.entry.topic, message))
            if self.options.frozen_after_s is not None:
                self._look_at(found, received.received_ns)
            self._last = (message, found, self._as_bytes(found))
        return self._last[2]

    def stacked(self, frame: Frame, now_ns: int) -> Frame:
        """The last frames with this one as the newest: [height, width, channels · stack], oldest first, C-contiguous.

        Frames belong together if each followed the one before it after a control period, give or take half a period.
        Otherwise, and after :meth:`forget`, the stack begins anew: this frame, repeated.

        Without a stack, it is the frame itself where its rows have no gaps; else a copy.
        """
        if self.resize is not None:
            frame = self.resize(frame)
        count = self.options.stack
        if count == 1:
            return np.ascontiguousarray(frame)
        is_next = (
            bool(self._frames)
            and self._stacked_ns >= self._since_ns
            and abs(now_ns - self._stacked_ns - self._period_ns) <= self._period_ns // 2
            and self._frames[0].shape == frame.shape
        )
        self._frames = [*self._frames[1:], frame] if is_next else [frame] * count
        self._stacked_ns = now_ns
        # Channel by channel: nine times as fast as np.concatenate along so short an axis.
        channels = frame.shape[2]
        found = np.empty((*frame.shape[:2], channels * count), np.uint8)
        for index in range(channels * count):
            found[:, :, index] = self._frames[index // channels][:, :, index % channels]
        return found

    def wrong_size(self, found: tuple[int, ...], expected: tuple[int, ...]) -> InputError:
        """For a picture that is not as large as the bundle's; shapes [height, width, channels]."""
        (height, width, _), (rows, columns, _) = found, expected
        detail = f"{self.entry.topic} is {width} × {height} pixels, expected the bundle's {columns} × {rows}"
        return InputError(Cause(Kind.WRONG_SIZE, detail))

    def _cropped(self, found: Pixels) -> Pixels:
        crop = self.options.crop
        if crop is None:
            return found
        height, width, _ = found.shape
        if crop.left + crop.width > width or crop.top + crop.height > height:
            raise InputError(
                Cause(
                    Kind.WRONG_SIZE,
                    f"{self.entry.topic} is {width} × {height} pixels, expected at least {crop.left + crop.width} × "
                    f"{crop.top + crop.height} for its crop",
                )
            )
        return found[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]

    def _as_bytes(self, found: Pixels) -> Frame:
        topic = self.entry.topic
        if found.dtype.itemsize == 1:
            if self._bytes is not None:
                raise InputError(
                    Cause(Kind.WRONG_SIZE, f"{topic} has 8 bits a pixel, expected 16: the contract gives a range")
                )
            return found  # type: ignore[return-value]
        if self._bytes is None:
            raise InputError(
                Cause(
                    Kind.WRONG_SIZE,
                    f"{topic} is encoded as 16 bits a pixel, expected 8 bits, or range: [low, high] in the contract",
                )
            )
        return self._bytes[found[:, :, 0]][:, :, None]

    def _look_at(self, found: Pixels, received_ns: int) -> None:
        """Compares before bits are thrown away: sensors are never still, but eight bits of their depth may be."""
        before = None if self._last is None else self._last[1]
        self._is_blank = bool((found[0] == found[0, 0]).all() and (found == found[0, 0]).all())
        if before is None or not (self._is_blank or np.array_equal(found, before)):
            self._alive_ns = received_ns


def _bytes_of(low: int, high: int) -> Frame:
    """[65536]: the byte of every value. 0 stays 0: no measurement."""
    values = np.clip(np.arange(65536), low, high)
    found = 1 + np.rint(254.0 * (values - low) / (high - low))
    found[0] = 0
    return found.astype(np.uint8)
