"""What it saves to compute the driving decoder's cross-attention keys and values once per sampling.

    python benchmarks/driving_sampling.py [--layers 12] [--plans 10] [--turns 3] [--device cpu] [--json FILE]

All ways sample the same plans of one scene with both adapters at ω = 1, in turns and in one process, with the keys and
values of 475 tokens computed once; at each of the ten steps; and at each step for each plan, as a decoder does that is
given a batch of plans with their tokens. The decoder has the paper's width and random weights; 12 layers are the
paper's size (1.9 GB in single precision).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from train_speed import describe_machine

from dipole_sb3.driving.model import diffusion
from dipole_sb3.driving.model.adapters import ADAPTERS
from dipole_sb3.driving.model.configuration import paper, tiny
from dipole_sb3.driving.model.encoder import Encoder
from dipole_sb3.driving.model.planner import Planner
from dipole_sb3.networks.flow import guide

OMEGA = 1.0


def sampled_anew(
    planner: Planner, tokens: Tensor, history: Tensor, noise: Tensor, steps: int, for_every_plan: bool
) -> Tensor:
    """As :meth:`Planner.sample`, but keys and values belong to the step, and to the plan where that is asked for."""
    if for_every_plan:
        tokens, history = tokens.expand(noise.shape[1], -1, -1), history.expand(noise.shape[1], -1, -1)
        return sampled_anew(planner, tokens, history, noise.transpose(0, 1), steps, False).transpose(0, 1)
    past = planner.normalised_history(history)

    def noise_in(x: Tensor, when: Tensor) -> Tensor:
        memory = planner.decoder.remember(tokens, ADAPTERS)
        positive, negative = planner.decoder(x[None], when[None, None], past, memory, ADAPTERS)
        return guide(positive, negative, OMEGA)

    return diffusion.sample(noise_in, noise, steps)


def timed(function: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    """Seconds, and what the function gives."""
    start = time.perf_counter()
    result = function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, result


@torch.no_grad()
def measure(layers: int, plans: int, turns: int, device: torch.device) -> dict[str, Any]:
    """Median seconds of all ways and their ratios, and how far their plans are apart."""
    torch.manual_seed(0)
    configuration = replace(paper(), layers=layers)
    planner = Planner(configuration, Encoder(tiny())).to(device)
    for parameter in planner.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    tokens = torch.randn(1, configuration.tokens, configuration.width, device=device)
    history, noise = torch.randn(1, 4, 3, device=device), torch.randn(1, plans, 8, 4, device=device)
    steps = configuration.steps
    ways: dict[str, Callable[[], Tensor]] = {
        "once": lambda: planner.sample(tokens, history, noise, OMEGA, ADAPTERS, steps),
        "at every step": lambda: sampled_anew(planner, tokens, history, noise, steps, False),
        "at every step for every plan": lambda: sampled_anew(planner, tokens, history, noise, steps, True),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    sampled: dict[str, Tensor] = {}
    for _ in range(turns):
        for name, way in ways.items():
            taken, sampled[name] = timed(way, device)
            times[name].append(taken)
    medians = {name: statistics.median(each) for name, each in times.items()}
    return {
        "seconds": medians,
        "ratios": {name: medians["once"] / each for name, each in medians.items() if name != "once"},
        "largest_difference": max(float((sampled["once"] - each).abs().max()) for each in sampled.values()),
        "parameters": sum(each.numel() for each in planner.decoder.parameters()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--plans", type=int, default=10)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    found = measure(options.layers, options.plans, options.turns, torch.device(options.device))
    report = {
        "options": {"layers": options.layers, "plans": options.plans, "turns": options.turns, "device": options.device},
        **describe_machine(),
        **found,
    }
    print(f"{options.plans} plans of one scene; largest difference {found['largest_difference']:.1g}")
    for name, taken in found["seconds"].items():
        share = f", once takes {found['ratios'][name]:.2f} of it" if name in found["ratios"] else ""
        print(f"keys and values {name}: {taken:.3g} s{share}")
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
