"""Whether updates are compiled with torch.compile: where a compiler works and a run is long enough to pay for it."""

from __future__ import annotations

import functools
import warnings
from typing import Any, Literal

import torch

from dipole_sb3.common.errors import first_line
from dipole_sb3.learning.update_rule import LossFunction

PAYS_FROM = 20_000
"""Updates from which compilation pays on a CPU. It takes 30 to 60 seconds and then saves 2 ms (width 64) to 12 ms
(width 512) of each update, so it pays from 3,000 to 20,000 updates on (``benchmarks/train_speed.py``). A number and no
measurement: two runs of the same seed must not differ because one of them began while the machine was busy."""

OnCPU = Literal["eager", "compiled"]


_VARIANTS = 256
"""Of one loss function that a process may compile: sizes, hyperparameters, precisions. Beyond torch's own limit, 8, a
sweep would go on eagerly, with a warning that nobody understands."""


@functools.cache
def compiled(losses: LossFunction) -> LossFunction:
    """A loss function compiled with its backward pass, once for all learners of the process."""
    from torch._dynamo import config
    from torch._functorch import config as of_backward

    fast = torch.compile(losses, dynamic=False)

    def run(*arguments: Any) -> Any:
        # The backward pass is compiled here too, not where it is first needed: failures come before anything changed.
        with config.patch(recompile_limit=_VARIANTS), of_backward.patch(force_non_lazy_backward_lowering=True):
            return fast(*arguments)

    return run


def compiled_or_eager(losses: LossFunction) -> LossFunction:
    """As :func:`compiled`, but goes on eagerly, with a warning, from where torch.compile fails.

    A short try (:func:`why_not`) does not find everything: memory or disk space may end, and a user's own network may
    be what the compiler cannot handle. The losses are computed before anything changes, so no update is lost or made
    twice.
    """
    fast = compiled(losses)
    works = True

    def run(*arguments: Any) -> Any:
        nonlocal works
        if works:
            try:
                return fast(*arguments)
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:  # what the compilers raise has no common class
                works = False
                warnings.warn(f"Updates go on eagerly: torch.compile failed: {_reason(error)}", stacklevel=2)
        # Outside the handler: what is wrong with the losses themselves is raised here, and alone.
        return losses(*arguments)

    return run


@functools.cache
def why_not(device_type: str) -> str | None:
    """Why torch.compile does not work for a device in this process, in a few words; None: it works.

    On a CPU it needs a C++ compiler and Python's headers, which only a try finds out (some seconds, once).
    """
    if device_type == "cuda":
        # Not on every platform; a CUDA graph of eager kernels needs nothing.
        from torch.utils._triton import has_triton

        return None if has_triton() else "Triton is not installed"
    try:
        torch.compile(lambda x: x.sin() + x)(torch.zeros(16, device=device_type))
    except Exception as error:  # what the compilers raise has no common class
        return _reason(error)
    return None


def _reason(error: Exception) -> str:
    """What went wrong, without the names of those in torch who pass it on."""
    return first_line(getattr(error, "inner_exception", error))


def way_on_cpu(updates: int, earlier: OnCPU | None) -> tuple[OnCPU, str]:
    """What ``acceleration="auto"`` comes to on a CPU, and what there is to say about it.

    :param updates: that are still to be made.
    :param earlier: what it came to when this run began; None: it begins now.
    """
    if earlier == "eager" or (earlier is None and updates < PAYS_FROM):
        return "eager", ""
    reason = why_not("cpu")
    if reason is not None:
        return "eager", f"Updates run eager, though {updates:,} would pay for torch.compile, which fails here: {reason}"
    if earlier == "compiled":
        return "compiled", ""
    return "compiled", f"Updates run compiled: {updates:,} pay for it, and the first takes about half a minute"
