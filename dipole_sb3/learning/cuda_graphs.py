"""What a CUDA graph of updates needs: a stream to record on, and an optimiser that never asks the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def cuda_graph(device: torch.device, function: Callable[[], Result]) -> Callable[[], Result]:
    """A function's kernels as a CUDA graph: calling the result launches them and returns the same tensors each time."""
    graph = torch.cuda.CUDAGraph()
    # Torch's default stream for captures belongs to the first device that captured.
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.device(device), torch.cuda.graph(graph, stream=stream):
        outcome = function()

    def replay() -> Result:
        graph.replay()
        return outcome

    return replay


@contextmanager
def beside(device: torch.device) -> Iterator[None]:
    """On CUDA, uses a separate stream, as torch requires for warm-up before a capture; elsewhere does nothing."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    current = torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)


def keep_on_device(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Lets a CUDA graph read the optimiser's learning rate and step count from the device."""
    for group in optimizer.param_groups:
        if not isinstance(group["lr"], Tensor):
            group["lr"] = torch.tensor(float(group["lr"]), dtype=torch.float32, device=device)
        if "capturable" in group:
            group["capturable"] = True
    for state in optimizer.state.values():
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].to(device)


def can_be_captured(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimiser's step works without copying its learning rate or step count to the host."""
    return all(group.get("fused") or "capturable" in group for group in optimizer.param_groups)
