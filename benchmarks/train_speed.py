"""Updates per second of DIPOLE as a share of what this machine's matrix products allow, measured in the same run.

    python benchmarks/train_speed.py [--widths 128 256 512] [--threads 2] [--json FILE]

The bound: the floating-point operations of one update (counted from the layers' shapes, matrix products only) divided
by the rate at which this machine runs the widest product of the networks, [batch, width] × [width, width], through
torch.addmm, the call that a linear layer makes. Updates and products are timed in turns, and the median turn counts,
so that other load on the machine falls on both.

Operations of an update, with m = Σ in·out over a perceptron's layers and 2·batch·m operations a pass:
  sampler of the critics' target: K passes of v⁺;  target critics: 2 passes at s', 2 at s;
  training v⁺, v⁻, Q₁, Q₂, V: 3 passes each (forward, gradient of the input, gradient of the weights), less the input
  gradient of the first layer, which nobody needs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dipole_sb3 import OfflineReplayBuffer
from dipole_sb3.checks import require_box_actions
from dipole_sb3.policies import DIPOLEPolicy
from dipole_sb3.update import Objective, apply_update, draw_noise

DEPTH = 3


def update_operations(observation: int, action: int, width: int, batch: int, flow_steps: int) -> int:
    """Floating-point operations (two per multiply-add) of the matrix products in one update."""

    def products(inputs: int, outputs: int) -> tuple[int, int]:
        widths = [inputs, *[width] * DEPTH, outputs]
        layers = [a * b for a, b in pairwise(widths)]
        return sum(layers), layers[0]

    velocity, velocity_first = products(observation + action + 1, action)
    critic, critic_first = products(observation + action, 1)
    value, value_first = products(observation, 1)
    forward_only = flow_steps * velocity + 4 * critic
    trained = 3 * (2 * velocity + 2 * critic + value) - (2 * velocity_first + 2 * critic_first + value_first)
    return 2 * batch * (forward_only + trained)


def seconds_per_call(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def measure(
    observation: int, action: int, width: int, batch: int, flow_steps: int, compiled: bool, seconds: float, turns: int
) -> dict[str, Any]:
    """One row of the table: updates per second, the bound, their ratio."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    count = 10_000
    data = OfflineReplayBuffer.from_arrays(
        {
            "observations": random.normal(size=(count, observation)).astype(np.float32),
            "next_observations": random.normal(size=(count, observation)).astype(np.float32),
            "actions": random.uniform(-1, 1, (count, action)).astype(np.float32),
            "rewards": random.normal(size=count),
            "masks": np.ones(count),
        },
        device="cpu",
    )
    policy = DIPOLEPolicy(
        data.observation_space,
        require_box_actions(data.action_space),
        lambda _: 3e-4,
        [width] * DEPTH,
        flow_steps=flow_steps,
    )
    objective, generator = Objective(), torch.Generator().manual_seed(0)
    apply = torch.compile(apply_update) if compiled else apply_update

    def update() -> None:
        noise = draw_noise(batch, action, generator)
        apply(policy, policy.optimizer, data.draw(batch, generator), noise, objective)

    x, weight, bias = torch.randn(batch, width), torch.randn(width, width), torch.randn(width)

    def product() -> None:
        torch.addmm(bias, x, weight)

    for _ in range(5):
        update()
        product()
    updates_per_turn = max(1, round(seconds / turns / seconds_per_call(update, 3)))
    products_per_turn = max(1, round(seconds / turns / 4 / seconds_per_call(product, 50)))
    update_times, product_times = [], []
    for _ in range(turns):
        product_times.append(seconds_per_call(product, products_per_turn))
        update_times.append(seconds_per_call(update, updates_per_turn))
    operations = update_operations(observation, action, width, batch, flow_steps)
    rate = 2 * batch * width * width / statistics.median(product_times)
    update_seconds = statistics.median(update_times)
    return {
        "width": width,
        "batch": batch,
        "flow_steps": flow_steps,
        "observation": observation,
        "action": action,
        "compiled": compiled,
        "gflop_per_update": operations / 1e9,
        "product_gflop_per_second": rate / 1e9,
        "bound_updates_per_second": rate / operations,
        "updates_per_second": 1 / update_seconds,
        "ratio_to_bound": operations / rate / update_seconds,
    }


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
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--widths", type=int, nargs="+", default=[128, 256, 512], help="hidden widths (of three layers)"
    )
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--flow-steps", type=int, default=10)
    parser.add_argument("--observation", type=int, default=28)
    parser.add_argument("--action", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None, help="torch threads (default: torch's)")
    parser.add_argument("--seconds", type=float, default=10.0, help="measuring time for each row")
    parser.add_argument("--turns", type=int, default=9, help="alternations of updates and products")
    parser.add_argument("--compiled", action="store_true", help="also measure the update under torch.compile")
    parser.add_argument("--json", type=Path, default=None, help="write the same figures to this file")
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    machine = describe_machine()
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print(f"{'width':>6} {'mode':>9} {'GFLOP/update':>13} {'bound 1/s':>10} {'updates/s':>10} {'of bound':>9}")
    rows = []
    for width in options.widths:
        for compiled in [False, True] if options.compiled else [False]:
            row = measure(
                options.observation,
                options.action,
                width,
                options.batch,
                options.flow_steps,
                compiled,
                options.seconds,
                options.turns,
            )
            rows.append(row)
            print(
                f"{width:>6} {'compiled' if compiled else 'eager':>9} {row['gflop_per_update']:>13.3f} "
                f"{row['bound_updates_per_second']:>10.1f} {row['updates_per_second']:>10.1f} "
                f"{row['ratio_to_bound']:>9.2f}",
                flush=True,
            )
    if options.json is not None:
        options.json.write_text(json.dumps({"benchmark": "train_speed", **machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
