"""How much work an update is: floating-point operations, operator calls or kernels, memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def counted_operations(update: Callable[[], object]) -> int:
    """Floating-point operations (two per multiply-add) of the matrix products in one eager update."""
    with FlopCounterMode(display=False) as counter:
        update()
    return int(counter.get_total_flops())


def kernels(update: Callable[[], object], device: torch.device) -> tuple[int, float]:
    """How many kernels and copies a call runs on a CUDA device, and the seconds that they take; 0 on a CPU."""
    if device.type != "cuda":
        return 0, 0.0
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True) as profiler:
        update()
        torch.cuda.synchronize(device)
    events: Any = profiler.events()
    found = [event for event in events if event.device_type.name != "CPU" and not event.is_user_annotation]
    return len(found), sum(event.time_range.elapsed_us() for event in found) / 1e6


def timed(call: Callable[[], object], calls: int, device: torch.device) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / calls


def launches(update: Callable[[], object], device: torch.device) -> int:
    """What the host has to start one by one in an update: kernels and copies on CUDA, else operators.

    Of operators only those that are not called by another one.
    """
    update()
    if device.type == "cuda":
        return kernels(update, device)[0]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profiler:
        update()
    events: Any = profiler.events()
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
