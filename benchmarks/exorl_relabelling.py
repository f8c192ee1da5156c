"""Steps of ExORL's recordings rewarded per second of one core, as a share of the environment's own steps per second.

    python benchmarks/exorl_relabelling.py [--turns 5] [--steps 200] [--json FILE]

In every turn an episode is played in the environment with random actions, written as ExORL publishes episodes, read
again and rewarded. Both are timed by the processor time of this one process, in turns, and the median turn counts, so
that other load on the machine falls on both. A recording's ten million steps take as long as the last column says,
divided by the cores.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from dipole_sb3.datasets.exorl.episodes import EpisodeFile, episode_name
from dipole_sb3.datasets.exorl.names import environment_id
from dipole_sb3.datasets.exorl.relabelling import Relabeller

TASKS = (("walker", "walk"), ("quadruped", "run"), ("cheetah", "run-backward"), ("jaco", "reach-top-left"))
RECORDING = 10_000_000


def measure(domain: str, task: str, turns: int, steps: int, folder: Path) -> dict[str, Any]:
    """Median seconds of an environment step and of a rewarded step."""
    environment, relabeller = gymnasium.make(environment_id(domain, task)), Relabeller(domain, task)
    environment.action_space.seed(0)
    stepping, rewarding = [], []
    for turn in range(turns + 1):
        actions = [environment.action_space.sample() for _ in range(steps)]
        observations = [environment.reset(seed=turn)[0]]
        physics = environment.unwrapped.physics  # type: ignore[attr-defined]
        states = [physics.get_state()]
        seconds = 0.0
        for action in actions:
            started = time.process_time()
            observation, *_ = environment.step(action)
            seconds += time.process_time() - started
            observations.append(observation)
            states.append(physics.get_state())
        file = EpisodeFile(folder / episode_name(turn, steps), turn, steps)
        np.savez_compressed(
            file.path,
            observation=np.stack(observations),
            action=np.stack([np.zeros_like(actions[0]), *actions]),
            reward=np.zeros((steps + 1, 1), np.float32),
            discount=np.ones((steps + 1, 1), np.float32),
            physics=np.stack(states),
        )
        started = time.process_time()
        relabeller.label(file)
        if turn > 0:  # the first one warms up
            rewarding.append((time.process_time() - started) / steps)
            stepping.append(seconds / steps)
    step, reward = statistics.median(stepping), statistics.median(rewarding)
    return {
        "domain": domain,
        "task": task,
        "environment_steps_per_second": 1 / step,
        "rewarded_steps_per_second": 1 / reward,
        "ratio_to_environment": step / reward,
        "minutes_per_recording": RECORDING * reward / 60,
    }


def describe_machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{names[0]} × {len(names)}" if names else platform.machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("dm_control", "mujoco")},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="episodes of each domain (default: 5)")
    parser.add_argument("--steps", type=int, default=200, help="of each episode (default: 200)")
    parser.add_argument("--json", type=Path, default=None, help="write the same figures to this file")
    options = parser.parse_args(arguments)
    machine = describe_machine()
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print(f"{'domain':>10} {'environment 1/s':>16} {'rewarded 1/s':>13} {'of environment':>15} {'min for 10M':>12}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for domain, task in TASKS:
            row = measure(domain, task, options.turns, options.steps, Path(folder))
            rows.append(row)
            print(
                f"{domain:>10} {row['environment_steps_per_second']:>16.0f} {row['rewarded_steps_per_second']:>13.0f} "
                f"{row['ratio_to_environment']:>15.2f} {row['minutes_per_recording']:>12.1f}",
                flush=True,
            )
    if options.json is not None:
        options.json.write_text(
            json.dumps({"benchmark": "exorl_relabelling", **machine, "rows": rows}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
