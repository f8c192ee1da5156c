"""How much of its speed training keeps when other processes use the machine, under several settings of OpenMP.

    python benchmarks/busy_machine.py [--way eager] [--width 512] [--json FILE]

Each setting trains in a process of its own that waits for its turn: alone, and beside one process that computes
without a pause. In turns, so that other load falls on all of them. A fair share of a busy machine is the free cores'
share of the idle machine's speed: half of it on two cores.

  as it is          GNU OpenMP's own: a thread without work turns 300,000 times before it sleeps
  short spinning    GOMP_SPINCOUNT=1000
  no spinning       GOMP_SPINCOUNT=0
  passive           OMP_WAIT_POLICY=PASSIVE
  one thread less   OMP_NUM_THREADS: a thread for each free core
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from waiting_process import WaitingProcess

from dipole_sb3.common.child_processes import available_cores

CORES = available_cores()
SETTINGS: dict[str, dict[str, str]] = {
    "as it is": {"GOMP_SPINCOUNT": "300000"},
    "short spinning": {"GOMP_SPINCOUNT": "1000"},
    "no spinning": {"GOMP_SPINCOUNT": "0"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread less": {"OMP_NUM_THREADS": str(max(1, CORES - 1))},
}
_OPENMP = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
_WARM_UP = 10


def serve(way: str, width: int) -> None:
    """Trains as many seconds as each line of the standard input says, and answers with updates per second."""
    import torch
    from train_ways import Setup

    setup = Setup("ogbench", "dipole", width, torch.device("cpu"))
    train = setup.trainer(way, 1)
    train(_WARM_UP, setup.batch)
    print(torch.get_num_threads(), flush=True)
    for line in sys.stdin:
        updates, start = 0, time.perf_counter()
        while time.perf_counter() - start < float(line):
            train(2, setup.batch)
            updates += 2
        print(updates / (time.perf_counter() - start), flush=True)


def trainer(setting: dict[str, str], way: str, width: int) -> WaitingProcess:
    """A process that serves under these environment variables."""
    clean = {key: value for key, value in os.environ.items() if key not in _OPENMP}
    command = [sys.executable, __file__, "--serve", "--way", way, "--width", str(width)]
    return WaitingProcess(command, Path(__file__), {**clean, **setting})


@contextmanager
def one_core_busy() -> Iterator[None]:
    """One other process that never waits."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            yield
        finally:
            other.kill()


def measure(way: str, width: int, seconds: float, turns: int) -> dict[str, dict[str, float]]:
    """Median updates per second of each setting: ``idle`` and ``busy``, with its ``threads``."""
    found: dict[str, dict[str, list[float]]] = {name: {"idle": [], "busy": []} for name in SETTINGS}
    with ExitStack() as opened:
        processes = {name: opened.enter_context(trainer(each, way, width)) for name, each in SETTINGS.items()}
        threads = {name: process.ready for name, process in processes.items()}
        for _ in range(turns):
            for name, process in processes.items():
                found[name]["idle"].append(process.asked(seconds))
            with one_core_busy():
                for name, process in processes.items():
                    found[name]["busy"].append(process.asked(seconds))
    return {
        name: {"threads": threads[name], **{state: statistics.median(rates) for state, rates in each.items()}}
        for name, each in found.items()
    }


def table(rates: dict[str, dict[str, float]]) -> str:
    """The figures as text, beside those of OpenMP's own settings."""
    idle = rates["as it is"]["idle"]
    fair = idle * (CORES - 1) / CORES
    lines = [f"{'':>16} {'threads':>7} {'idle':>7} {'busy':>7} {'idle/own':>8} {'busy/fair':>9}"]
    for name, each in rates.items():
        cells = f"{each['threads']:7.0f} {each['idle']:7.2f} {each['busy']:7.2f} {each['idle'] / idle:8.2f}"
        lines.append(f"{name:>16} {cells} {each['busy'] / fair:9.2f}" if fair else f"{name:>16} {cells}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=("eager", "compiled"), default="eager", help="of training (eager)")
    parser.add_argument("--width", type=int, default=512, help="of three hidden layers (512)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of training in each turn (4)")
    parser.add_argument("--turns", type=int, default=5, help="of which the median counts (5)")
    parser.add_argument("--json", type=Path, default=None, help="write the same figures to this file")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve(options.way, options.width)
        return
    from train_speed import describe_machine

    rates = measure(options.way, options.width, options.seconds, options.turns)
    machine: dict[str, Any] = describe_machine()
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print(f"updates per second, DIPOLE, {options.way}, width {options.width}")
    print(table(rates))
    if options.json is not None:
        facts = {"benchmark": "busy_machine", **machine, "way": options.way, "width": options.width, "rates": rates}
        options.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
