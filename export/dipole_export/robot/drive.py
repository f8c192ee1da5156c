"""Runs a Gymnasium environment from a bundle alone, as a robot's program would: torch cannot be imported here.

A program to run, not a module to import: ``python drive.py BUNDLE --env Reacher-v5 --omegas 0 2 --candidates 1 4``.
Prints one JSON object: the returns of every episode, [N][ω][episodes], and the latencies of every action in seconds.
Without ω or N the bundle uses its defaults; the bundle of a deterministic policy accepts neither.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

FORBIDDEN = ("torch", "stable_baselines3", "dipole_sb3", "dipole_export", "onnx", "onnxscript")


def forbid(*packages: str) -> None:
    """Makes every later import of these packages fail, as if they were not installed."""
    for package in packages:
        sys.modules[package] = None  # type: ignore[assignment]


def main() -> int:
    forbid(*FORBIDDEN)
    import gymnasium
    import numpy as np
    from dipole_runtime import GuidedPolicy, GuidedPolicyError

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("--env", required=True, metavar="ID", help="Gymnasium's name of the environment")
    parser.add_argument("--omegas", type=float, nargs="+", default=[None])
    parser.add_argument("--candidates", type=int, nargs="+", default=[None])
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the first episode, and of the noise")
    options = parser.parse_args()

    env = gymnasium.make(options.env)
    try:
        policy = GuidedPolicy.load(options.bundle)
        played = [
            [_play(policy, env, omega, count, options, np.random.default_rng(options.seed)) for omega in options.omegas]
            for count in options.candidates
        ]
    except GuidedPolicyError as error:
        print(f"drive.py: {error}", file=sys.stderr)
        return 1
    finally:
        env.close()
    returns = [[cell[0] for cell in row] for row in played]
    latencies = [[cell[1] for cell in row] for row in played]
    print(json.dumps({"returns": returns, "latencies_s": latencies}))
    return 0


def _play(
    policy: Any, env: Any, omega: float | None, candidates: int | None, options: argparse.Namespace, rng: Any
) -> tuple[list[float], list[float]]:
    """Returns of the episodes, and the latencies of their actions in seconds."""
    returns, latencies = [], []
    for episode in range(options.episodes):
        observation, _ = env.reset(seed=options.seed + episode)
        total, over = 0.0, False
        while not over:
            answer = policy.act(observation, omega=omega, rng=rng, num_candidates=candidates)
            latencies.append(answer.latency_s)
            observation, reward, terminated, truncated, _ = env.step(answer.action)
            total += float(reward)
            over = terminated or truncated
        returns.append(total)
    return returns, latencies


if __name__ == "__main__":
    sys.exit(main())
