"""Pixels of camera messages, against references in NumPy and Pillow's files."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cars import image
from dipole_policy.errors import InputError, Kind
from dipole_policy.images import decoded, pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from pictured import compressed_image, deep_image

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: see the extra 'ros'")
COLOURS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
SMOOTH = np.stack(np.broadcast_arrays(*np.ogrid[0:160:16j, 0:240:24j], 60), axis=2).astype(np.uint8)
"""What JPEG hardly changes; red grows downwards, green to the right."""


def refusal(call: Any, *arguments: Any) -> str:
    with pytest.raises(InputError) as raised:
        call(*arguments)
    assert raised.value.cause.kind is Kind.WRONG_SIZE
    return raised.value.cause.detail


class TestRaw:
    @settings(max_examples=200, deadline=None)
    @given(
        encoding=st.sampled_from(["rgb8", "bgr8", "rgba8", "bgra8", "mono8", "mono16", "16UC1"]),
        height=st.integers(1, 5),
        width=st.integers(1, 5),
        padding=st.integers(0, 5),
        big=st.booleans(),
        seed=st.integers(0, 9),
        container=st.sampled_from([bytes, bytearray, lambda data: np.frombuffer(data, np.uint8)]),
    )
    def test_every_pixel_is_found(
        self, encoding: str, height: int, width: int, padding: int, big: bool, seed: int, container: Any
    ) -> None:
        """Bytes are put into place one by one; rclpy's arrays, bytes and rosbags' arrays read alike."""
        random = np.random.default_rng(seed)
        if encoding in ("mono16", "16UC1"):
            values = random.integers(0, 65536, (height, width), np.uint16)
            message = deep_image(values, encoding, padding, big)
            expected: Any = values[:, :, None]
        else:
            count = {"mono8": 1}.get(encoding, 4 if "a" in encoding else 3)
            values = random.integers(0, 256, (height, width, count), np.uint8)
            message = image(values, encoding, padding)
            order = [2, 1, 0] if encoding.startswith("bgr") else list(range(min(count, 3)))
            expected = np.array([[[values[y, x, at] for at in order] for x in range(width)] for y in range(height)])
        found = pixels("/c", SimpleNamespace(**{**vars(message), "data": container(message.data)}))
        assert found.shape == expected.shape
        assert np.array_equal(found, expected)

    @pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8", "16UC1"])
    def test_nothing_is_copied(self, encoding: str) -> None:
        message = image(np.zeros((4, 6)), encoding, 2)
        message.width = 2 if encoding != "mono8" else 6
        message.width = 3 if encoding == "16UC1" else message.width
        message.data = np.frombuffer(message.data, np.uint8)
        assert np.shares_memory(pixels("/c", message), message.data)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            (
                {"encoding": "32FC1"},
                "/c is encoded as '32FC1', expected rgb8, bgr8, mono8, rgba8, bgra8, mono16, 16UC1",
            ),
            ({"encoding": "16UC1", "step": 12}, "/c has 144 bytes in rows of 12, expected 6 rows of at least 16 bytes"),
            ({"data": b"", "height": 0}, "/c is 8 × 0 pixels, expected a picture"),
            ({"data": b"", "width": 0, "height": 0, "step": 0}, "/c is 0 × 0 pixels, expected a picture"),
        ],
        ids=str,
    )
    def test_what_is_no_picture(self, changes: dict[str, Any], words: str) -> None:
        assert words in refusal(pixels, "/c", SimpleNamespace(**{**vars(image(COLOURS)), **changes}))


def file_of(values: Any, kind: str, **more: Any) -> bytes:
    target = io.BytesIO()
    Image.fromarray(values).save(target, kind, **more)
    return target.getvalue()


class TestCompressed:
    @pytest.mark.parametrize("format_", ["png", "rgb8; png compressed bgr8", "bgr8; png compressed bgr8", "PNG", ""])
    def test_colours_are_those_of_the_file(self, format_: str) -> None:
        """image_transport turns RGB into the BGR that OpenCV writes files of: whatever it was, the file is right."""
        assert np.array_equal(decoded("/c", compressed_image(file_of(COLOURS, "PNG"), format_)), COLOURS)

    @pytest.mark.parametrize("format_", ["jpeg", "rgb8; jpeg compressed bgr8", "bgr8; jpeg compressed bgr8"])
    def test_jpeg(self, format_: str) -> None:
        found = decoded("/c", compressed_image(file_of(SMOOTH, "JPEG", quality=95, subsampling=0), format_))
        assert np.abs(found.astype(int) - SMOOTH).max() <= 8

    def test_a_driver_that_encodes_rgb_as_if_it_were_bgr(self) -> None:
        message = compressed_image(file_of(COLOURS, "PNG"), "rgb8; png compressed rgb8")
        assert np.array_equal(decoded("/c", message), COLOURS[:, :, ::-1])

    def test_grey_alpha_and_sixteen_bits(self) -> None:
        grey = file_of(COLOURS[:, :, 0], "PNG")
        assert np.array_equal(decoded("/c", compressed_image(grey, "mono8; png compressed ")), COLOURS[:, :, :1])
        alpha = file_of(np.concatenate([COLOURS, COLOURS[:, :, :1]], axis=2), "PNG")
        assert np.array_equal(decoded("/c", compressed_image(alpha, "rgba8; png compressed bgra8")), COLOURS)
        deep = np.random.default_rng(1).integers(0, 65536, (6, 8), np.uint16)
        png = file_of(deep, "PNG")
        for data, format_ in (
            (png, "16UC1; png compressed "),
            (bytes(12) + png, "16UC1; compressedDepth png"),
            (bytes(12) + png, "16UC1; compressedDepth"),
        ):
            found = decoded("/c", compressed_image(data, format_))
            assert (found.dtype.itemsize, found.shape) == (2, (6, 8, 1))
            assert np.array_equal(found[:, :, 0], deep)

    @pytest.mark.parametrize(
        ("data", "format_", "words"),
        [
            (b"", "jpeg", "/c cannot be decoded as JPEG or PNG ("),
            (b"\xff\xd8\xff" + bytes(40), "jpeg", "/c cannot be decoded as JPEG or PNG ("),
            (file_of(COLOURS, "PNG")[:-40], "png", "/c cannot be decoded as JPEG or PNG ("),
            (file_of(SMOOTH, "JPEG")[:-60], "jpeg", "/c cannot be decoded as JPEG or PNG ("),
            (file_of(SMOOTH, "GIF"), "gif", "/c cannot be decoded as JPEG or PNG ("),
            (bytes(30), "32FC1; compressedDepth png", "expected 16UC1 or mono16 as png"),
            (bytes(30), "16UC1; compressedDepth rvl", "expected 16UC1 or mono16 as png"),
        ],
    )
    def test_what_cannot_be_decoded(self, data: bytes, format_: str, words: str) -> None:
        assert words in refusal(decoded, "/c", compressed_image(data, format_))

    def test_a_palette_is_no_camera(self) -> None:
        target = io.BytesIO()
        Image.fromarray(COLOURS).convert("P").save(target, "PNG")
        assert "holds pixels of kind 'P'" in refusal(decoded, "/c", compressed_image(target.getvalue(), "png"))
