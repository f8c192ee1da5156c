"""How far guidance is from the policy it aims at, π* ∝ μ·σ(βG)·exp(ωβG), where all of it can be computed.

    python benchmarks/guidance_bias.py [--seed 0] [--json FILE] [--pictures FOLDER]

The problem is the one of guidance_toy.py: one action, two states, known data μ and advantage G, β = 2. Columns:

  π*        mean, standard deviation, mean advantage, share outside the data;
  ODE       the same for guidance with the exact fields of π⁺ and π⁻, integrated finely: what training aims at;
  trained   the same for a trained pair (64×3) and the package's sampler with 10 steps;
  W1        Wasserstein-1 distances between them. ODE to π*: the bias of guidance itself. Trained to ODE: what learning
            and few flow steps add, with 10 steps and, to tell the two apart, with 128.

All actions are clipped to [−1, 1], as the policy clips them. "Outside" is the share of actions where the data's density
is so low that only 0.1 % of the data lies in such places. A second table takes the best of N guided actions by the
known G: rejection sampling with a perfect critic.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import guidance_toy as toy
import torch
from torch import Tensor

from dipole_sb3.networks.velocities import VelocityPair

COUNT = 4000
FLOW_STEPS, FINE_STEPS = 10, 128
OMEGAS = (-1.0, 0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
CANDIDATES = (1, 4, 16)
CANDIDATE_OMEGAS = (0.0, 0.5, 2.0)


@dataclass(frozen=True)
class Summary:
    """Mean, spread, mean advantage and share outside the data of one distribution of actions."""

    mean: float
    std: float
    advantage: float
    outside: float


def density_floor() -> float:
    """The mass per grid cell below which the thinnest 0.1 % of the data lies."""
    ascending = toy.data_mass().sort().values
    return float(ascending[int((ascending.cumsum(0) < 0.001).sum())])


def summarize(state: toy.State, actions: Tensor, weights: Tensor | None = None) -> Summary:
    """Summary of equally (or otherwise) weighted actions, shape [count]."""
    if weights is None:
        weights = torch.full_like(actions, 1.0 / len(actions))
    cell = ((actions - toy.GRID[0]) / (toy.GRID[1] - toy.GRID[0])).round().long()
    outside = (toy.data_mass()[cell] < density_floor()).double()
    mean = (weights * actions).sum()
    return Summary(
        mean.item(),
        (weights * (actions - mean).square()).sum().sqrt().item(),
        (weights * state.advantage(actions)).sum().item(),
        (weights * outside).sum().item(),
    )


def best_of(state: toy.State, actions: Tensor, candidates: int) -> Summary:
    """Summary of the best by G of N draws: the action of rank r among n is it with (r/n)^N − ((r − 1)/n)^N."""
    ranks = state.advantage(actions).argsort().argsort().double()
    count = len(actions)
    return summarize(state, actions, ((ranks + 1) / count) ** candidates - (ranks / count) ** candidates)


@dataclass(frozen=True)
class Row:
    """One state at one ω; the quantiles are kept for the pictures."""

    state: str
    omega: float
    optimal: Summary
    exact: Summary
    trained: Summary
    exact_mean_before_clipping: float
    exact_to_optimal: float
    trained_to_exact: float
    fine_trained_to_exact: float
    trained_to_optimal: float


def measure(state: toy.State, omega: float, pair: VelocityPair) -> tuple[Row, dict[str, Tensor]]:
    """A row of the table, and the quantiles of the three distributions."""
    optimal = toy.quantiles(toy.optimal_mass(state, omega), COUNT).clamp(-1, 1)
    free = toy.guided_quantiles(state, omega, COUNT)
    exact = free.clamp(-1, 1)
    trained = toy.sampled_quantiles(pair, state, omega, COUNT, FLOW_STEPS)
    row = Row(
        state.name,
        omega,
        summarize(state, optimal),
        summarize(state, exact),
        summarize(state, trained),
        free.mean().item(),
        toy.wasserstein(exact, optimal),
        toy.wasserstein(trained, exact),
        toy.wasserstein(toy.sampled_quantiles(pair, state, omega, COUNT, FINE_STEPS), exact),
        toy.wasserstein(trained, optimal),
    )
    return row, {"optimal": optimal, "exact": exact, "trained": trained}


def print_table(rows: Sequence[Row]) -> None:
    """The rows as text, one block a state."""
    names = ("π*", "ODE", "trained")
    print(" " * 12 + "".join(f"{name:^27}" for name in names) + f"{'W1':^41}")
    print(
        f"{'state':>5} {'ω':>5} "
        + "".join(f" {'mean':>6} {'std':>5} {'G':>6} {'out %':>5} " for _ in names)
        + f" {'ODE-π*':>7} {'trained-ODE':>11} {'(128 steps)':>11} {'trained-π*':>10}"
    )
    for row in rows:
        parts = "".join(
            f" {part.mean:>6.3f} {part.std:>5.3f} {part.advantage:>6.3f} {100 * part.outside:>5.1f} "
            for part in (row.optimal, row.exact, row.trained)
        )
        print(
            f"{row.state:>5} {row.omega:>5.1f} {parts} {row.exact_to_optimal:>7.3f} {row.trained_to_exact:>11.3f} "
            f"{row.fine_trained_to_exact:>11.3f} {row.trained_to_optimal:>10.3f}"
        )


def candidate_rows(actions: dict[tuple[str, float], dict[str, Tensor]]) -> list[dict[str, Any]]:
    """Best of N actions of the exact guided policy, for every state, ω and N."""
    return [
        {
            "state": state.name,
            "omega": omega,
            "num_candidates": candidates,
            **asdict(best_of(state, actions[state.name, omega]["exact"], candidates)),
        }
        for state in toy.STATES
        for omega in CANDIDATE_OMEGAS
        for candidates in CANDIDATES
    ]


def print_candidates(rows: Sequence[dict[str, Any]]) -> None:
    """The rows of the second table as text."""
    print(
        f"\n{'state':>5} {'ω':>5} {'N':>3} {'mean':>6} {'std':>6} {'G':>6} {'out %':>6}   best of N actions of the ODE"
    )
    for row in rows:
        print(
            f"{row['state']:>5} {row['omega']:>5.1f} {row['num_candidates']:>3} {row['mean']:>6.3f} {row['std']:>6.3f} "
            f"{row['advantage']:>6.3f} {100 * row['outside']:>6.1f}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the trained pair")
    parser.add_argument("--json", type=Path, default=None, help="write the same figures to this file")
    parser.add_argument("--pictures", type=Path, default=None, help="folder for the two pictures")
    options = parser.parse_args(arguments)

    pair = toy.train_pair(options.seed)
    measured = [measure(state, omega, pair) for state in toy.STATES for omega in OMEGAS]
    rows = [row for row, _ in measured]
    actions = {(row.state, row.omega): parts for row, parts in measured}
    print_table(rows)
    candidates = candidate_rows(actions)
    print_candidates(candidates)
    if options.json is not None:
        figures = {
            "benchmark": "guidance_bias",
            "date": datetime.date.today().isoformat(),
            "torch": torch.__version__,
            "seed": options.seed,
            "beta": toy.BETA,
            "flow_steps": FLOW_STEPS,
            "fine_flow_steps": FINE_STEPS,
            "rows": [asdict(row) for row in rows],
            "best_of_candidates": candidates,
        }
        unfinished = options.json.with_name(options.json.name + ".part")
        unfinished.write_text(json.dumps(figures, indent=2) + "\n")
        os.replace(unfinished, options.json)
    if options.pictures is not None:
        from guidance_pictures import draw_densities, draw_over_omega  # matplotlib, only where it is asked for

        draw_densities(actions, options.pictures / "guidance-densities.png", FLOW_STEPS)
        draw_over_omega(rows, options.pictures / "guidance-over-omega.png")


if __name__ == "__main__":
    main()
