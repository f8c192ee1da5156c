"""Tells who trains on a machine that other processes use, too, how to train faster there.

PyTorch starts as many threads as there are cores. They wait for each other many times in an update, spinning meanwhile,
and when other processes hold a core, the ones that spin take the time from the one that is waited for: with one of two
cores busy, updates fall to a third of their speed. As many threads as there are free cores keep more than a fair share
(``benchmarks/busy_machine.py``). The number is not changed here: it decides how compiled sums are split, and a run
that is repeated on the same machine should repeat itself to the last bit.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from dipole_sb3.common.child_processes import available_cores

_STAT = Path("/proc/stat")
_SAMPLE = 0.25
"""Seconds over which the load is measured."""

_COUNTS = 0.6
"""Of a core: less than that is no neighbour that stays."""


def hint() -> str | None:
    """One sentence, or None where nothing is gained: cores are free, threads are few, or the user has chosen them."""
    threads = torch.get_num_threads()
    if threads == 1 or "OMP_NUM_THREADS" in os.environ:
        return None
    cores, busy = available_cores(), busy_cores()
    taken = int(busy + 1 - _COUNTS)
    fewer = max(1, cores - taken)
    if not taken or fewer >= threads:
        return None
    of = f"{taken} of {cores} cores {'is' if taken == 1 else 'are'}"
    return f"{of} busy with other processes: updates on {threads} threads are slow then, try OMP_NUM_THREADS={fewer}"


def busy_cores(seconds: float = _SAMPLE) -> float:
    """How many of the cores that this process may run on do other work (not that of low priority, which gives way).

    0 where the system does not tell (without Linux's /proc).
    """
    if not _STAT.exists():
        return 0.0
    before = _times()
    time.sleep(seconds)
    after = _times()
    shares = []
    for core, (busy, total) in after.items():
        earlier_busy, earlier_total = before.get(core, (busy, total))
        shares.append((busy - earlier_busy) / max(1, total - earlier_total))
    return sum(shares)


def _times() -> dict[str, tuple[int, int]]:
    """Of each core, in ticks since the start of the system: what it was busy, and all."""
    allowed = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    found = {}
    for line in _STAT.read_text().splitlines():
        name, *ticks = line.split()
        if name in allowed:
            user, nice, system, idle, waiting, *others = map(int, ticks[:8])
            found[name] = (user + system + sum(others), user + nice + system + idle + waiting + sum(others))
    return found
