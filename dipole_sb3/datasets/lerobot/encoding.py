"""Images as LeRobot keeps them: PNG files in the table of frames, or videos beside it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from dipole_sb3.datasets.lerobot import layout

VIDEO_BYTES = 200 * 2**20
"""After which an episode begins another file; LeRobot's own limit."""
_SECONDS = 1024
"""Of a file with several episodes: LeRobot compares times in float32, to within 0.1 ms, which fails in longer ones."""
MOST_FRAMES_A_SECOND = 240
"""The encoder's limit."""
LEAST_SIDE = 4
"""Likewise, in pixels; of smaller images nobody could tell which axis has the channels, either."""
_CODEC, _PIXELS = "libsvtav1", "yuv420p"
_OPTIONS = {"g": "2", "crf": "30", "preset": "12"}
"""LeRobot's own choice: AV1 in which every second frame is a key frame, so that any frame is near one."""


def png_column(images: np.ndarray, first: int) -> Any:
    """Images as a parquet column, losslessly.

    :param images: [rows, height, width, channels] of uint8, with 1 or 3 channels.
    :param first: the first one's place in its episode.
    """
    import pyarrow

    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    rows = [{"bytes": _png(image), "path": f"frame-{frame:06d}.png"} for frame, image in enumerate(images, start=first)]
    return pyarrow.array(rows, kind)


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    pixels = np.ascontiguousarray(image[..., 0] if image.shape[-1] == 1 else image)
    # LeRobot's own level of compression: higher ones take several times as long for little.
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


class Videos:
    """The videos of one camera, written frame by frame; a file holds whole episodes.

    :param folder: of the data set.
    :param key: the feature's name.
    :param shape: height, width and channels of the frames.
    :param fps: frames a second.
    """

    def __init__(self, folder: Path, key: str, shape: tuple[int, ...], fps: float) -> None:
        self._folder, self._key, self._shape = folder, key, shape
        # 29.97 is a binary fraction of 16 digits, which no encoder takes.
        self._rate = Fraction(fps).limit_denominator(10**6)
        self._container: Any = None
        self._stream: Any = None
        self._file, self._frames, self._bytes = 0, 0, 0
        self._places: list[tuple[int, float, float]] = []

    def begin(self, frames: int) -> None:
        """Goes on to the next episode.

        :param frames: that it has.
        """
        too_long = self._frames > 0 and self._frames + frames > _SECONDS * self._rate
        if self._container is not None and (too_long or self._bytes >= VIDEO_BYTES):
            self._finish_file()
            self._file, self._frames, self._bytes = self._file + 1, 0, 0
        if self._container is None:
            self._open()
        begin, end = (float(count / self._rate) for count in (self._frames, self._frames + frames))
        self._places.append((self._file, begin, end))

    def add(self, images: np.ndarray) -> None:
        """Encodes frames of the episode, [rows, height, width, 3] of uint8."""
        import av

        for image in images:
            self._mux(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24"))
        self._frames += len(images)

    def finish(self) -> dict[str, list[Any]]:
        """Ends the last file; what the table of episodes tells of each one."""
        self._finish_file()
        files, begins, ends = zip(*self._places, strict=True)
        chunks, numbers = zip(*(divmod(file, layout.FILES_IN_A_FOLDER) for file in files), strict=True)
        columns = {"chunk_index": chunks, "file_index": numbers, "from_timestamp": begins, "to_timestamp": ends}
        return {f"videos/{self._key}/{name}": list(values) for name, values in columns.items()}

    def abandon(self) -> None:
        """Closes a file that is not finished, if there is one."""
        if self._container is not None:
            # What went wrong has been raised before.
            with suppress(Exception):
                self._finish_file()
            with suppress(Exception):
                self._container.close()

    def description(self) -> dict[str, Any]:
        """What ``meta/info.json`` tells of the feature."""
        height, width, channels = self._shape
        told = {
            "video.height": height,
            "video.width": width,
            "video.channels": channels,
            "video.codec": "av1",
            "video.pix_fmt": _PIXELS,
            "video.is_depth_map": False,
            "video.fps": int(self._rate) if self._rate.denominator == 1 else float(self._rate),
            "has_audio": False,
        }
        return {"dtype": "video", "shape": list(self._shape), "names": layout.IMAGE_AXES, "info": told}

    def _open(self) -> None:
        import av

        # Otherwise the encoder prints thirty lines for every file.
        os.environ.setdefault("SVT_LOG", "1")
        chunk, number = divmod(self._file, layout.FILES_IN_A_FOLDER)
        file = self._folder / layout.VIDEO.format(video_key=self._key, chunk_index=chunk, file_index=number)
        file.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(file), "w")
        self._stream = self._container.add_stream(_CODEC, rate=self._rate, options=_OPTIONS)
        self._stream.height, self._stream.width = self._shape[:2]
        self._stream.pix_fmt = _PIXELS
        with _ordinary_priorities():
            self._stream.codec_context.open()

    def _mux(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            self._bytes += packet.size
            self._container.mux(packet)

    def _finish_file(self) -> None:
        self._mux(None)
        self._container.close()
        self._container = None


@contextmanager
def _ordinary_priorities() -> Iterator[None]:
    """Takes back the real-time priority that the encoder gives itself where it may, and its caller: to root.

    It would keep every other process of the machine from a core, and the caller, with all threads that it starts later,
    would keep it for ever.
    """
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != before[0]:
            os.sched_setscheduler(0, *before)
            for thread in Path("/proc/self/task").iterdir():
                with suppress(OSError):  # it may have ended
                    if os.sched_getscheduler(int(thread.name)) == os.SCHED_FIFO:
                        os.sched_setscheduler(int(thread.name), os.SCHED_OTHER, os.sched_param(0))
