"""A program that runs ``dipole train`` again and again, killing it, until it has finished: for tests/test_killed_runs.py.

It forks, so that torch is imported once and not for every life of the run.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

import torch

from dipole_sb3.cli import main

LONGEST_LIFE = 1.5
"""Seconds; a run needs about half of one before it learns."""


def live(arguments: list[str], seconds: float | None = None, file_size: int | None = None) -> int:
    """One life of the command, ended by SIGKILL after so many seconds, or by the kernel in the middle of a file.

    :return: its wait status.
    """
    child = os.fork()
    if child == 0:
        if file_size is not None:
            # Python ignores the signal of a process that writes beyond its limit; its default is to end it there.
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY))
        torch.set_num_threads(1)
        try:
            status = main(arguments)
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        sys.stdout.flush()
        os._exit(status)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def lives(arguments: list[str], folder: Path, kills: int, seed: int, file_sizes: list[int]) -> dict[str, object]:
    """Lives through ``kills`` kills at random moments, one for each file size, and to the end."""
    generator = random.Random(seed)
    statuses = []
    ways: list[dict[str, float]] = [{"seconds": generator.uniform(0.3, LONGEST_LIFE)} for _ in range(kills)]
    ways += [{"file_size": size} for size in file_sizes]
    generator.shuffle(ways)
    for way in (*ways, {}):
        begun = any((folder / "checkpoints").glob("*.zip"))
        command = ["train", f"resume={folder}"] if begun else [*arguments, f"run_dir={folder}", "replace=true"]
        statuses.append(live(command, **way))  # type: ignore[arg-type]
    return {"statuses": statuses}


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    live([*told["arguments"], "run_dir=whole"])
    print(json.dumps(lives(told["arguments"], Path("killed"), told["kills"], told["seed"], told["file_sizes"])))
