"""The evaluation over greediness ω and candidates N that ends a run."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dipole_sb3.algorithms.dipole.algorithm import DIPOLE
from dipole_sb3.cli import pictures
from dipole_sb3.cli.configuration import paper_target
from dipole_sb3.datasets import make_env
from dipole_sb3.evaluation import sweep as evaluation

TABLE = "omega_sweep.csv"


def run(
    models: Sequence[DIPOLE], env: str, config: DictConfig, folders: Sequence[Path], dataset_facts: Mapping[str, Any]
) -> list[evaluation.SweepResult]:
    """Evaluates every cell of every model on the same episodes, leaves table and picture in each one's folder.

    :param env: name for :func:`dipole_sb3.datasets.make_env`.
    :param config: has the options of evaluation/sweep.yaml.
    :param folders: one for each model.
    :param dataset_facts: ``data_return_mean`` and ``agent_return_mean``, where known, become lines of the pictures.
    """
    columns: dict[tuple[int, ...], list[int]] = {}
    for index, model in enumerate(models):
        columns.setdefault(tuple(candidates(model, config)), []).append(index)
    results: dict[int, evaluation.SweepResult] = {}
    for num_candidates, indices in columns.items():
        found = evaluation.evaluate_sweeps(
            [models[index] for index in indices],
            functools.partial(make_env, env),
            omegas=list(config.omegas),
            num_candidates=list(num_candidates),
            episodes=config.episodes,
            seed=config.eval_seed,
            processes=config.processes,
            progress=sys.stderr.isatty(),
        )
        results.update(zip(indices, found, strict=True))
    for index, folder in enumerate(folders):
        folder.mkdir(parents=True, exist_ok=True)
        evaluation.write_sweep_csv(results[index], folder / TABLE)
        if config.pictures:
            pictures.draw_sweep(results[index], folder, dataset_facts)
    return [results[index] for index in range(len(models))]


def candidates(model: DIPOLE, config: DictConfig) -> list[int]:
    """N of the columns: the configured ones, else 1 and the model's own."""
    if config.candidates is not None:
        return list(config.candidates)
    return sorted({1, model.num_candidates})


def target_sentence(task: DictConfig, task_id: int | None, online: bool) -> str | None:
    """What the paper reports for this task, if it does.

    :param online: for a model that has gone on learning online.
    """
    target = paper_target(task, task_id, online)
    return None if target is None else f"The paper reports {target}."
