"""Draws pictures into the folder of a run."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from dipole_sb3.cli import run_folder
from dipole_sb3.cli.environments import task_env
from dipole_sb3.cli.options import grid_of

if TYPE_CHECKING:
    from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
    from dipole_sb3.evaluation.sweep import SweepResult
    from dipole_sb3.learning.knobs import Knob
    from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm

CURVES = "curves.png"
WEIGHTS = "weights.png"
PATHS = "paths.png"
ARM = "arm.gif"
ACTIONS = "actions.png"

_SHOWN = 2.0
"""Value of the first knob in actions.png, besides the values that have a name."""


def require_matplotlib(config: DictConfig) -> None:
    """Checks for matplotlib at the start, not after hours of work.

    :raises ValueError: pictures are requested but matplotlib is not installed.
    """
    if config.pictures and importlib.util.find_spec("matplotlib") is None:
        raise ValueError(
            "matplotlib is not installed; pip install 'dipole-sb3[plots]' to draw pictures, or give pictures=false"
        )


def draw_sweep(result: SweepResult, path: Path, dataset_facts: Mapping[str, Any]) -> None:
    """Draws the return over the knob values.

    :param path: PNG file.
    :param dataset_facts: ``data_return_mean`` and ``agent_return_mean``, if known, are drawn as lines.
    """
    from dipole_sb3 import plots

    plots.plot_sweep(
        result,
        path,
        data_return=dataset_facts.get("data_return_mean"),
        agent_return=dataset_facts.get("agent_return_mean"),
    )


def draw_training(
    model: OfflineAlgorithm, dataset: OfflineReplayBuffer, folder: Path, offline_steps: int
) -> list[Path]:
    """Draws learning curves, with the switch to the environment marked, and the final weights of the data, if any.

    A run that ended before its first row in the log has no curves.
    """
    from dipole_sb3 import plots

    drawn = []
    if run_folder.has_curves(folder):
        plots.plot_curves(folder / run_folder.PROGRESS, folder / CURVES, offline_steps=offline_steps)
        drawn.append(folder / CURVES)
    if model.advantage_weights() is not None:
        plots.plot_weights(model, dataset, folder / WEIGHTS)
        drawn.append(folder / WEIGHTS)
    return drawn


def draw_arm(model: OfflineAlgorithm, config: DictConfig, folder: Path, film: Sequence[float]) -> list[Path]:
    """Draws how the first knob changes the paths of Reacher's arm; other knobs have their smallest value.

    :param config: contains the options of evaluation/sweep.yaml.
    :param film: values of the first knob in an animation; empty: none.
    """
    from dipole_sb3 import plots

    first, rest = _first_knob(model)
    make = task_env(config.task)
    values = grid_of(model, config)[first.name]
    plots.plot_paths(model, make, folder / PATHS, [{first.name: value, **rest} for value in values])
    if not film:
        return [folder / PATHS]
    plots.write_arm_animation(model, make, folder / ARM, [{first.name: value, **rest} for value in film])
    return [folder / PATHS, folder / ARM]


def draw_actions(model: OfflineAlgorithm, dataset: OfflineReplayBuffer, folder: Path) -> list[Path]:
    """Draws the actions at one recorded state for three values of the first knob; the others as for the paths."""
    from dipole_sb3 import plots

    first, rest = _first_knob(model)
    named = [value for value, _ in first.names]
    worse, better, shown = ({first.name: value, **rest} for value in (named[0], named[-1], _SHOWN))
    observation = plots.choose_observation(model, dataset, worse=worse, better=better)
    plots.plot_actions(model, observation, folder / ACTIONS, [worse, better, shown])
    return [folder / ACTIONS]


def _first_knob(model: OfflineAlgorithm) -> tuple[Knob, dict[str, float]]:
    first, *others = model.policy.knobs
    return first, {knob.name: knob.checked(knob.least) for knob in others}
