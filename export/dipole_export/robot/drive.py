"""Runs a Gymnasium environment from a bundle alone, as a robot's program would: torch cannot be imported here.

A program to run: ``python drive.py BUNDLE --env Reacher-v5 --omegas 0 2 --candidates 1 4``.
Prints one JSON object: returns and successes of every episode, [N][ω][episodes], and every action's latency in seconds.
Without ω or N the bundle uses its defaults; the bundle of a deterministic policy accepts neither.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

CANNOT_DRAW = 3
"""Exit status where a film is asked for and MuJoCo has no such renderer here."""

FORBIDDEN = ("torch", "stable_baselines3", "dipole_sb3", "dipole_export", "onnx", "onnxscript")


class CannotDrawError(Exception):
    """MuJoCo has no renderer here of the name that MUJOCO_GL has."""


def forbid(*packages: str) -> None:
    """Makes every later import of these packages fail, as if they were not installed."""
    for package in packages:
        sys.modules[package] = None  # type: ignore[assignment]


def main() -> int:
    forbid(*FORBIDDEN)
    from dipole_runtime import GuidedPolicy, GuidedPolicyError

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("--env", required=True, metavar="ID", help="Gymnasium's name of the environment: [module:]id")
    parser.add_argument("--env-kwargs", type=json.loads, default={}, metavar="JSON", help="arguments of gymnasium.make")
    parser.add_argument("--omegas", type=float, nargs="+", default=[None])
    parser.add_argument("--candidates", type=int, nargs="+", default=[None])
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the first episode, and of the noise")
    success = "success where this number of the last step's info is at least so large; none: what the environment says"
    parser.add_argument("--success", nargs=2, metavar=("KEY", "LEAST"), help=success)
    parser.add_argument("--film", metavar="FILE.npz", help="frames of one episode at each ω, instead of a table")
    parser.add_argument("--size", type=int, default=240, help="of a frame, in pixels")
    parser.add_argument("--every", type=int, default=2, help="steps between two frames")
    options = parser.parse_args()
    try:
        policy = GuidedPolicy.load(options.bundle)
        told = _filmed(policy, options) if options.film else _driven(policy, options)
    except GuidedPolicyError as error:
        print(f"drive.py: {error}", file=sys.stderr)
        return 1
    except CannotDrawError as error:
        print(error, file=sys.stderr)
        return CANNOT_DRAW
    print(json.dumps(told))
    return 0


def _driven(policy: Any, options: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    with _made(options) as env:
        played = [
            [_play(policy, env, omega, count, options, np.random.default_rng(options.seed)) for omega in options.omegas]
            for count in options.candidates
        ]
    names = ("returns", "successes", "latencies_s")
    return {name: [[cell[index] for cell in row] for row in played] for index, name in enumerate(names)}


@contextmanager
def _made(options: argparse.Namespace, **more: Any) -> Iterator[Any]:
    import gymnasium

    env = gymnasium.make(options.env, **options.env_kwargs, **more)
    try:
        yield env
    finally:
        env.close()


@contextmanager
def _drawn(options: argparse.Namespace) -> Iterator[Any]:
    """An environment that renders.

    :raises CannotDrawError: before anything is played.
    """
    from gymnasium.error import Error

    with ExitStack() as opened:
        try:
            made = _made(options, render_mode="rgb_array", width=options.size, height=options.size)
            env = opened.enter_context(made)
            env.reset(seed=options.seed)
            env.render()
        except Error:  # no environment of that name, not a matter of drawing
            raise
        except Exception as error:  # each renderer fails in its own way, some with errors that have no text
            raise CannotDrawError(traceback.format_exception_only(error)[-1].strip()) from error
        yield env


def _play(
    policy: Any, env: Any, omega: float | None, candidates: int | None, options: argparse.Namespace, rng: Any
) -> tuple[list[float], list[bool | None], list[float]]:
    """Returns and successes of the episodes, and the latencies of their actions in seconds."""
    returns, successes, latencies = [], [], []
    for episode in range(options.episodes):
        total = 0.0
        last: dict[str, Any] = {}
        for reward, answer, info in _steps(policy, env, options.seed + episode, omega, candidates, rng):
            total, last = total + reward, info
            latencies.append(answer.latency_s)
        returns.append(total)
        successes.append(_success(last, options.success))
    return returns, successes, latencies


def _steps(policy: Any, env: Any, seed: int, omega: float | None, candidates: int | None, rng: Any) -> Iterator[Any]:
    """One episode: the reward, the policy's answer and the environment's info of every step."""
    import numpy as np

    # Some environments draw from the global generator: an episode is the same whatever was played before.
    np.random.seed(seed)
    observation, _ = env.reset(seed=seed)
    over = False
    while not over:
        answer = policy.act(observation, omega=omega, rng=rng, num_candidates=candidates)
        observation, reward, terminated, truncated, info = env.step(answer.action)
        over = terminated or truncated
        yield float(reward), answer, info


def _success(info: dict[str, Any], told: list[str] | None) -> bool | None:
    if told is not None:
        key, least = told
        if key not in info:
            raise SystemExit(f"drive.py: the environment's info has no {key!r}, expected by --success")
        return bool(info[key] >= float(least))
    found = info.get("success", info.get("is_success"))
    return None if found is None else bool(found)


def _filmed(policy: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Writes the frames of the first start that fails at the first ω and succeeds at the last; else of the first one.

    Each ω's episode goes on to its own end; frames have the shape [ω, time, height, width, 3], the last one is held.
    """
    import numpy as np

    def played(env: Any, episode: int, omega: float | None, frames: list[Any] | None = None) -> dict[str, Any]:
        rng = np.random.default_rng(options.seed + episode)
        last: dict[str, Any] = {}
        clock = []  # the simulator's; an environment may let time pass before the first step
        for steps, (_, _, info) in enumerate(
            _steps(policy, env, options.seed + episode, omega, options.candidates[0], rng), start=1
        ):
            last = info
            clock.append(float(env.unwrapped.data.time))
            if frames is not None and steps % options.every == 0:
                frames.append(env.render())
        step = (clock[-1] - clock[0]) / max(len(clock) - 1, 1)
        return {"success": _success(last, options.success), "seconds": step * len(clock), "seconds_of_a_step": step}

    first, best = options.omegas[0], options.omegas[-1]
    with _drawn(options) as env:
        chosen = 0
        for episode in range(options.episodes):
            if not played(env, episode, first)["success"] and played(env, episode, best)["success"]:
                chosen = episode
                break
        films: list[list[Any]] = [[] for _ in options.omegas]
        ends = [played(env, chosen, omega, frames) for omega, frames in zip(options.omegas, films, strict=True)]
    longest = max(map(len, films))
    frames = np.stack([np.stack(film + [film[-1]] * (longest - len(film))) for film in films])
    np.savez_compressed(options.film, frames=frames)
    return {"episode": chosen, "every": options.every, "ends": ends}


if __name__ == "__main__":
    sys.exit(main())
