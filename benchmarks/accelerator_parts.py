"""The parts of accelerator.py, each in a process: ``python accelerator_parts.py PART FOLDER DEVICE CLOCK SIZE``."""

from __future__ import annotations

import functools
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError  # not the builtin one before Python 3.11
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from stable_baselines3.common.callbacks import BaseCallback
from train_ways import ALGORITHMS, UPDATES_TO_WARM_UP, VISUAL, Setup, composed
from update_work import PeakMemory, kernels, smallest_launch, timed

from dipole_sb3 import learn_together, load_dataset
from dipole_sb3.cli.configuration import config_folder
from dipole_sb3.cli.models import new_model
from dipole_sb3.common.child_processes import available_cores
from dipole_sb3.common.errors import first_line
from dipole_sb3.common.files import replaced_when_complete
from dipole_sb3.common.intervals import proportion_interval
from dipole_sb3.datasets import make_env
from dipole_sb3.datasets.ogbench.generation import make_dataset
from dipole_sb3.evaluation.sweep import evaluate_sweeps

OMEGAS = (1.0, 0.5, 0.0, 2.0, -1.0, 4.0)
"""The most telling first, for the time may not be enough for all."""

_SECONDS_OF_A_TURN = 0.5
_MOST_EPISODES = 1000
"""The original data set's."""


@dataclass(frozen=True)
class Clock:
    """When each part has to end.

    :param start: of everything, as ``time.time()``.
    :param ends: part → seconds after the start.
    """

    start: float
    ends: dict[str, float]

    def left(self, part: str) -> float:
        """Seconds until the end of a part."""
        return self.start + self.ends[part] - time.time()


def write(file: Path, found: dict[str, Any]) -> None:
    """Replaces the file as a whole, so that a reader or a cut never meets half of it."""
    with replaced_when_complete(file) as part:
        part.write((json.dumps(found, indent=2) + "\n").encode())


@dataclass(frozen=True)
class Job:
    """What a part is told.

    :param file: for what it finds, written anew whenever there is more.
    :param folder: for models and data.
    :param seconds_left: until it has to end.
    :param small: everything at tiny size.
    """

    file: Path
    folder: Path
    device: torch.device
    seconds_left: Callable[[], float]
    small: bool


# Data


def make_data(job: Job) -> None:
    """Episodes of cube-single-play for the time that is left; a few of them first, to know how many that is."""
    name, cores = "cube-single-play", available_cores()
    sizes: dict[str, Any] = {"max_episode_steps": 20, "processes": 1} if job.small else {}
    make = functools.partial(make_dataset, name, progress=False, **sizes)
    pilot, start = 1 if job.small else cores, time.time()
    make(episodes=pilot, seed=1_000_000, dataset_dir=job.folder / "pilot")
    seconds = time.time() - start
    # A tenth more for validation. The pilot pays for starting its processes, too, so there will be some time to spare.
    possible = int(pilot * job.seconds_left() / seconds / 1.1)
    facts: dict[str, Any] = {
        "data set": name,
        "episodes": 2 if job.small else min(_MOST_EPISODES, max(cores, possible)),
        "processes": cores,
        "seconds of the first episodes": seconds,
    }
    write(job.file, facts)
    start = time.time()
    path = make(episodes=facts["episodes"], dataset_dir=job.folder / "data")
    write(job.file, {**facts, "seconds": time.time() - start, "file": path.name})


# Speed


@dataclass(frozen=True)
class Cell:
    """One line of the table."""

    task: str
    algorithm: str
    way: str
    precision: str
    runs: int


def cells(small: bool, device: torch.device) -> list[Cell]:
    """All of them, the most telling ones first."""
    if small:
        eager = [Cell("ogbench", "dipole", "eager", "bf16", 2), Cell("exorl", "rebrac", "eager", "fp32", 1)]
        return [*eager, Cell("ogbench", "iql", "compiled", "fp32", 1)]
    return list(dict.fromkeys(_cells(device.type == "cuda")))


def _cells(cuda: bool) -> Iterator[Cell]:
    precisions = ("fp32", "bf16", "tf32") if cuda else ("fp32", "bf16")
    best = "captured" if cuda else "compiled"
    first, *more = (8, 32, 16, 4)
    tasks, others = ("ogbench", "exorl"), [name for name in ALGORITHMS if name != "dipole"]
    for task in tasks:
        yield from (Cell(task, "dipole", best, precision, 1) for precision in precisions)
        yield Cell(task, "dipole", "eager", "fp32", 1)
        yield from (Cell(task, "dipole", best, precision, first) for precision in precisions)
    yield from (Cell(VISUAL, name, best, precision, 1) for name in ("fql", "dipole") for precision in precisions)
    for name in sorted(others, key=lambda name: name != "fql"):
        yield from (Cell("ogbench", name, way, "fp32", 1) for way in (best, "eager"))
    for precision in precisions:
        yield from (Cell(task, "dipole", best, precision, runs) for runs in more for task in tasks)
    for task in tasks:
        yield from (Cell(task, "dipole", "eager", precision, 1) for precision in precisions)
        yield from (Cell(task, "dipole", "compiled", precision, 1) for precision in precisions)
    for name in others:
        yield from (Cell("ogbench", name, best, precision, first) for precision in precisions)


def measure_speed(job: Job) -> None:
    """One cell after the other until the time is over, each written when it is known."""
    width = 16 if job.small else 512
    todo, setups = cells(job.small, job.device), {}
    for cell in todo:
        setups[cell] = Setup(cell.task, cell.algorithm, width, job.device)
    smallest = smallest_launch(job.device)
    smallest()
    rows: list[dict[str, Any]] = []
    found = {"width": width, "launch_microseconds": 1e6 * timed(smallest, 200, job.device), "rows": rows}
    # Each takes compilers some seconds to a minute: several work at a time, ahead of what measures.
    with ProcessPoolExecutor(max(1, available_cores() // 3), mp_context=get_context("spawn")) as pool:
        ready = [pool.submit(compile_cell, setups[cell], cell) for cell in todo]
        for cell, done in zip(todo, ready, strict=True):
            try:
                seconds = done.result(max(0.0, job.seconds_left()))
            except FutureTimeoutError:
                write(job.file, found | {"ended": f"out of time after {len(rows)} of {len(todo)} rows"})
                # Its processes compile what nobody will measure.
                os.killpg(os.getpgrp(), signal.SIGKILL)
                raise
            except Exception:  # of compilers of all kinds, or of a pool that lost a process: measuring will tell
                seconds = None
            rows.append({**asdict(cell), "seconds_to_compile": seconds, **measured_or_not(setups[cell], cell, job)})
            write(job.file, found)
    broken = sum("failed" in row and not row["out_of_memory"] for row in rows)
    if broken:
        raise SystemExit(f"speed: {broken} of {len(rows)} cells failed; their rows say why")


def compile_cell(setup: Setup, cell: Cell) -> float | None:
    """Leaves in the caches on the disk what a cell's compilers make; seconds, or None where nothing compiles."""
    if cell.way == "eager":
        return None
    start = time.time()
    setup.trainer(cell.way, cell.runs, cell.precision)(UPDATES_TO_WARM_UP, setup.batch)
    return time.time() - start


def measured_or_not(setup: Setup, cell: Cell, job: Job) -> dict[str, Any]:
    """One row, or why there is none: the cells that follow must not pay for one that does not fit or run."""
    try:
        return measured(setup, cell, job)
    except Exception as error:  # whatever torch, Triton and CUDA raise
        failed = {"failed": first_line(error), "out_of_memory": isinstance(error, torch.OutOfMemoryError)}
    # Outside: the error's frames have held its tensors.
    if job.device.type == "cuda":
        torch.cuda.empty_cache()
    return failed


def measured(setup: Setup, cell: Cell, job: Job) -> dict[str, Any]:
    """One row: updates per second of all runs together, what an update's kernels take alone, memory."""
    with PeakMemory(job.device) as memory:
        train = setup.trainer(cell.way, cell.runs, cell.precision)
        train(UPDATES_TO_WARM_UP, setup.batch)
    ten = functools.partial(train, 10, setup.batch)
    count = 1 if job.small else max(1, round(_SECONDS_OF_A_TURN / timed(ten, 1, job.device)))
    seconds = statistics.median(timed(ten, count, job.device) for _ in range(3)) / 10
    number, busy = kernels(ten, job.device)
    return {
        "updates_per_second": cell.runs / seconds,
        "gflop_per_second": cell.runs * setup.operations / seconds / 1e9,
        "kernels": number / 10,
        "kernel_bound_per_second": cell.runs / (busy / 10) if busy else None,
        "of_kernel_bound": busy / 10 / seconds if busy else None,
        "memory_mebibytes": memory.added,
    }


# Learning


class UntilThen(BaseCallback):
    """Ends learning when its time is over, and saves the model every minute."""

    def __init__(self, seconds_left: Callable[[], float], file: Path) -> None:
        super().__init__()
        self._left, self._file, self._saved = seconds_left, file, time.time()

    def _on_step(self) -> bool:
        if self.num_timesteps % 10 == 0 and time.time() - self._saved > 60:
            self.model.save(self._file)
            self._saved = time.time()
        return self._left() > 0


def learn_and_evaluate(job: Job) -> None:
    """Several seeds of the cube's task 2 on the data that were made; then their success at one ω after the other."""
    options = ["task=ogbench/cube-single-play", "task_id=2", "algo.verbose=0", f"algo.device={job.device}"]
    config = composed([*options, "algo.policy_kwargs.net_arch=[16,16]"] if job.small else options)
    if not list((job.folder / "data").glob("*-v0.npz")):
        write(job.file, {"ended": "no data set was made in time"})
        return
    # As JAX does by itself on such devices, with which the paper's figures were made.
    torch.set_float32_matmul_precision("high")
    dataset: Any = load_dataset(config.task.dataset, device=job.device, dataset_dir=job.folder / "data")
    seeds, start = range(2 if job.small else 8), time.time()
    models = [new_model(config.algo, dataset=dataset, seed=seed) for seed in seeds]
    for_evaluation = job.seconds_left() / 4
    callbacks = [
        UntilThen(lambda: job.seconds_left() - for_evaluation, job.folder / f"seed{seed}.zip") for seed in seeds
    ]
    learn_together(models, 20 if job.small else 1_000_000, callbacks, log_interval=0)
    for seed, model in zip(seeds, models, strict=True):
        model.save(job.folder / f"seed{seed}.zip")
    paper = OmegaConf.load(config_folder() / "targets.yaml").dipole.ogbench["cube-single-play"]
    rows: list[dict[str, Any]] = []
    found = {
        "task": config.task.name,
        "transitions": dataset.size(),
        "seeds": len(seeds),
        "updates": [model.num_timesteps for model in models],
        "seconds": time.time() - start,
        "num_candidates": config.algo.num_candidates,
        "paper": {"success": paper.mean[1] / 100, "std": paper.std[1] / 100, "updates": 1_000_000},
        "rows": rows,
    }
    write(job.file, found)
    make_one = functools.partial(make_env, config.task.env)
    omegas = OMEGAS[:2] if job.small else OMEGAS
    for omega in omegas:
        if job.seconds_left() < for_evaluation / len(omegas) / 2:
            write(job.file, found | {"ended": f"out of time after {len(rows)} of {len(omegas)} values of ω"})
            return
        results = evaluate_sweeps(models, make_one, {"omega": [omega]}, episodes=1 if job.small else 16)
        rows.append({"omega": omega, **_successes(results)})
        write(job.file, found)


def _successes(results: list[Any]) -> dict[str, Any]:
    each = [int(result.successes.sum()) for result in results]
    episodes = sum(result.successes.size for result in results)
    success, low, high = proportion_interval(sum(each), episodes)
    return {"success": success, "low": low, "high": high, "episodes": episodes, "of_each_seed": each}


PARTS: dict[str, Callable[[Job], None]] = {"data": make_data, "speed": measure_speed, "learn": learn_and_evaluate}


def main() -> None:
    part, folder, device, clock, size = sys.argv[1:]
    left = functools.partial(Clock(**json.loads(clock)).left, part)
    PARTS[part](Job(Path(folder) / f"{part}.json", Path(folder), torch.device(device), left, size == "small"))


if __name__ == "__main__":
    main()
