"""The evaluation at the end of a run: every combination of knob values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dipole_sb3.cli import pictures
from dipole_sb3.cli.configuration import paper_target
from dipole_sb3.cli.options import grid_of
from dipole_sb3.evaluation.environment_pool import MakeEnv
from dipole_sb3.evaluation.sweep import Grid, SweepResult, evaluate_sweeps, write_sweep_csv
from dipole_sb3.learning.knobs import Knob
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm


def run(
    models: Sequence[OfflineAlgorithm],
    make_env: MakeEnv,
    config: DictConfig,
    folders: Sequence[Path],
    dataset_facts: Mapping[str, Any],
) -> list[SweepResult]:
    """Evaluates every cell of every model on the same episodes; writes a table and a picture to each model's folder.

    :param models: models of the same algorithm.
    :param make_env: makes one environment.
    :param config: contains the options of evaluation/sweep.yaml.
    :param folders: one folder per model.
    :param dataset_facts: ``data_return_mean`` and ``agent_return_mean``, if known, are drawn as lines.
    :return: one result per model, in order.
    """
    grids: list[tuple[Grid, list[int]]] = []
    for index, model in enumerate(models):
        grid = grid_of(model, config)
        indices = next((indices for other, indices in grids if other == grid), None)
        if indices is None:
            grids.append((grid, [index]))
        else:
            indices.append(index)
    results: dict[int, SweepResult] = {}
    for grid, indices in grids:
        found = evaluate_sweeps(
            [models[index] for index in indices],
            make_env,
            grid,
            episodes=config.episodes,
            seed=config.eval_seed,
            processes=config.processes,
            progress=True,
        )
        results.update(zip(indices, found, strict=True))
    for index, folder in enumerate(folders):
        folder.mkdir(parents=True, exist_ok=True)
        write_sweep_csv(results[index], folder / f"{stem(results[index].knobs)}.csv")
        if config.pictures:
            pictures.draw_sweep(results[index], folder / f"{stem(results[index].knobs)}.png", dataset_facts)
    return [results[index] for index in range(len(models))]


def stem(knobs: Sequence[Knob]) -> str:
    """File name of the table and its picture, without suffix: e.g. ``omega_sweep``; without knobs ``evaluation``."""
    return f"{knobs[0].name}_sweep" if knobs else "evaluation"


def target_sentence(algorithm: str, task: DictConfig, task_id: int | None, online: bool) -> str | None:
    """The paper's result for this algorithm on this task, as a sentence; None if the paper reports none.

    :param algorithm: name of the algorithm's class.
    :param online: the model was also trained online.
    """
    target = paper_target(algorithm, task, task_id, online)
    return None if target is None else f"The paper reports {target}."
