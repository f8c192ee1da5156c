"""What LeRobot normalises by: range, mean and standard deviation of every feature, of each episode and of all."""

from __future__ import annotations

from typing import Any

import numpy as np


class OfNumbers:
    """Of every element."""

    def __init__(self) -> None:
        self._count, self._sum, self._squares = 0, np.float64(0), np.float64(0)
        self._low, self._high = np.float64(np.inf), np.float64(-np.inf)

    def update(self, values: np.ndarray) -> None:
        """Takes values in, [rows, *shape]."""
        exact: Any = values.astype(np.float64)
        self._count += len(exact)
        self._sum, self._squares = self._sum + exact.sum(axis=0), self._squares + np.square(exact).sum(axis=0)
        self._low, self._high = np.minimum(self._low, exact.min(axis=0)), np.maximum(self._high, exact.max(axis=0))

    def add(self, other: OfNumbers) -> None:
        """Takes in what another has gathered."""
        self._count += other._count
        self._sum, self._squares = self._sum + other._sum, self._squares + other._squares
        self._low, self._high = np.minimum(self._low, other._low), np.maximum(self._high, other._high)

    def told(self) -> dict[str, np.ndarray]:
        """``min``, ``max``, ``mean``, ``std`` and ``count``, as arrays of the feature's shape."""
        return _told(self._count, self._low, self._high, self._sum / self._count, self._squares / self._count)


class OfImages:
    """Of every channel of images [rows, height, width, channels] of uint8, over all of their pixels."""

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._pixels = np.zeros((channels, 256), np.int64)
        """How many have each value."""

    def update(self, values: np.ndarray) -> None:
        """Takes images in."""
        self._count += len(values)
        for image in values:
            for pixels, channel in zip(self._pixels, np.moveaxis(image, -1, 0), strict=True):
                pixels += np.bincount(channel.reshape(-1), minlength=256)

    def add(self, other: OfImages) -> None:
        """Takes in what another has gathered."""
        self._count += other._count
        self._pixels += other._pixels

    def told(self) -> dict[str, np.ndarray]:
        """The same as arrays of shape (channels, 1, 1), from 0 to 1; ``count`` is of images."""
        values = np.arange(256) / 255
        shares = self._pixels / self._pixels.sum(axis=1, keepdims=True)
        found = np.array(
            [
                [values[counts > 0].min(), values[counts > 0].max(), share @ values, share @ values**2]
                for counts, share in zip(self._pixels, shares, strict=True)
            ]
        )
        return _told(self._count, *found.T.reshape(4, -1, 1, 1))


def _told(count: int, low: Any, high: Any, mean: Any, squares: Any) -> dict[str, np.ndarray]:
    deviation = np.sqrt(np.maximum(squares - mean**2, 0))
    found = {"min": low, "max": high, "mean": mean, "std": deviation, "count": [count]}
    return {key: np.asarray(value) for key, value in found.items()}
