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
def seeded_torch(seed: int) -> Iterator[None]:
    """torch's global generators start from a seed inside the block and go on as before after it."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


class TorchSequence:
    """A sequence of random numbers of its own, for code that draws from torch's global generators.

    :param seed: where it starts; then it is what ``torch.manual_seed(seed)`` gives.
    :param device: whose generator is meant, beside that of the CPU.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._globals = [torch.default_generator]
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            self._globals.append(torch.cuda.default_generators[index])
        self._states = [torch.Generator(each.device).manual_seed(seed).get_state() for each in self._globals]

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Inside the block the global generators go on where the last such block ended; after it, as before it."""
        outer = [each.get_state() for each in self._globals]
        self._set(self._states)
        try:
            yield
        finally:
            self._states = [each.get_state() for each in self._globals]
            self._set(outer)

    def _set(self, states: list[torch.Tensor]) -> None:
        for generator, state in zip(self._globals, states, strict=True):
            generator.set_state(state)


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


def generator_state(generator: torch.Generator) -> tuple[str, bytes]:
    """Kind of device and state of a generator, for a file."""
    return generator.device.type, generator.get_state().numpy().tobytes()


def restore_generator(generator: torch.Generator, saved: tuple[str, bytes]) -> None:
    """Goes on from what :func:`generator_state` gave; on another kind of device a new sequence starts."""
    device_type, state = saved
    if device_type == generator.device.type:
        generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
