"""The recorded data that ship inside the package."""

from __future__ import annotations

from importlib import resources

import torch

from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.datasets import files

NAMES = ("reacher-scripted-30k", "reacher-tqc-10k")
"""Of the data sets: the demo's, of a scripted arm; and that of an agent while it learned."""


def load(name: str, *, device: torch.device | str = "auto") -> OfflineReplayBuffer:
    """One of them.

    :param name: one of :data:`NAMES`.
    :param device: where batches will be drawn.
    """
    with resources.as_file(resources.files("dipole_sb3") / "data") as folder:
        buffer = files.load(folder / f"{name}.npz", device=device)
    buffer.source = f"demo/{name}"
    return buffer
