"""Stands in for ``dipole_sb3.together`` and ``evaluation.evaluate_sweeps`` until they are there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stable_baselines3.common.type_aliases import MaybeCallback

from dipole_sb3.dipole import DIPOLE
from dipole_sb3.environment_pool import MakeEnv
from dipole_sb3.evaluation import SweepResult, evaluate_sweep

STACKABLE = (
    "seed",
    "beta",
    "shift",
    "gamma",
    "tau",
    "expectile",
    "learning_rate",
    "omega",
    "num_candidates",
    "explore_omega",
)


def learn_together(
    models: Sequence[DIPOLE],
    total_timesteps: int,
    callbacks: Sequence[MaybeCallback] | None = None,
    log_interval: int = 4,
    tb_log_name: str = "DIPOLE",
    reset_num_timesteps: bool = True,
    progress_bar: bool = False,
) -> list[DIPOLE]:
    """Each model's own ``learn``."""
    for model, callback in zip(models, callbacks or [None] * len(models), strict=True):
        model.learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
    return list(models)


def evaluate_sweeps(models: Sequence[DIPOLE], make_env: MakeEnv, **options: Any) -> list[SweepResult]:
    """Each model's own ``evaluate_sweep``."""
    return [evaluate_sweep(model, make_env, **options) for model in models]
