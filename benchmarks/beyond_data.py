"""Why success falls at large ω: how far a run's actions are from what was recorded in such states, against ω.

    python benchmarks/beyond_data.py RUN [RUN …] [--png FILE] [--json FILE]

For recorded states, actions are drawn at every ω of the run's table of success, with N = 1. Beside success:

  distance   from the drawn action to the nearest of the actions recorded in the 50 most similar states, as a multiple
             of the distance that recorded actions themselves have (similar: Euclidean, each number of the observation
             divided by its standard deviation); 1 is inside the data
  at bound   share of the actions' numbers that are at the end of their range, −1 or 1, where the flow was cut
  Q          min(Q₁, Q₂) of the drawn action, less that of the recorded one: what the critics promise
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from train_speed import describe_machine

from dipole_sb3 import load_dataset
from dipole_sb3.cli import run_folder
from dipole_sb3.cli.models import load_model
from dipole_sb3.common.random_state import seeded_torch
from dipole_sb3.plots.drawing import COLOURS, MARKERS, drawing

STATES, NEIGHBOURS = 1000, 50
AT_BOUND = 0.999


@dataclass
class Row:
    """One ω of one run; success with its 95 % interval, all else means over states."""

    omega: float
    success: float
    low: float
    high: float
    distance: float
    at_bound: float
    q_gain: float


def rows_of(run: Path, seed: int = 0) -> tuple[dict[str, Any], list[Row]]:
    """The run's settings and its rows."""
    config = run_folder.read_config(run)
    model: Any = load_model(run / run_folder.MODEL, device="cpu")
    dataset: Any = load_dataset(config.task.dataset, device="cpu", dataset_dir=config.task.get("dataset_dir"))
    observations = np.asarray(dataset.observations[: dataset.size(), 0], np.float32)
    actions = np.asarray(dataset.actions[: dataset.size(), 0], np.float32)
    chosen = np.random.default_rng(seed).choice(len(observations), STATES, replace=False)
    near = neighbours(observations, chosen)
    itself = nearest(actions[chosen], actions[near])
    found = []
    with open(next(run.glob("omega_*.csv")), newline="") as file:
        table = [row for row in csv.DictReader(file) if int(row.get("num_candidates", 1)) == 1]
    model.policy.set_training_mode(False)
    states = torch.as_tensor(observations[chosen])
    recorded = q_of(model, states, torch.as_tensor(actions[chosen]))
    for line in table:
        omega = float(line["omega"])
        with seeded_torch(seed):
            drawn, _ = model.predict(observations[chosen], omega=omega, num_candidates=1)
        drawn = model.policy.scale_action(drawn)
        found.append(
            Row(
                omega,
                float(line["success_mean"]),
                float(line["success_low"]),
                float(line["success_high"]),
                float(nearest(drawn, actions[near]).mean() / itself.mean()),
                float((np.abs(drawn) > AT_BOUND).mean()),
                float((q_of(model, states, torch.as_tensor(drawn)) - recorded).mean()),
            )
        )
    facts = {"run": run.name, "beta": config.algo.beta, "seed": config.seed, "updates": config.offline_steps}
    return facts, sorted(found, key=lambda row: row.omega)


def neighbours(observations: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Indices of the most similar recorded states, itself not among them; shape [chosen, neighbours]."""
    scaled = torch.as_tensor(observations / np.maximum(observations.std(0), 1e-6))
    distances = torch.cdist(scaled[chosen], scaled)
    distances[torch.arange(len(chosen)), torch.as_tensor(chosen)] = torch.inf
    return distances.topk(NEIGHBOURS, largest=False).indices.numpy()


def nearest(actions: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Distance from each action [states, action] to the nearest of its candidates [states, candidates, action]."""
    found: np.ndarray = np.linalg.norm(candidates - actions[:, None], axis=-1).min(1)
    return found


def q_of(model: Any, states: torch.Tensor, actions: torch.Tensor) -> np.ndarray:
    """min(Q₁, Q₂), shape [states]."""
    with torch.no_grad():
        found: np.ndarray = model.policy.q_values(states, actions).numpy()
    return found


def draw(runs: Sequence[tuple[dict[str, Any], list[Row]]], path: Path) -> None:
    """Three panels over ω, a line for each run."""
    panels = (
        ("success", "success, N = 1"),
        ("distance", "distance to recorded actions\n(1: their own)"),
        ("q_gain", "Q, less that of\nthe recorded action"),
    )
    with drawing(path, 11.0, 3.6) as figure:
        grid = figure.subplots(1, len(panels))
        for axes, (name, title) in zip(grid, panels, strict=True):
            for (facts, rows), colour, marker in zip(runs, COLOURS, MARKERS, strict=False):
                omegas = [row.omega for row in rows]
                label = f"β = {facts['beta']:g}"
                axes.plot(omegas, [getattr(row, name) for row in rows], color=colour, marker=marker, label=label)
                if name == "success":
                    axes.fill_between(
                        omegas, [r.low for r in rows], [r.high for r in rows], color=colour, alpha=0.15, linewidth=0
                    )
            axes.set(title=title, xlabel="greediness ω")
        grid[0].set_ylim(0, 1)
        if len(runs) > 1:
            grid[0].legend()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of dipole train or dipole demo")
    parser.add_argument("--png", type=Path, help="draw the same")
    parser.add_argument("--json", type=Path, help="write the same figures")
    options = parser.parse_args()
    found = [rows_of(run) for run in options.runs]
    for facts, rows in found:
        print(", ".join(f"{key} {value}" for key, value in facts.items()))
        print(f"{'ω':>5} {'success':>18} {'distance':>9} {'at bound':>9} {'Q':>8}")
        for row in rows:
            success = f"{row.success:.2f} [{row.low:.2f}, {row.high:.2f}]"
            print(f"{row.omega:5g} {success:>18} {row.distance:9.2f} {row.at_bound:9.3f} {row.q_gain:8.3f}")
    if options.png:
        draw(found, options.png)
    if options.json:
        runs = [{**facts, "rows": [asdict(row) for row in rows]} for facts, rows in found]
        machine = describe_machine()
        options.json.write_text(json.dumps({"benchmark": "beyond_data", **machine, "runs": runs}, indent=2) + "\n")


if __name__ == "__main__":
    main()
