"""How many plans a second get their driving score, beside one plan at a time, written down plainly.

    python benchmarks/pdm_score.py [--scenes 20] [--plans 25] [--others 30] [--processes 2] [--json FILE]

Random traffic and random plans from the tests' helpers; the plain path is the one that the tests compare the score
with. Every turn scores some plans plainly, then all of them in this process, then in the pool. The first turn prepares
the scenes and is given apart, as a training pays for it once; medians are of the others. Before the turns, all three
ways have scored the same plans alike. On a busy machine, the rate for each second of processor time tells more.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from train_speed import describe_machine

from dipole_sb3.driving.scene import Floats, Scores, Surroundings
from dipole_sb3.driving.score import ScoringPool, score_plans

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/helpers"))
random_driving = importlib.import_module("random_driving")
plain_driving_score = importlib.import_module("plain_driving_score")


def problems(scenes: int, plans: int, others: int) -> tuple[list[Surroundings], Floats]:
    """Scenes with so many others, and plans [scenes, plans, 8, 3]."""
    generator = np.random.default_rng(0)
    surroundings = [random_driving.random_scene(generator, others) for _ in range(scenes)]
    speeds = [one.ego.velocity[0] for one in surroundings]
    return surroundings, np.stack([random_driving.random_plans(generator, speed, plans) for speed in speeds])


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    work()
    return clock() - start


def compare(scores: Scores, others: Scores) -> None:
    """Stops where two ways differ by a bit."""
    for field in fields(Scores):
        np.testing.assert_array_equal(getattr(scores, field.name), getattr(others, field.name))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    surroundings, plans = problems(options.scenes, options.plans, options.others)
    count = plans.shape[0] * plans.shape[1]
    few = [(index % options.scenes, index // options.scenes) for index in range(min(options.plain, count))]

    def plainly() -> list[float]:
        return [plain_driving_score.score_plan(surroundings[row], plans[row, column])[-1] for row, column in few]

    times: dict[str, list[float]] = {"plain": [], "one": [], "processor": [], "pool": []}
    with ScoringPool(options.processes) as pool:
        first = seconds(lambda: score_plans(surroundings, plans))
        first_pool = seconds(lambda: pool.score_plans(surroundings, plans))
        scores = score_plans(surroundings, plans)
        compare(scores, pool.score_plans(surroundings, plans))
        np.testing.assert_allclose([scores.pdms[place] for place in few], plainly(), rtol=0, atol=1e-9)
        for _ in range(options.turns):
            times["plain"].append(seconds(plainly) / len(few))
            times["one"].append(seconds(lambda: score_plans(surroundings, plans)) / count)
            times["processor"].append(seconds(lambda: score_plans(surroundings, plans), time.process_time) / count)
            times["pool"].append(seconds(lambda: pool.score_plans(surroundings, plans)) / count)
    rates = {name: 1 / statistics.median(values) for name, values in times.items()}
    return {
        "scenes": options.scenes,
        "plans": options.plans,
        "others": options.others,
        "processes": options.processes,
        "mean_pdms": float(scores.pdms.mean()),
        "load_after": round(os.getloadavg()[0], 2),
        "first_one": count / first,
        "first_pool": count / first_pool,
        **rates,
        "one_of_plain": rates["one"] / rates["plain"],
        "pool_of_plain": rates["pool"] / rates["plain"],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--plans", type=int, default=25, help="of each scene")
    parser.add_argument("--others", type=int, default=30, help="tracks in each scene")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--plain", type=int, default=5, help="plans that the plain path scores in a turn")
    parser.add_argument("--json", type=Path, default=None, help="write the same figures to this file")
    options = parser.parse_args(arguments)
    machine = describe_machine()
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    row = measure(options)
    print(
        f"{row['scenes']} scenes × {row['plans']} plans, {row['others']} others in each; "
        f"load {row['load_after']} in the end\n"
        f"plans per second        first time\n"
        f"  plain        {row['plain']:8.1f}\n"
        f"  one process  {row['one']:8.0f}  {row['first_one']:8.0f}  {row['one_of_plain']:.0f} times the plain path; "
        f"{row['processor']:.0f} for each second of processor time\n"
        f"  {row['processes']} processes  {row['pool']:8.0f}  {row['first_pool']:8.0f}  "
        f"{row['pool_of_plain']:.0f} times the plain path"
    )
    if options.json is not None:
        options.json.write_text(json.dumps({"benchmark": "pdm_score", **machine, **row}, indent=2) + "\n")


if __name__ == "__main__":
    main()
