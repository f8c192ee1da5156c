"""How much work an update is: floating-point operations, operator calls or kernels, memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

DEPTH = 3


def update_operations(
    observation: int,
    action: int,
    width: int,
    batch: int,
    flow_steps: int,
    critic_target: str = "policy",
    time_features: int = 1,
) -> int:
    """Floating-point operations (two per multiply-add) of the matrix products that one update needs.

    With m = Σ in·out over a perceptron's layers and 2·batch·m operations a pass:
      critic_target="policy": K passes of v⁺ (the sampler), in which the observation's columns of the first layer are
        needed once and not K times; 2 critics at s' and 2 at s.
      critic_target="value": V at s'; 2 critics at s.
      training v⁺, v⁻, Q₁, Q₂, V: 3 passes each (forward, gradient of the input, gradient of the weights), less the
        gradient of the first layer's input, which nobody needs.
    """

    def products(inputs: int, outputs: int) -> tuple[int, int]:
        widths = [inputs, *[width] * DEPTH, outputs]
        layers = [a * b for a, b in pairwise(widths)]
        return sum(layers), layers[0]

    velocity, velocity_first = products(observation + action + time_features, action)
    critic, critic_first = products(observation + action, 1)
    value, value_first = products(observation, 1)
    if critic_target == "policy":
        forward_only = flow_steps * velocity - (flow_steps - 1) * observation * width + 4 * critic
    else:
        forward_only = value + 2 * critic
    trained = 3 * (2 * velocity + 2 * critic + value) - (2 * velocity_first + 2 * critic_first + value_first)
    return 2 * batch * (forward_only + trained)


def launches(update: Callable[[], object], device: torch.device) -> int:
    """What the host has to start one by one in an update: kernels and copies on CUDA, else operators.

    Of operators only those that are not called by another one.
    """
    update()
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds, acc_events=True) as profiler:
        update()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    events: Any = profiler.events()
    if device.type == "cuda":
        return sum(event.device_type.name != "CPU" and not event.is_user_annotation for event in events)
    count = 0
    for event in events:
        caller = event.cpu_parent
        while caller is not None and not caller.name.startswith("aten::"):
            caller = caller.cpu_parent
        count += event.name.startswith("aten::") and caller is None
    return count


def smallest_launch(device: torch.device) -> Callable[[], object]:
    """An operator on one element, as a call to be timed."""
    element = torch.zeros(1, device=device)
    return lambda: element.add_(1.0)


class PeakMemory:
    """The most memory that a block takes beyond what was in use before, in MiB: on CUDA torch's, else resident.

    ``added`` is None where the system does not tell (without Linux's /proc).
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.added: float | None = None

    def __enter__(self) -> PeakMemory:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            with suppress(OSError):
                # Linux: the highest resident size is counted anew from here on.
                Path("/proc/self/clear_refs").write_text("5")
        self._before = self._mebibytes(at_most=False)
        return self

    def __exit__(self, *_: object) -> None:
        after = self._mebibytes(at_most=True)
        if self._before is not None and after is not None:
            self.added = after - self._before

    def _mebibytes(self, at_most: bool) -> float | None:
        if self._device.type == "cuda":
            kind = torch.cuda.max_memory_allocated if at_most else torch.cuda.memory_allocated
            return kind(self._device) / 2**20
        status = Path("/proc/self/status")
        if not status.exists():
            return None
        name = "VmHWM" if at_most else "VmRSS"
        line = next(line for line in status.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) / 1024
