"""Policies that see: what pictures become on their way to the networks, as one graph, and the same by Pillow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from dipole_runtime.pictures import EncoderSpec, PictureSpec
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.preprocessing import is_image_space_channels_first
from torch import Tensor, nn

from dipole_export.observed import Observation, Source, flat_order, flat_size, picture_order
from dipole_export.onnx_files import quantized_encoder, to_onnx
from dipole_sb3.datasets import image_sizes
from dipole_sb3.datasets.image_sizes import ImageSize
from dipole_sb3.networks.acting_forms import ActingForm

Bytes = NDArray[np.uint8]
LARGEST_PICTURE = 4096
"""Rows or columns."""


@dataclass(frozen=True)
class Seen:
    """Observations in the robot's units, as a bundle takes them.

    :param pictures: of each camera [rows, height, width, channels].
    :param flat: everything else [rows, size], float32.
    """

    pictures: tuple[Bytes, ...]
    flat: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.flat)

    def __getitem__(self, rows: slice) -> Seen:
        return Seen(tuple(picture[rows] for picture in self.pictures), self.flat[rows])


def trained_shape(space: spaces.Box) -> tuple[int, int, int]:
    """Height, width and channels of the pictures that a policy was trained on."""
    one, two, three = space.shape
    return (two, three, one) if is_image_space_channels_first(space) else (one, two, three)


def encoder_spec(
    space: spaces.Space[Any], picture: ImageSize | Mapping[str, ImageSize] | None, features: int
) -> EncoderSpec | None:
    """What the bundle's encoder takes; None: there are no pictures in the observation.

    :param space: of the model's observations.
    :param picture: what the cameras give, all of them or by key; None, or a key that is missing: as in training.
    :param features: number of features.
    :raises ValueError: a size that no camera has, or a key that the observation does not have.
    """
    order = picture_order(space)
    if isinstance(picture, Mapping):
        unknown = [key for key in picture if key not in order]
        if unknown:
            raise ValueError(f"picture has the key {unknown[0]!r}, expected some of {sorted(map(str, order))}")
        sizes: dict[str | None, ImageSize] = dict(picture.items())
    else:
        sizes = {} if picture is None else dict.fromkeys(order, picture)
    if picture is not None and not order:
        raise ValueError(f"picture is {picture}, expected none: the policy sees no pictures")
    specs = []
    for key, part in order.items():
        trained = trained_shape(part)
        height, width = sizes.get(key, trained[:2])
        if not all(
            isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= LARGEST_PICTURE
            for size in (height, width)
        ):
            raise ValueError(f"picture is {(height, width)}, expected height and width from 1 to {LARGEST_PICTURE}")
        specs.append(PictureSpec(key, height, width, trained[2]))
    return EncoderSpec(tuple(specs), features) if specs else None


def resized(pictures: Bytes, size: ImageSize) -> Bytes:
    """Pictures [rows, height, width, channels] in another size, as Pillow's BILINEAR makes them.

    It is antialiased: a pixel of a smaller picture is a weighted mean of all that it covers.
    """
    return np.stack([image_sizes.resized(picture, size) for picture in pictures])


def as_trained(pictures: Bytes, space: spaces.Box) -> Bytes:
    """Cameras' pictures as a policy's own observations: resized, with the channels where its space has them."""
    small = resized(pictures, trained_shape(space)[:2])
    return np.moveaxis(small, -1, 1) if is_image_space_channels_first(space) else small


class Resized(nn.Module):
    """:func:`resized` as products: bit for bit what Pillow makes, whatever the version of ONNX Runtime.

    ONNX has an antialiased Resize, but its rounding is another: pixels that differ by one level in 255 would be errors
    of the bundle, which guidance multiplies.

    :param camera: what the camera gives.
    :param trained: what the policy was trained on.
    """

    def __init__(self, camera: ImageSize, trained: ImageSize) -> None:
        super().__init__()
        self.is_same = camera == trained
        if not self.is_same:
            self.rows, self.columns = (_Axis(size, to) for size, to in zip(camera, trained, strict=True))

    def forward(self, picture: Tensor) -> Tensor:
        """uint8 [rows, height, width, channels] → whole numbers 0 … 255 as floats [rows, channels, height, width]."""
        x = picture.permute(0, 3, 1, 2)
        if self.is_same:
            return x.float()
        narrow = self.columns(x).transpose(2, 3)
        return self.rows(narrow).transpose(2, 3).float()  # type: ignore[no-any-return]


class _Axis(nn.Module):
    """The last axis resized: a product with a matrix whose elements are 0 but near its diagonal, in bands.

    :param size: of the axis.
    :param to: what it becomes.
    """

    def __init__(self, size: int, to: int) -> None:
        super().__init__()
        weights = pillow_weights(size, to)
        self.parts: list[slice] = []
        for row in range(0, to, _BAND):
            band = weights[row : row + _BAND]
            used = np.flatnonzero(band.any(axis=0))
            part = slice(int(used[0]), int(used[-1]) + 1)
            self.register_buffer(f"band{len(self.parts)}", torch.as_tensor(band[:, part].T.copy()))
            self.parts.append(part)

    def forward(self, x: Tensor) -> Tensor:
        """Whole numbers [..., size] → [..., to], likewise, in double precision."""
        # Sums of 30 bits are exact in double precision alone. Pillow rounds after each axis, a half up.
        bands = [x[..., part].double() @ self.get_buffer(f"band{number}") for number, part in enumerate(self.parts)]
        return torch.floor(torch.cat(bands, -1) + 0.5)


_BAND = 8
"""Pixels of the smaller picture to a product: with fewer there are more products, with more of them more zeros."""

_PILLOW_BITS = 22
"""Binary digits of Pillow's weights."""


def pillow_weights(size: int, to: int) -> NDArray[np.float64]:
    """[to, size]: the weights by which Pillow's BILINEAR resizes one axis of pictures of 8 bits.

    Source: ``precompute_coeffs`` and ``normalize_coeffs_8bpc`` in Pillow's Resample.c.
    """
    scale = size / to
    reach = max(scale, 1.0)
    weights = np.zeros((to, size))
    for row in range(to):
        center = (row + 0.5) * scale
        first, end = max(int(center - reach + 0.5), 0), min(int(center + reach + 0.5), size)
        near = 1.0 - np.abs((np.arange(first, end) - center + 0.5) * (1.0 / reach))
        near = np.maximum(near, 0.0)
        weights[row, first:end] = np.floor(near / near.sum() * 2**_PILLOW_BITS + 0.5) / 2**_PILLOW_BITS
    return weights


class Encoding(nn.Module):
    """Pictures and everything else that is observed → the features of the acting networks, one after another.

    :param source: of a policy that sees pictures.
    :param spec: what its encoder takes.
    """

    def __init__(self, source: Source[ActingForm], spec: EncoderSpec) -> None:
        super().__init__()
        self.observations = nn.ModuleList(Observation(network, source.statistics) for network in source.extractors())
        order = picture_order(source.form.actor.observation_space)
        self.spec, self.spaces = spec, order
        self.size = sum(map(flat_size, flat_order(source.form.actor.observation_space).values()))
        self.cameras = nn.ModuleList(
            Resized((one.height, one.width), trained_shape(order[one.key])[:2]) for one in spec.pictures
        )

    def forward(self, *seen: Tensor) -> Tensor:
        """Pictures, each uint8 [rows, height, width, channels], and the flat rest, if any → [rows, features]."""
        pictures: dict[str | None, Tensor] = {}
        for camera, picture, (key, space) in zip(self.cameras, seen, self.spaces.items(), strict=False):
            x = camera(picture)
            pictures[key] = x if is_image_space_channels_first(space) else x.permute(0, 2, 3, 1)
        flat = seen[-1] if self.size else None
        networks = cast("Iterable[Observation]", self.observations)
        return torch.cat([network.features(flat, pictures) for network in networks], dim=1)

    def features(self, seen: Seen) -> NDArray[np.float32]:
        """What the other graphs take for observations in the robot's units: [rows, features]."""
        with torch.no_grad():
            return self(*map(torch.as_tensor, self._inputs(seen).values())).numpy()  # type: ignore[no-any-return]

    def in_8_bits(self, graph: bytes, seen: Seen) -> bytes:
        """The same graph in 8 bits, fitted to observations."""
        arrays = self._inputs(seen)
        rows = (slice(row, row + 1) for row in range(len(seen)))
        return quantized_encoder(graph, [{name: array[row] for name, array in arrays.items()} for row in rows])

    def _inputs(self, seen: Seen) -> dict[str, np.ndarray]:
        """The graph's, by name."""
        arrays: dict[str, np.ndarray] = dict(zip(self.spec.input_names, seen.pictures, strict=True))
        return {**arrays, "observation": seen.flat} if self.size else arrays

    def to_onnx(self) -> bytes:
        """The graph encoder.onnx."""
        rows = 2
        inputs = {
            name: torch.zeros(rows, *picture.shape, dtype=torch.uint8)
            for name, picture in zip(self.spec.input_names, self.spec.pictures, strict=True)
        }
        if self.size:
            inputs["observation"] = torch.zeros(rows, self.size)
        return to_onnx(self, inputs, ["features"], dict.fromkeys(inputs, "rows"))
