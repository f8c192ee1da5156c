"""The demo's task, offline for a third of the demo's updates and then online: does going on in the environment pay?

    python benchmarks/offline_to_online.py [--seeds 0 1 2] [--online 4000] [--json FILE] [--picture FILE]

One axis of timesteps: an update on the recorded data each up to the hand-over, then an environment step with one update
each. Every way of going on begins from the same trained model of its seed:

  uniform     batches are drawn uniformly from recorded and gathered transitions (the paper's way)
  half        every batch is half recorded, half gathered (offline_ratio=0.5)
  data alone  as many updates on the recorded data, without the environment: what the updates do by themselves

Evaluated on the same episodes at every point, of which none is trained on. Intervals are Student's t, 95 %, over seeds.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch

from dipole_sb3 import DIPOLE, load_dataset
from dipole_sb3.common.intervals import Interval, mean_interval
from dipole_sb3.evaluation.sweep import evaluate_sweep
from dipole_sb3.plots.drawing import COLOURS, MARKERS, MUTED, drawing

ENV = "Reacher-v5"
BEFORE, ALONE = "offline", "data alone"
WAYS: dict[str, dict[str, Any]] = {"uniform": {}, "half": {"offline_ratio": 0.5}, ALONE: {}}
LABELS = {
    BEFORE: "offline: updates on the data",
    "uniform": "online, uniform batches",
    "half": "online, half of a batch recorded",
    ALONE: "more updates on the data alone",
}
FIRST_EPISODE = 10_000
"""Of the evaluations; training's environments are seeded with the run's small seed."""


class Point(NamedTuple):
    """Mean return of one model at one time with one ω."""

    way: str
    seed: int
    timestep: int
    omega: float
    mean_return: float


def run(seed: int, options: argparse.Namespace) -> Iterator[Point]:
    """One seed: offline, then each way of going on."""

    def evaluated(model: DIPOLE, way: str) -> Iterator[Point]:
        sweep = evaluate_sweep(
            model,
            lambda: gymnasium.make(ENV),
            {"omega": options.omegas},
            episodes=options.episodes,
            seed=FIRST_EPISODE,
            processes=1,
        )
        for row in sweep.rows:
            yield Point(way, seed, model.num_timesteps, row.setting["omega"], row.return_mean)

    dataset = load_dataset("demo/reacher-tqc-10k", device="cpu")
    model = DIPOLE(
        "MlpPolicy",
        ENV,
        dataset=dataset,
        offline_steps=options.offline,
        gamma=0.98,
        beta=2.0,
        policy_kwargs={"net_arch": [options.width] * 3},
        device="cpu",
        seed=seed,
    )
    yield from evaluated(model, BEFORE)
    for step in steps_to(options.offline, options.every):
        model.learn(step, reset_num_timesteps=False)
        yield from evaluated(model, BEFORE)
    saved = io.BytesIO()
    model.save(saved)
    for way in options.ways:
        saved.seek(0)
        if way == ALONE:
            model = DIPOLE.load(saved, dataset=dataset, device="cpu", offline_steps=None)
        else:
            model = DIPOLE.load(saved, env=gymnasium.make(ENV), dataset=dataset, device="cpu", **WAYS[way])
            model.set_random_seed(seed)
        for step in steps_to(options.online, options.every):
            model.learn(step, reset_num_timesteps=False)
            yield from evaluated(model, way)


def steps_to(total: int, every: int) -> list[int]:
    """Portions of about ``every`` timesteps that add up to ``total``."""
    marks = np.linspace(0, total, max(1, round(total / every)) + 1).round().astype(int)
    return [int(step) for step in np.diff(marks)]


def summary(points: Sequence[Point], omega: float) -> dict[tuple[str, int], Interval]:
    """Mean and interval over seeds, by way and timestep."""
    cells: dict[tuple[str, int], list[float]] = {}
    for point in points:
        if point.omega == omega:
            cells.setdefault((point.way, point.timestep), []).append(point.mean_return)
    return {cell: mean_interval(returns) for cell, returns in cells.items()}


def curves(points: Sequence[Point], way: str, omega: float) -> dict[int, dict[int, float]]:
    """Return by timestep, for each seed."""
    found: dict[int, dict[int, float]] = {}
    for point in points:
        if (point.way, point.omega) == (way, omega):
            found.setdefault(point.seed, {})[point.timestep] = point.mean_return
    return found


def print_tables(points: Sequence[Point], options: argparse.Namespace) -> None:
    """Every timestep at the first ω; then what was gained since the hand-over, at every ω."""
    found = summary(points, options.omegas[0])
    print(f"\nreturn at ω = {options.omegas[0]:g}, mean and interval over {len(options.seeds)} seeds")
    columns = [BEFORE, *options.ways]
    print(" " * 9 + "".join(f"{way:>26}" for way in columns))
    for timestep in sorted({timestep for _, timestep in found}):
        cells = [found.get((way, timestep)) for way in columns]
        print(f"{timestep:9}" + "".join(f"{'' if cell is None else text(cell):>26}" for cell in cells))
    print("\ngained from the hand-over to the end, mean and interval over seeds, and every seed's")
    for omega in options.omegas:
        for way in options.ways:
            gains = gained(points, way, omega, options)
            each = ", ".join(f"{gain:+.2f}" for gain in gains)
            print(f"  ω = {omega:<4g} {way:<11} {text(mean_interval(gains))}   ({each})")
    if ALONE not in options.ways:
        return
    print("\nof which more than by as many updates on the data alone, seed by seed")
    for omega in options.omegas:
        alone = gained(points, ALONE, omega, options)
        for way in options.ways:
            if way != ALONE:
                pairs = zip(gained(points, way, omega, options), alone, strict=True)
                more = [gain - without for gain, without in pairs]
                each = ", ".join(f"{difference:+.2f}" for difference in more)
                print(f"  ω = {omega:<4g} {way:<11} {text(mean_interval(more))}   ({each})")


def gained(points: Sequence[Point], way: str, omega: float, options: argparse.Namespace) -> list[float]:
    """Return at the end less that at the hand-over, seed by seed."""
    at = {(point.way, point.seed, point.timestep): point.mean_return for point in points if point.omega == omega}
    end = options.offline + options.online
    return [at[way, seed, end] - at[BEFORE, seed, options.offline] for seed in options.seeds]


def text(interval: Interval) -> str:
    return f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def draw(points: Sequence[Point], metadata: dict[str, Any], options: argparse.Namespace) -> None:
    """Every seed's curve thin, their mean thick, the hand-over marked."""
    omega = options.omegas[0]
    with drawing(options.picture, 8.6, 4.8) as figure:
        axes = figure.subplots()
        handed_over = curves(points, BEFORE, omega)
        for index, way in enumerate([BEFORE, *options.ways]):
            colour = MUTED if way == BEFORE else COLOURS[index - 1]
            own = curves(points, way, omega)
            if way != BEFORE:
                own = {seed: {options.offline: handed_over[seed][options.offline], **own[seed]} for seed in own}
            for curve in own.values():
                axes.plot(list(curve), list(curve.values()), color=colour, linewidth=0.8, alpha=0.45)
            times = list(own[options.seeds[0]])
            means = [float(np.mean([curve[time] for curve in own.values()])) for time in times]
            axes.plot(times, means, color=colour, marker=MARKERS[index], markersize=5, linewidth=2.4, label=LABELS[way])
        axes.axvline(options.offline, color=MUTED, linestyle="--", linewidth=1.2)
        axes.axhline(metadata["agent_return_mean"], color=MUTED, linestyle=":", linewidth=1.2)
        axes.annotate(
            "the agent that recorded the data, in the end",
            (0.995, metadata["agent_return_mean"]),
            (0, 4),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            horizontalalignment="right",
            color=MUTED,
            fontsize=9,
        )
        # Untrained networks would push everything that is to be seen into a corner.
        trained = [point.mean_return for point in points if point.timestep > 0 and point.omega == omega]
        axes.set_ylim(min(trained) - 0.5, max(*trained, metadata["agent_return_mean"]) + 0.8)
        axes.annotate(
            "hand-over", (options.offline, min(trained) - 0.4), (5, 2), textcoords="offset points", color=MUTED
        )
        axes.set_xlabel("timesteps: updates on the data, then environment steps with one update each")
        axes.set_ylabel("return")
        axes.set_title(f"Reacher, {len(options.seeds)} seeds, ω = {omega:g}, N = 4")
        axes.legend(loc="lower right")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--offline", type=int, default=2667, help="updates on the data (the demo makes 8,000)")
    parser.add_argument("--online", type=int, default=4000, help="environment steps after them")
    parser.add_argument("--every", type=int, default=667, help="timesteps between evaluations")
    parser.add_argument("--episodes", type=int, default=30, help="of each evaluation")
    parser.add_argument("--omegas", type=float, nargs="+", default=[0.5, 0.0, 2.0], help="the first is drawn")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--width", type=int, default=128, help="of the three hidden layers")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None, help="write every point to this file")
    parser.add_argument("--picture", type=Path, default=None, help="draw the curves into this PNG file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    start, points = time.perf_counter(), []
    for seed in options.seeds:
        points += list(run(seed, options))
        print(f"seed {seed} done after {time.perf_counter() - start:.0f} s", flush=True)
    print_tables(points, options)
    if options.json is not None:
        written = {name: value for name, value in vars(options).items() if name not in ("json", "picture")}
        machine = {"python": platform.python_version(), "torch": torch.__version__}
        rows = [point._asdict() for point in points]
        options.json.write_text(json.dumps({"options": written, **machine, "points": rows}, indent=1) + "\n")
    if options.picture is not None:
        draw(points, load_dataset("demo/reacher-tqc-10k", device="cpu").metadata, options)


if __name__ == "__main__":
    main()
