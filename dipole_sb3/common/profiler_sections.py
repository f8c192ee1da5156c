"""Names for the parts of training, for a profiler."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.profiler import record_function

PREFIX = "dipole::"


def section(name: str) -> AbstractContextManager[object]:
    """What runs in the block is part of ``name`` in a profile; costs nothing to speak of where nobody profiles."""
    # Compilers take the parts of a function together, and an unused record_function still costs 6 µs.
    if torch.compiler.is_compiling() or not torch._C._autograd._profiler_enabled():
        return nullcontext()
    return record_function(PREFIX + name)
