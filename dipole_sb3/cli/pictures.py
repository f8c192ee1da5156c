"""Pictures that a run leaves in its folder."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from dipole_sb3.cli import run_folder
from dipole_sb3.datasets import make_env

if TYPE_CHECKING:
    from dipole_sb3.algorithms.dipole.algorithm import DIPOLE
    from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
    from dipole_sb3.evaluation.sweep import SweepResult

SWEEP = "omega_sweep.png"
CURVES = "curves.png"
WEIGHTS = "weights.png"
PATHS = "paths.png"
ACTIONS = "actions.png"

SHOWN_OMEGA = 2.0
"""Of the guided policy in actions.png."""


def require_matplotlib(config: DictConfig) -> None:
    """Refuses, before hours of work, to draw pictures without the package that draws them.

    :raises ValueError: pictures are wanted and matplotlib is not there.
    """
    if config.pictures and importlib.util.find_spec("matplotlib") is None:
        raise ValueError(
            "matplotlib is not installed; pip install 'dipole-sb3[plots]' to draw pictures, or give pictures=false"
        )


def draw_sweep(result: SweepResult, folder: Path, dataset_facts: Mapping[str, Any]) -> Path:
    """Return over ω.

    :param dataset_facts: ``data_return_mean`` and ``agent_return_mean``, where known, become lines.
    """
    from dipole_sb3 import plots

    plots.plot_omega_sweep(
        result,
        folder / SWEEP,
        data_return=dataset_facts.get("data_return_mean"),
        agent_return=dataset_facts.get("agent_return_mean"),
    )
    return folder / SWEEP


def draw_training(model: DIPOLE, dataset: OfflineReplayBuffer, folder: Path, offline_steps: int) -> list[Path]:
    """Learning curves, with the hand-over to the environment, and the weights that the data has in the end."""
    from dipole_sb3 import plots

    plots.plot_curves(folder / run_folder.PROGRESS, folder / CURVES, offline_steps=offline_steps)
    plots.plot_weights(model, dataset, folder / WEIGHTS)
    return [folder / CURVES, folder / WEIGHTS]


def draw_acting(model: DIPOLE, dataset: OfflineReplayBuffer, config: DictConfig, folder: Path) -> list[Path]:
    """What ω does to paths and to the actions of one state, one action drawn per step."""
    from dipole_sb3 import plots

    make = functools.partial(make_env, config.task.env)
    plots.plot_paths(model, make, folder / PATHS, omegas=list(config.omegas), num_candidates=1)
    plots.plot_actions(model, plots.choose_observation(model, dataset), folder / ACTIONS, omega=SHOWN_OMEGA)
    return [folder / PATHS, folder / ACTIONS]
