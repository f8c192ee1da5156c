"""LeRobot's images and videos, decoded one frame after another, each once."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets.image_sizes import ImageSize, resized
from dipole_sb3.datasets.lerobot import layout
from dipole_sb3.datasets.lerobot.layout import Feature

TOLERANCE = 1e-4
"""Seconds by which a frame of a video may be beside the time that the table of frames tells; LeRobot's own."""

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""What Pillow calls an image, by its channels."""


def space_of(where: str, feature: Feature, image_size: ImageSize | None) -> spaces.Box:
    """Of the frames, [height, width, channels] in uint8.

    :raises DatasetError: the feature's shape is not that of an image.
    """
    height, width, channels = _shape(where, feature)
    return spaces.Box(0, 255, (*(image_size or (height, width)), channels), np.uint8)


def _shape(where: str, feature: Feature) -> tuple[int, int, int]:
    """Height, width and channels; sets name them in this order or with the channels first."""
    known = _MODES if feature.dtype == "image" else (3,)
    if len(feature.shape) == 3:
        first, middle, last = feature.shape
        if last in known:
            return first, middle, last
        if first in known:
            return middle, last, first
    raise DatasetError(
        f"{where} has shape {list(feature.shape)}, expected height, width and {' or '.join(map(str, known))} channels"
    )


def images(path: Path, key: str, feature: Feature, image_size: ImageSize | None) -> Iterator[np.ndarray]:
    """The frames of an image feature, all episodes one after another: encoded files inside of the table of frames.

    :param path: the data set's folder.
    :raises DatasetError: an image that is missing, damaged, or of another shape.
    """
    from PIL import Image

    height, width, channels = _shape(f"{path}: {key}", feature)
    row = 0
    for file in layout.data_files(path):
        for encoded in layout.read_encoded(file, key):
            where = f"{file}: {key} of row {row}"
            row += 1
            if encoded is None:
                raise DatasetError(f"{where} is empty, expected an image file's bytes")
            try:
                with Image.open(io.BytesIO(encoded)) as image:
                    image.load()
                    found = (image.height, image.width, image.mode)
                    pixels = np.asarray(image)
            # Pillow raises errors of many kinds for damaged bytes.
            except Exception as error:
                raise DatasetError(f"{where} cannot be decoded ({' '.join(str(error).split())})") from error
            if found != (height, width, _MODES[channels]):
                raise DatasetError(
                    f"{where} is a picture of {found[0]}×{found[1]} in {found[2]}, expected {height}×{width} in "
                    f"{_MODES[channels]}, as {layout.INFO} tells"
                )
            yield resized(pixels.reshape(height, width, channels), image_size)


def videos(
    path: Path, key: str, feature: Feature, image_size: ImageSize | None, episodes: Sequence[tuple[Path, np.ndarray]]
) -> Iterator[np.ndarray]:
    """The frames of a video feature, all episodes one after another.

    A frame is the one that the video shows at its time, within :data:`TOLERANCE`; a file is decoded from its beginning,
    once for all episodes in it.

    :param path: the data set's folder.
    :param episodes: of each its file, and the times of its frames in it, in seconds, ascending.
    :raises DatasetError: a file that is missing or damaged, frames of another size, or no frame at a time.
    :raises ImportError: PyAV is not installed.
    """
    height, width, _ = _shape(f"{path}: {key}", feature)
    for file, times in _passes(episodes):
        for frame in _shown(file, times):
            if (frame.height, frame.width) != (height, width):
                raise DatasetError(
                    f"{file}: shows {frame.height}×{frame.width}, expected {height}×{width}, as {layout.INFO} tells"
                )
            yield resized(frame.to_ndarray(format="rgb24"), image_size)


def _passes(episodes: Sequence[tuple[Path, np.ndarray]]) -> Iterator[tuple[Path, np.ndarray]]:
    """Episodes that follow each other in a file are decoded in one go."""
    begins = [0]
    for number, ((file, times), (following, then)) in enumerate(pairwise(episodes), start=1):
        if file != following or then[0] <= times[-1]:
            begins.append(number)
    for begin, end in pairwise([*begins, len(episodes)]):
        yield episodes[begin][0], np.concatenate([times for _, times in episodes[begin:end]])


def _shown(file: Path, times: np.ndarray) -> Iterator[Any]:
    """What a video shows at ascending times, as PyAV's frames."""
    import av

    if not file.is_file():
        raise DatasetError(
            f"{file}: no such file; expected a video (of a data set that is named by its URL videos are not fetched: "
            "download the set, and name its folder)"
        )
    try:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            decoded, frame, seen = container.decode(stream), None, "nothing"
            # Where float32, as which sets keep times, tells less than the tolerance: after half an hour.
            tolerances = np.maximum(TOLERANCE, np.spacing(times.astype(np.float32)))
            for time, tolerance in zip(times, tolerances, strict=True):
                while frame is None or frame.time < time - tolerance:
                    frame = next(decoded, None)
                    if frame is None:
                        raise DatasetError(f"{file}: ends after {seen}, expected a frame at {time:.6f} s")
                    if frame.time is None:
                        raise DatasetError(f"{file}: has a frame without a time, expected one at {time:.6f} s")
                    seen = f"{frame.time:.6f} s"
                if frame.time > time + tolerance:
                    raise DatasetError(
                        f"{file}: shows no frame at {time:.6f} s, the next one is at {seen}; expected one within "
                        f"{tolerance:g} s"
                    )
                yield frame
    except (av.error.FFmpegError, IndexError) as error:  # IndexError: it has no video
        raise DatasetError(f"{file}: cannot be decoded ({' '.join(str(error).split())})") from error


class Window:
    """Frames that come one after another, of which the last ones are kept as long as they are needed.

    :param frames: all of them.
    """

    def __init__(self, frames: Iterator[np.ndarray]) -> None:
        self._frames, self._kept, self._first = frames, [], 0  # type: ignore[var-annotated]

    def between(self, first: int, stop: int) -> np.ndarray:
        """Frames [stop − first, …]; ``first`` never goes back."""
        while self._first + len(self._kept) < stop:
            self._kept.append(next(self._frames))
            if self._first < first:
                self._forget(first)
        self._forget(first)
        return np.stack(self._kept[: stop - first])

    def _forget(self, first: int) -> None:
        gone = min(first - self._first, len(self._kept))
        del self._kept[:gone]
        self._first += gone
