"""Pruning by Optuna: a trial whose evaluations look bad ends early."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter

_current: optuna.Trial | None = None
"""The trial of the :func:`pruned_by` that is open."""


@contextmanager
def pruned_by(trial: optuna.Trial) -> Iterator[None]:
    """Runs with ``callbacks=optuna`` in this block report to the trial.

    :param trial: what Optuna gave the objective.
    :raises optuna.TrialPruned: at the end of the block, if the trial was pruned in it.
    """
    global _current
    before, _current = _current, trial
    try:
        yield
    finally:
        _current = before
    if trial.user_attrs.get(_PRUNED):
        raise optuna.TrialPruned


_PRUNED = "pruned_by_dipole_sb3"


class PruneTrial(BaseCallback):
    """Reports every value of a logged quantity to a trial of Optuna, and ends training when Optuna prunes the trial.

    In Python, it stands in ``learn(callback=[…])`` behind the callback that evaluates, e.g. SB3's EvalCallback.

    :param trial: None: that of :func:`pruned_by`.
    :param metric: name of the quantity in the log, ``"eval/mean_reward"`` or ``"eval/success_rate"``.
    :param run_config: configuration of the run, if there is one.
    :raises ValueError: there is no trial, or the run is not evaluated while it learns.
    """

    def __init__(
        self,
        trial: optuna.Trial | None = None,
        metric: str = "eval/mean_reward",
        run_config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        found = trial or _current
        if found is None:
            raise ValueError(
                "there is no trial of Optuna here; expected the command inside of `with pruned_by(trial):`"
            )
        if run_config is not None and metric.startswith("eval/") and not run_config["eval_freq"]:
            raise ValueError(f"{metric} is never logged with eval_freq=0; expected eval_freq=N")
        self.trial, self.metric = found, metric
        self._rows: list[tuple[int, float]] = []

    def _on_training_start(self) -> None:
        if not any(isinstance(each, _Rows) and each.rows is self._rows for each in self.logger.output_formats):
            self.logger.output_formats.append(_Rows(self.metric, self._rows))

    def _on_step(self) -> bool:
        if not self._report():
            return True
        if self.trial.should_prune():
            self.trial.set_user_attr(_PRUNED, True)
            print(f"Optuna prunes trial {self.trial.number} after {self.num_timesteps} timesteps")
            return False
        return True

    def _on_training_end(self) -> None:
        self._report()

    def _report(self) -> bool:
        """Reports what has been logged since the last call; returns whether there was anything."""
        rows, self._rows[:] = list(self._rows), []
        for step, value in rows:
            self.trial.report(value, step)
        return bool(rows)


class _Rows(KVWriter):
    """Keeps the values of one quantity; they may be logged later than at their timestep."""

    def __init__(self, metric: str, rows: list[tuple[int, float]]) -> None:
        self.metric, self.rows = metric, rows

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        if self.metric in key_values:
            self.rows.append((step, float(key_values[self.metric])))

    def close(self) -> None:
        """Nothing is open."""
