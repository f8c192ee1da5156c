"""Pixels of camera messages: sensor_msgs/msg/Image, and sensor_msgs/msg/CompressedImage where Pillow is installed."""

from __future__ import annotations

from importlib.util import find_spec
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipole_policy.errors import Cause, ContractError, InputError, Kind, one_line, shown

CHANNELS = {"rgb8": 3, "bgr8": 3, "mono8": 1, "rgba8": 4, "bgra8": 4, "mono16": 1, "16UC1": 1}
"""Encoding → numbers of a pixel."""
DEEP = ("mono16", "16UC1")
"""Encodings with 16 bits a number."""
_DEPTH_HEADER = 12
"""Bytes before the PNG in what compressed_depth_image_transport publishes."""

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


def pixels(topic: str, image: Any) -> Pixels:
    """What an Image shows: a view of the message, whatever its encoding, padding and byte order.

    :param topic: for error messages.
    :return: [height, width, channels], RGB or one channel; uint16 for the encodings of 16 bits.
    :raises InputError: another encoding, or not as many bytes as the message says.
    """
    encoding = image.encoding
    channels = CHANNELS.get(encoding)
    if channels is None:
        raise _wrong(f"{topic} is encoded as {shown(encoding)}, expected {', '.join(CHANNELS)}")
    kind = np.dtype(np.uint8) if encoding not in DEEP else np.dtype(">u2" if image.is_bigendian else "<u2")
    height, width, step = int(image.height), int(image.width), int(image.step)
    row = width * channels * kind.itemsize
    data: Any = image.data
    count = len(data)
    if step < row or count != step * height:
        raise _wrong(
            f"{topic} has {count} bytes in rows of {step}, expected {height} rows of at least {row} bytes "
            f"({width} × {height}, {encoding})"
        )
    if not count or not row:
        raise _wrong(f"{topic} is {width} × {height} pixels, expected a picture")
    # Rows may be longer than their pixels.
    strides = (step, channels * kind.itemsize, kind.itemsize)
    found: Pixels = np.ndarray((height, width, channels), kind, data, strides=strides)
    if channels == 4:
        found = found[:, :, :3]
    return found[:, :, ::-1] if encoding.startswith("bgr") else found


def decoded(topic: str, message: Any) -> Pixels:
    """What a CompressedImage shows: JPEG or PNG, as image_transport's compressed and compressedDepth write them.

    Colours are those of the file, so it does not matter from which encoding it was made ("rgb8; jpeg compressed bgr8").

    :param topic: for error messages.
    :return: as :func:`pixels`.
    :raises InputError: it cannot be decoded, or holds another kind of pixels.
    """
    from PIL import Image

    encoding, _, transport = (part.strip() for part in str(message.format).partition(";"))
    data = memoryview(message.data)
    if transport.startswith("compressedDepth"):
        if encoding not in DEEP or transport.endswith("rvl"):
            raise _wrong(f"{topic} has the format {shown(message.format)}, expected 16UC1 or mono16 as png")
        data = data[_DEPTH_HEADER:]
    try:
        with Image.open(BytesIO(data), formats=("JPEG", "PNG")) as picture:
            mode = picture.mode
            found = np.asarray(picture)
    # Damaged bytes raise many kinds of exceptions, out of several decoders.
    except Exception as error:
        raise _wrong(f"{topic} cannot be decoded as JPEG or PNG ({one_line(error)})") from error
    # 16 bits are I;16 or, in Pillow before 10.3, I.
    if mode.startswith("I"):
        return found.astype(np.uint16, copy=False)[:, :, None]
    if mode not in ("RGB", "RGBA", "L"):
        raise _wrong(f"{topic} holds pixels of kind {shown(mode)}, expected RGB, RGBA, or grey of 8 or 16 bits")
    found = found[:, :, None] if found.ndim == 2 else found[:, :, :3]
    # Drivers that say so have not turned RGB into the BGR that their encoder takes.
    return found[:, :, ::-1] if "compressed rgb" in transport else found


def require_decoder(where: str) -> None:
    """Checks that compressed pictures can be decoded here.

    :raises ContractError: Pillow is not installed.
    """
    if find_spec("PIL") is None:
        raise ContractError(
            f"{where}: compressed pictures are decoded with Pillow, which is not installed; expected it "
            "(python3-pil of the distribution, or pip install pillow)"
        )


def _wrong(detail: str) -> InputError:
    return InputError(Cause(Kind.WRONG_SIZE, detail))
