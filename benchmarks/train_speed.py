"""Speed of training, as a share of what this machine's matrix products allow and beside its peers, all in one run.

    python benchmarks/train_speed.py [--threads 2] [--peer-python PATH] [--json FILE]

Tasks, with the hyperparameters in configs/: ogbench (28 observations, 5 actions, batch 256, ten flow steps for the
critics' target), exorl (78, 12, batch 512, critics bootstrap from V), and where it is asked for, visual (ogbench's with
stacks of three images of 64 × 64, the small IMPALA encoder and random crops), at the same widths for every algorithm.
Measured in turns, of which the median counts, so that other load on the machine falls on all of them:

  ways       one run of each algorithm, eager, compiled, and captured in CUDA graphs; in each precision asked for
  runs       R of them trained at once; the cost of each is compared with a run alone
  peers      Stable-Baselines3's SAC, and SBX's (JAX; --peer-python: an interpreter with the package sbx-rl), with two
             critics, at the widths, batch and data of ogbench, and the JAX agents of FQL's authors (--agents: a clone
             of https://github.com/seohongpark/fql) there and at visual's, each in a process of its own that waits for
             its turn

An update of one algorithm is other work than that of another; what compares are operations per second, of the products
that each update really makes. The bounds beside them:

  products   the rate of the widest product of the networks, [batch, width] × [width, width], through torch.addmm, in
             single precision (so bfloat16 may exceed it); with images that of the encoder's widest convolution, 3 × 3
             from 32 to 32 channels of [batch, 32, 16, 16], channels last
  launches   the number of operators (on CUDA: kernels) that an eager update starts one by one, times the time that one
             of them takes on a single element

Memory is what the runs and their first updates take at most beyond the data, in a process of their own: on CUDA by
torch's count, else what becomes resident.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from train_ways import ALGORITHMS, PRECISIONS, TASKS, VISUAL, Setup, Train
from update_work import launches, smallest_launch, timed
from waiting_process import WaitingProcess

WAYS = ("eager", "compiled", "captured")
AT_ONCE = "runs at once"
AUTHORS_AGENTS = ("fql", "ifql", "iql", "rebrac")
"""Which agents the repository of FQL's authors has."""
_WARM_UP = 20
"""Updates before anything is timed: compilation and capture are over."""


@dataclass
class Row:
    """One line of a table, and of the JSON file; None: not measured, ``note`` says why.

    ``updates_per_second`` are those of all runs together; ``algorithm`` is None for a peer.
    """

    name: str
    algorithm: str | None = None
    precision: str = "fp32"
    runs: int = 1
    operations: int = 0
    updates_per_second: float | None = None
    of_product_rate: float | None = None
    of_launch_rate: float | None = None
    cost_per_run: float | None = None
    memory_mebibytes: float | None = None
    note: str = ""


@dataclass
class Contender:
    """``run(updates)`` gives how many were made and the seconds that they took."""

    row: Row
    run: Callable[[int], tuple[int, float]]


def describe_machine() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = f"{names[0]} × {len(names)}" if names else model
    return {
        "date": datetime.date.today().isoformat(),
        "machine": model,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 2),
    }


def peers_of(setups: Sequence[Setup], options: argparse.Namespace) -> Iterator[tuple[list[str], str]]:
    """Of each peer of a table: the command without its sizes, and what follows them."""
    programs, task, device = Path(__file__).parent, setups[0].task, setups[0].device.type
    if task == "ogbench":
        yield [sys.executable, str(programs / "train_peers.py"), "sb3"], device
        if options.peer_python is not None:
            yield [options.peer_python, str(programs / "train_peers.py"), "sbx"], device
    if task != "exorl" and None not in (options.peer_python, options.agents):
        for name in [setup.algorithm for setup in setups if setup.algorithm in AUTHORS_AGENTS]:
            yield [options.peer_python, str(programs / "train_agents.py"), str(options.agents), name], ""


def peer(command: list[str], last: str, setup: Setup, threads: int | None) -> tuple[WaitingProcess, Row]:
    """Another algorithm's process, and its row."""
    task = TASKS[setup.task]
    sizes = ("x".join(map(str, task.observation)), task.action, setup.width, setup.batch)
    ending = [part for part in (last, "" if threads is None else str(threads)) if part]
    process = WaitingProcess([*command, *map(str, sizes), *ending], Path(__file__))
    facts = process.ready
    versions = [f"{package} {version}" for package, version in facts["versions"].items()]
    return process, Row(facts["name"], operations=facts["operations"], note=", ".join([*versions, facts["device"]]))


def peers_run(process: WaitingProcess) -> Callable[[int], tuple[int, float]]:
    """What times a peer."""

    def run(updates: int) -> tuple[int, float]:
        answer = process.asked(updates)
        return answer["updates"], answer["seconds"]

    return run


def measure(setups: Sequence[Setup], options: argparse.Namespace) -> dict[str, Any]:
    """One table: the algorithms of a task at one width."""
    first = setups[0]
    ways = [
        (setup, Row(way, setup.algorithm, precision, operations=setup.operations), way)
        for setup in setups
        for way in options.ways
        for precision in options.precisions
    ]
    ways += [
        (setup, Row(AT_ONCE, setup.algorithm, precision, runs, setup.operations), "auto")
        for setup in setups
        for precision in options.precisions
        for runs in options.runs
    ]
    rows, contenders, peers = [row for _, row, _ in ways], [], []
    with ExitStack() as opened:
        # First, for they may not start at all.
        for command, last in peers_of(setups, options):
            process, row = peer(command, last, first, options.threads)
            opened.enter_context(process)
            rows.append(row)
            peers.append(Contender(row, peers_run(process)))
        if first.task == "ogbench" and options.peer_python is None:
            rows.append(Row("SAC of SBX", note="not measured: --peer-python is not given"))
        for setup, row, way in ways:
            if setup.device.type != "cuda" and (way == "captured" or row.precision == "tf32"):
                row.note = "no CUDA"
                continue
            row.memory_mebibytes = setup.memory(way, row.runs, row.precision)
            contenders.append(contender(row, setup.trainer(way, row.runs, row.precision), setup))
        contenders += peers
        started = {setup.algorithm: launches(setup.eager_update, setup.device) for setup in setups}
        product, operations = widest_product(first)
        product_seconds, launch_seconds = _in_turns(contenders, product, first.device, options)
    rate = operations / product_seconds
    alone = {
        (row.algorithm, row.precision): row.updates_per_second for row in rows if row.name == AT_ONCE and row.runs == 1
    }
    for row in rows:
        if row.updates_per_second is not None:
            row.of_product_rate = row.updates_per_second * row.operations / rate
            if row.algorithm is not None:
                row.of_launch_rate = row.updates_per_second * started[row.algorithm] * launch_seconds
            single = alone.get((row.algorithm, row.precision))
            row.cost_per_run = single / row.updates_per_second if single and row.name == AT_ONCE else None
    return {
        "task": first.task,
        "width": first.width,
        "batch": first.batch,
        "product_gflop_per_second": rate / 1e9,
        "launch_microseconds": 1e6 * launch_seconds,
        "updates": {
            setup.algorithm: {
                "batch": setup.batch,
                "gflop": setup.operations / 1e9,
                "product_bound_per_second": rate / setup.operations,
                "launches": started[setup.algorithm],
                "launch_bound_per_second": 1 / (started[setup.algorithm] * launch_seconds),
            }
            for setup in setups
        },
        "rows": [asdict(row) for row in rows],
    }


def widest_product(setup: Setup) -> tuple[Callable[[], object], int]:
    """The product whose rate is the bound, and its floating-point operations."""
    batch, width, device = setup.batch, setup.width, setup.device
    if setup.task == VISUAL:
        side, channels = 16, 32
        images = torch.randn(batch, channels, side, side, device=device).to(memory_format=torch.channels_last)
        kernel = torch.randn(channels, channels, 3, 3, device=device).to(memory_format=torch.channels_last)
        return lambda: torch.conv2d(images, kernel, padding=1), 2 * 9 * batch * (channels * side) ** 2
    x, weight, bias = (torch.randn(*shape, device=device) for shape in ((batch, width), (width, width), (width,)))
    return lambda: torch.addmm(bias, x, weight), 2 * batch * width**2


def contender(row: Row, train: Train, setup: Setup) -> Contender:
    """Warms up and gives what times it."""
    train(_WARM_UP, setup.batch)

    def run(updates: int) -> tuple[int, float]:
        start = time.perf_counter()
        train(updates, setup.batch)
        if setup.device.type == "cuda":
            torch.cuda.synchronize(setup.device)
        return updates * row.runs, time.perf_counter() - start

    return Contender(row, run)


def _in_turns(
    contenders: list[Contender], product: Callable[[], object], device: torch.device, options: argparse.Namespace
) -> tuple[float, float]:
    """Times everything, so that all of it meets the same load.

    :return: seconds of a product and of the smallest launch; the contenders' rows have theirs.
    """
    calls = [product, smallest_launch(device)]
    budget = options.seconds / options.turns
    counts = [max(1, round(budget / 4 / timed(call, 50, device))) for call in calls]
    updates = []
    for each in contenders:
        made, seconds = each.run(10)
        count = budget * made / each.row.runs / seconds
        # Tens: what a CUDA graph replays at once.
        updates.append(max(1, round(count)) if count < 10 else 10 * round(count / 10))
    times: list[list[float]] = [[] for _ in [*calls, *contenders]]
    for _ in range(options.turns):
        for found, call, count in zip(times, calls, counts, strict=False):
            found.append(timed(call, count, device))
        for found, each, count in zip(times[len(calls) :], contenders, updates, strict=True):
            made, seconds = each.run(count)
            found.append(seconds / made)
    medians = [statistics.median(found) for found in times]
    for each, seconds in zip(contenders, medians[len(calls) :], strict=True):
        each.row.updates_per_second = 1 / seconds
    return medians[0], medians[1]


def table(result: dict[str, Any]) -> str:
    """One configuration as text."""
    lines = [
        f"{result['task']}: width {result['width']}, batch {result['batch']}; products "
        f"{result['product_gflop_per_second']:.1f} GFLOP/s, a launch {result['launch_microseconds']:.2f} µs",
    ]
    for algorithm, update in result["updates"].items():
        lines.append(
            f"{algorithm}: {update['gflop']:.2f} GFLOP an update of {update['batch']} rows, "
            f"bound {update['product_bound_per_second']:.1f}/s; "
            f"{update['launches']} launches, bound {update['launch_bound_per_second']:.1f}/s"
        )
    lines.append(
        f"{'':>28} {'updates/s':>10} {'of launches':>11} {'GFLOP/s':>8} {'of products':>11} {'per run':>8} {'MiB':>7}"
    )
    notes = []
    for row in result["rows"]:
        name, speed = row_name(row), row["updates_per_second"]
        if speed is None:
            lines.append(f"{name:>28} {row['note']}")
            continue
        cells = [
            (speed, "10.1f" if speed >= 10 else "10.2f"),
            (row["of_launch_rate"], "11.2f"),
            (speed * row["operations"] / 1e9, "8.1f"),
            (row["of_product_rate"], "11.2f"),
            (row["cost_per_run"], "8.2f"),
            (row["memory_mebibytes"], "7.0f"),
        ]
        blank = [f"{'':>{form.split('.')[0]}}" if value is None else f"{value:>{form}}" for value, form in cells]
        lines.append(f"{name:>28} {' '.join(blank)}".rstrip())
        if row["algorithm"] is None:
            notes.append(f"{name}: {row['operations'] / 1e9:.2f} GFLOP an update, {row['note']}")
    return "\n".join([*lines, *notes])


def row_name(row: dict[str, Any]) -> str:
    """Of a line of the table."""
    if row["algorithm"] is None:
        return str(row["name"])
    name = row["name"]
    if name == AT_ONCE:
        name = "1 run alone" if row["runs"] == 1 else f"{row['runs']} runs at once"
    return f"{row['algorithm']} {name}" + ("" if row["precision"] == "fp32" else f" {row['precision']}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["ogbench", "exorl"], help="(ogbench exorl)")
    parser.add_argument("--algos", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS), help="(all)")
    parser.add_argument("--widths", type=int, nargs="+", default=[512], help="hidden widths, of three layers (512)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="of one run (all)")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["fp32"], help="of each row (fp32)")
    parser.add_argument("--runs", type=int, nargs="*", default=[1, 4, 8, 16], metavar="R", help="at once (1 4 8 16)")
    parser.add_argument("--peer-python", default=None, metavar="PATH", help="an interpreter that has sbx-rl")
    parser.add_argument(
        "--agents", type=Path, default=None, metavar="PATH", help="a clone of FQL's repository, for --peer-python"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="CUDA where there is")
    parser.add_argument("--threads", type=int, default=None, help="torch threads, the peers' too (torch's default)")
    parser.add_argument("--seconds", type=float, default=10.0, help="measuring time for each row (10)")
    parser.add_argument("--turns", type=int, default=9, help="alternations of all that is measured (9)")
    parser.add_argument("--json", type=Path, default=None, help="write the same figures to this file")
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    machine = describe_machine()
    if device.type == "cuda":
        machine["device"] = torch.cuda.get_device_name(device)
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    tables = []
    for task in options.tasks:
        for width in options.widths:
            tables.append(measure([Setup(task, algorithm, width, device) for algorithm in options.algos], options))
            print(f"\n{table(tables[-1])}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps({"benchmark": "train_speed", **machine, "tables": tables}, indent=2) + "\n")


if __name__ == "__main__":
    main()
