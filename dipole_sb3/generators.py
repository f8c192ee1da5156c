"""The global random generators that exploration, SB3 and environments draw from, as state of a run."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def global_generators() -> dict[str, Any]:
    """States of Python's, NumPy's and torch's global generators, as numbers and arrays."""
    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state().numpy(),
        "cuda": [state.numpy() for state in on_devices],
    }


@contextmanager
def globally_seeded(seed: int) -> Iterator[None]:
    """Python's and NumPy's global generators start from a seed inside the block and go on as before after it."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def restore_global_generators(states: Mapping[str, Any]) -> None:
    """Goes on from what :func:`global_generators` gave; on a machine with other GPUs their sequences start anew."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(states["numpy"])
    torch.set_rng_state(torch.from_numpy(states["torch"]))
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([torch.from_numpy(state) for state in states["cuda"]])
