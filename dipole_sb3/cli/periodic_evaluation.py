"""Evaluation during training: at the first timestep, then at regular intervals, always on the same episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from dipole_sb3.common.files import replaced_when_complete
from dipole_sb3.common.intervals import Interval, mean_interval, proportion_interval
from dipole_sb3.common.profiler_sections import section
from dipole_sb3.evaluation.background_evaluation import BackgroundEvaluator
from dipole_sb3.evaluation.sweep import SweepResult
from dipole_sb3.learning.delayed_log import HeldLog
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm

EVALUATIONS = "evaluations/evaluations.npz"


class PeriodicEvaluation(BaseCallback):
    """Plays episodes with the model's own knob values during training; the file has the format of SB3's EvalCallback.

    There are three differences from EvalCallback. It counts timesteps, not calls, so the number of environments and
    interruptions do not move the evaluations. It does not change the state of any random generator. Training does not
    wait for it, except while an earlier evaluation is still running, before a checkpoint, after a phase and at the end
    of training. Files and log are the same as if training had waited for every evaluation.

    :param evaluator: plays the episodes; several models that learn side by side share one.
    :param every: number of timesteps between evaluations.
    :param phase_ends: additional timesteps at which to evaluate.
    :param path: the .npz file to write.
    """

    model: OfflineAlgorithm

    def __init__(self, evaluator: BackgroundEvaluator, every: int, phase_ends: set[int], path: Path) -> None:
        super().__init__()
        self._evaluator, self._every, self._phase_ends, self._path = evaluator, every, phase_ends, path
        self._timesteps: list[int] = []
        self._returns: list[np.ndarray] = []
        self._successes: list[np.ndarray] = []
        self._reached = 0

    def _on_training_start(self) -> None:
        self._reached = self.model.num_timesteps
        if self._reached and self._path.is_file():
            saved = np.load(self._path)
            # Later evaluations will be repeated.
            kept = saved["timesteps"] <= self._reached
            self._timesteps, self._returns = saved["timesteps"][kept].tolist(), list(saved["results"][kept])
            self._successes = list(saved["successes"][kept]) if "successes" in saved else []

    def _on_step(self) -> bool:
        with section("evaluation"):
            self._take_turn()
        return True

    def _take_turn(self) -> None:
        before, self._reached = self._reached, self.num_timesteps
        if before in self._phase_ends:
            self._evaluator.wait()
        else:
            self._evaluator.collect(self._reached)
        due = self._reached // self._every > before // self._every
        if due or any(before < timestep <= self._reached for timestep in {1, *self._phase_ends}):
            self._submit(self._reached)

    def _on_training_end(self) -> None:
        self._evaluator.wait()

    def _submit(self, timestep: int) -> None:
        held: HeldLog | None = None

        def deliver(result: SweepResult | None) -> None:
            assert held is not None
            held.finish({} if result is None else self._write(result, timestep))

        # submit() may wait for the previous evaluation, which holds the log until it ends.
        self._evaluator.submit(self.model, timestep, deliver)
        held = HeldLog(self.logger, timestep, self._evaluator.wait)

    def _write(self, result: SweepResult, timestep: int) -> dict[str, float]:
        """Adds a result to the file; returns the values to log."""
        self._timesteps.append(timestep)
        self._returns.append(result.returns[0])
        arrays = {"timesteps": np.array(self._timesteps), "results": np.array(self._returns)}
        values = {"eval/mean_reward": float(result.returns[0].mean())}
        if result.successes is not None:
            self._successes.append(result.successes[0])
            arrays["successes"] = np.array(self._successes)
            values["eval/success_rate"] = float(result.successes[0].mean())
        with replaced_when_complete(self._path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        return values


def phase_scores(paths: Sequence[Path], offline_steps: int) -> list[str]:
    """Results of the last evaluation of each phase, one line per phase; empty if a run was not evaluated.

    :param paths: evaluations.npz of one run (95 % intervals over its episodes) or of several (intervals over runs).
    :param offline_steps: timestep at which the first phase ended.
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
    """The mean with its interval; a single value has no interval."""
    mean, low, high = (format(scale * value, form) for value in interval)
    return mean if np.isnan(interval.low) else f"{mean} [{low}, {high}]"
