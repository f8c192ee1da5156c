"""Evaluation while training: at the first timestep, then every so many, always of the same episodes."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from dipole_sb3.datasets import make_env
from dipole_sb3.evaluation import evaluate_sweep
from dipole_sb3.intervals import Interval, mean_interval, proportion_interval
from dipole_sb3.persistence import replaced_when_complete
from dipole_sb3.sections import section

if TYPE_CHECKING:
    from dipole_sb3.dipole import DIPOLE

EVALUATIONS = "evaluations/evaluations.npz"


class PeriodicEvaluation(BaseCallback):
    """Plays ``episodes`` episodes at the model's ω and N, and leaves their returns where SB3's EvalCallback does.

    Unlike EvalCallback it counts timesteps, not calls, so that several environments and interruptions do not move the
    evaluations; and it leaves every random generator as it was.

    :param env: name for :func:`dipole_sb3.datasets.make_env`.
    :param every: timesteps between evaluations.
    :param also_at: further timesteps to evaluate at: the end of a phase, say.
    :param episodes: of each evaluation.
    :param seed: of the first episode.
    :param processes: as in :func:`~dipole_sb3.evaluation.evaluate_sweep`.
    :param path: the .npz file.
    """

    model: DIPOLE

    def __init__(
        self, env: str, every: int, also_at: set[int], episodes: int, seed: int, processes: int | None, path: Path
    ) -> None:
        super().__init__()
        self._make_env = functools.partial(make_env, env)
        self._every, self._also_at = every, {1, *also_at}
        self._episodes, self._seed, self._processes, self._path = episodes, seed, processes, path
        self._timesteps: list[int] = []
        self._returns: list[np.ndarray] = []
        self._successes: list[np.ndarray] = []
        self._reached = 0

    def _on_training_start(self) -> None:
        self._reached = self.model.num_timesteps
        if self._reached and self._path.is_file():
            saved = np.load(self._path)
            # What lies beyond will be made again.
            kept = saved["timesteps"] <= self._reached
            self._timesteps, self._returns = saved["timesteps"][kept].tolist(), list(saved["results"][kept])
            self._successes = list(saved["successes"][kept]) if "successes" in saved else []

    def _on_step(self) -> bool:
        before, self._reached = self._reached, self.num_timesteps
        due = self._reached // self._every > before // self._every
        if due or any(before < timestep <= self._reached for timestep in self._also_at):
            with section("evaluation"):
                self._evaluate()
        return True

    def _evaluate(self) -> None:
        result = evaluate_sweep(
            self.model,
            self._make_env,
            omegas=[self.model.omega],
            num_candidates=[self.model.num_candidates],
            episodes=self._episodes,
            seed=self._seed,
            processes=self._processes,
        )
        self._timesteps.append(self.num_timesteps)
        self._returns.append(result.returns[0])
        arrays = {"timesteps": np.array(self._timesteps), "results": np.array(self._returns)}
        self.logger.record("eval/mean_reward", float(result.returns[0].mean()))
        if result.successes is not None:
            self._successes.append(result.successes[0])
            arrays["successes"] = np.array(self._successes)
            self.logger.record("eval/success_rate", float(result.successes[0].mean()))
        with replaced_when_complete(self._path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)


def phase_scores(paths: Sequence[Path], offline_steps: int) -> list[str]:
    """What the evaluations say that end the two phases, one line each; nothing where a run was not evaluated.

    :param paths: evaluations.npz of one run, whose intervals are over episodes, or of several, then over runs.
    :param offline_steps: where the first phase ended.
    """
    if not all(path.is_file() for path in paths):
        return []
    runs = [dict(np.load(path)) for path in paths]
    lines = []
    for phase, first, last in (("offline", 0, offline_steps), ("online", offline_steps + 1, np.inf)):
        ends = []
        for run in runs:
            inside = np.flatnonzero((run["timesteps"] >= first) & (run["timesteps"] <= last))
            ends.append(inside[-1] if len(inside) else None)
        if None not in ends:
            timesteps = sorted({int(run["timesteps"][end]) for run, end in zip(runs, ends, strict=True)})
            at = ", ".join(map(str, timesteps))
            lines.append(f"after the {phase} phase (timestep {at}): {_score(runs, ends)}")
    return lines


def _score(runs: Sequence[Mapping[str, np.ndarray]], ends: Sequence[Any]) -> str:
    returns = [run["results"][end] for run, end in zip(runs, ends, strict=True)]
    values = returns[0] if len(runs) == 1 else np.array([each.mean() for each in returns])
    score = f"return {_with_bounds(mean_interval(values.tolist()), 1, '.2f')}"
    if all("successes" in run for run in runs):
        successes = [run["successes"][end] for run, end in zip(runs, ends, strict=True)]
        rate = (
            proportion_interval(int(successes[0].sum()), len(successes[0]))
            if len(runs) == 1
            else mean_interval([float(each.mean()) for each in successes])
        )
        score = f"success {_with_bounds(rate, 100, '.0f')} %, {score}"
    return score


def _with_bounds(interval: Interval, scale: float, form: str) -> str:
    """A single value has no bounds."""
    mean, low, high = (format(scale * value, form) for value in interval)
    return mean if np.isnan(interval.low) else f"{mean} [{low}, {high}]"
