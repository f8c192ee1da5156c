"""What identifies recorded data, wherever they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from dipole_sb3.buffers import image_layout
from dipole_sb3.common import checks


class TransitionDigest:
    """The checksum of transitions that come in blocks; how they are divided into blocks makes no difference.

    :param observation_space: of the observations in the blocks.
    """

    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        self._space = image_layout.channels_first(observation_space)
        self._hashes: dict[str, Any] = {}

    def update(self, block: Mapping[str, Any]) -> None:
        """Takes one block, as :meth:`~dipole_sb3.OfflineReplayBuffer.blocks` gives it."""
        for key, value in block.items():
            if key.endswith("observations"):
                value = image_layout.transposed(value, self._space, 1)
            for name, array in checks.named_arrays(key, value):
                # Names, types and shapes keep arrays apart whose bytes are the same.
                label = f"{name} {array.dtype.str} {array.shape[1:]}"
                self._hashes.setdefault(label, hashlib.sha256()).update(np.ascontiguousarray(array))

    def hexdigest(self) -> str:
        """SHA-256 of everything so far."""
        parts = [f"{label} {part.hexdigest()}" for label, part in sorted(self._hashes.items())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
