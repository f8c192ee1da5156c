"""The evaluation over greediness ω and candidates N that ends a run."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dipole_sb3 import evaluation
from dipole_sb3.cli import pictures
from dipole_sb3.cli.configuration import paper_target
from dipole_sb3.datasets import make_env
from dipole_sb3.dipole import DIPOLE

TABLE = "omega_sweep.csv"


def run(
    model: DIPOLE, env: str, config: DictConfig, folder: Path, dataset_facts: Mapping[str, Any]
) -> evaluation.SweepResult:
    """Evaluates every cell, leaves the table and the picture in the folder.

    :param env: name for :func:`dipole_sb3.datasets.make_env`.
    :param config: has the options of evaluation/sweep.yaml.
    :param dataset_facts: ``data_return_mean`` and ``agent_return_mean``, where known, become lines of the picture.
    """
    result = evaluation.evaluate_sweep(
        model,
        functools.partial(make_env, env),
        omegas=list(config.omegas),
        num_candidates=candidates(model, config),
        episodes=config.episodes,
        seed=config.eval_seed,
        processes=config.processes,
        progress=sys.stderr.isatty(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    evaluation.write_sweep_csv(result, folder / TABLE)
    if config.pictures:
        pictures.draw_sweep(result, folder, dataset_facts)
    return result


def candidates(model: DIPOLE, config: DictConfig) -> list[int]:
    """N of the columns: the configured ones, else 1 and the model's own."""
    if config.candidates is not None:
        return list(config.candidates)
    return sorted({1, model.num_candidates})


def print_target(task: DictConfig, task_id: int | None, online: bool) -> None:
    """What the paper reports for this task, if it does.

    :param online: for a model that has gone on learning online.
    """
    target = paper_target(task, task_id, online)
    if target is not None:
        print(f"The paper reports {target}.")
