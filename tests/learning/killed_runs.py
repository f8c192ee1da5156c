"""A program that runs ``dipole train`` again and again, killing it, until it has finished; for the test of that name.

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
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium.envs.mujoco.reacher_v5  # noqa: F401 -- imported once here, not in every life
import torch
import torch._dynamo

from dipole_sb3.cli import main


class Life(NamedTuple):
    """Wait status of a process, and how many seconds it went on after its first evaluation."""

    status: int
    seconds: float


def live(arguments: list[str], folder: Path, seconds: float | None = None, file_size: int | None = None) -> Life:
    """One life of the command, ended by SIGKILL so long after its first evaluation, or by the kernel within a file."""
    begun = time.time()
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
    # Before its first evaluation most of the time goes by in starting the process that plays it.
    while newest(folder, "evaluations/evaluations.npz") < begun and has_not_ended(child):
        time.sleep(0.01)
    learning = time.time()
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return Life(os.waitpid(child, 0)[1], time.time() - learning)


def newest(folder: Path, pattern: str) -> float:
    """When the newest of the files was written; those that vanish meanwhile do not count."""
    times = [0.0]
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return max(times)


def has_not_ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def lives(arguments: list[str], folder: Path, kills: int, seed: int, file_sizes: list[int]) -> list[int]:
    """A run that is never killed; and one that lives through ``kills`` kills, and one for each file size, to its end.

    :return: wait statuses of the second.
    """
    whole = live([*arguments, f"run_dir={folder / 'whole'}"], folder / "whole")
    generator = random.Random(seed)
    # Together they are shorter than the run.
    ways: list[Any] = [{"seconds": generator.random() * whole.seconds / (kills + 1)} for _ in range(kills)]
    ways += [{"file_size": size} for size in file_sizes]
    statuses: list[int] = []
    killed = folder / "killed"
    for way in (*ways, {}):
        begun = any((killed / "checkpoints").glob("*.zip"))
        command = ["train", f"resume={killed}"] if begun else [*arguments, f"run_dir={killed}", "replace=true"]
        statuses.append(live(command, killed, **way).status)
    return statuses


if __name__ == "__main__":
    print(json.dumps(lives(folder=Path(), **json.loads(sys.argv[1]))))
