"""``dipole demo task=driving/…``: from made scenes to the plans before and after fine-tuning, side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import DictConfig, OmegaConf

from dipole_sb3.cli import driving, hydra_command, run_folder

if TYPE_CHECKING:
    from dipole_sb3.driving import DPVLA
    from dipole_sb3.driving.evaluation import Evaluated
    from dipole_sb3.driving.scenes import Scenes
    from dipole_sb3.driving.training.interfaces import Scorer

_CHOSEN_ON = 200
"""Training scenes on which ω is chosen."""
_PICTURED = 4


def run(arguments: list[str]) -> int:
    """``dipole demo task=driving/…``."""
    return hydra_command.run("driving_demo", demo, driving.of_group(arguments), called="demo")


def demo(config: DictConfig, folder: Path) -> None:
    """Makes scenes, trains, compares, draws; prints the table and the paths of what it leaves."""
    from dipole_sb3.driving import load_scenes
    from dipole_sb3.driving.score import ScoringPool

    start = time.perf_counter()
    driving.check(config)
    _require_pair(config)
    _make_scenes(config)
    task = config.task
    scenes, held_out = (
        load_scenes(task.scenes, split, dataset_dir=task.dataset_dir, limit=task.limit)
        for split in (task.train, task.test)
    )
    with ExitStack() as opened:
        folder = driving.claimed_folder(config, folder, opened, go_on=False, named=True)
        run_folder.write_config(folder, config)
        scorer = opened.enter_context(ScoringPool(config.processes))
        print(f"Pre-training by imitation of {len(scenes)} recorded plans", flush=True)
        imitation = driving.pretrained(config, folder, scenes)
        agents = {}
        for method in (config.finetune.method, *config.compared):
            print(f"Fine-tuning by {driving.NAMES[method]}", flush=True)
            agents[method] = driving.finetuned(
                _with_method(config, method), folder / _place(config, method), imitation, scenes, scorer
            )
        _report(config, folder, imitation, agents, scenes, held_out, scorer)
    print(f"\nIt took {(time.perf_counter() - start) / 60:.1f} minutes; all is in\n  {folder}/")


def _require_pair(config: DictConfig) -> None:
    """The demo turns ω, which needs two policies and two values.

    :raises ValueError: before hours of work.
    """
    if config.finetune.method != "dipole":
        raise ValueError(
            f"finetune.method is {config.finetune.method}, expected dipole, whose ω the demo turns; others beside it "
            "are compared=[…], alone `dipole train` trains them"
        )
    if len(set(config.omegas)) < 2:
        raise ValueError(f"omegas is {config.omegas}, expected at least two values to draw a line through")


def _make_scenes(config: DictConfig) -> None:
    from dipole_sb3.driving.scenes import make_scenes
    from dipole_sb3.driving.scenes.names import scenes_folder

    if scenes_folder(config.task.scenes, config.task.dataset_dir).is_dir():
        return
    print(f"Making {config.made_scenes} scenes to train on, and a third as many to test on", flush=True)
    make_scenes(
        config.task.scenes,
        scenes=config.made_scenes,
        processes=config.processes,
        dataset_dir=config.task.dataset_dir,
    )


def _with_method(config: DictConfig, method: str) -> DictConfig:
    merged = OmegaConf.merge(config, {"finetune": {"method": method}})
    assert isinstance(merged, DictConfig)
    return merged


def _place(config: DictConfig, method: str) -> str:
    return driving.AGENT if method == config.finetune.method else method


def _report(
    config: DictConfig,
    folder: Path,
    imitation: DPVLA,
    agents: Mapping[str, DPVLA],
    scenes: Scenes,
    held_out: Scenes,
    scorer: Scorer,
) -> None:
    from dipole_sb3.driving import evaluation
    from dipole_sb3.plots import driving as plots

    agent, options = agents[config.finetune.method], {"num_plans": config.num_plans, "seed": config.eval_seed}
    omegas = [float(omega) for omega in config.omegas]
    some = scenes[:_CHOSEN_ON]
    chosen = evaluation.best(evaluation.sweep(agent, some, scorer, omegas, **options)).omega
    rows = evaluation.sweep(agent, held_out, scorer, omegas, policy=driving.NAMES[agent.method], **options)
    others = driving.baselines(imitation, agent, held_out, scorer, config)
    for method, other in agents.items():
        if method != config.finetune.method:
            others += evaluation.sweep(other, held_out, scorer, [0.0], policy=driving.NAMES[method], **options)
    evaluation.write_table([*others, *rows], folder / f"{driving.SWEEP}.csv")
    print(f"\n{evaluation.text([*others, *rows])}")
    best = next(row for row in rows if row.omega == chosen)
    print(
        f"\nω = {chosen:g} has the highest PDMS on {len(some)} of the scenes that it learned from. "
        "On the held-out ones:"
    )
    for row in others:
        print(f"  {_difference(best, row)}")
    print("Scored plans: " + ", ".join(f"{driving.NAMES[name]} {each.scored_plans:,}" for name, each in agents.items()))
    if config.pictures:
        plots.plot_sweep(rows, folder / f"{driving.SWEEP}.png", others)
        _draw_plans(config, folder / driving.PLANS, imitation, agent, held_out, others, rows, best)


def _difference(row: Evaluated, other: Evaluated) -> str:
    """By how much one policy drives better than another, scene by scene."""
    from dipole_sb3.common.intervals import mean_interval

    differences = 100.0 * (row.scores.pdms.mean(axis=1) - other.scores.pdms.mean(axis=1))
    found = mean_interval(differences.tolist())
    return f"PDMS {found.mean:+.1f} against {other.policy}, 95 % interval {found.low:+.1f} … {found.high:+.1f}"


def _draw_plans(
    config: DictConfig,
    path: Path,
    imitation: DPVLA,
    agent: DPVLA,
    scenes: Scenes,
    others: Sequence[Evaluated],
    rows: Sequence[Evaluated],
    best: Evaluated,
) -> None:
    """The scenes in which fine-tuning changed the score most, one of each kind: the paper's figure 7."""
    from dipole_sb3.plots import driving as plots

    before = next(row for row in others if row.policy == driving.NAMES[None])
    gains = best.scores.pdms[:, 0] - before.scores.pdms[:, 0]
    of_kinds = {scenes[int(index)].kind: int(index) for index in np.argsort(gains, kind="stable") if gains[index] > 0}
    indices = sorted(of_kinds.values(), key=lambda index: -gains[index])[:_PICTURED]
    if not indices:
        print("No held-out scene got a better score: there is nothing to draw")
        return
    shown: list[Evaluated] = [before, *(row for row in rows if row.omega in (-1.0, 0.0, best.omega))]
    observations = scenes.observations(indices)
    plans, scores = {}, {}
    for row in shown:
        name = row.policy if row.omega is None else f"{row.policy}, ω = {row.omega:g}".replace("-", "−")
        planner, omega = (imitation, 0.0) if row is before else (agent, row.omega)
        plans[name] = planner.predict(observations, omega, seed=config.eval_seed)
        scores[name] = row.scores.pdms[indices, 0]
    plots.plot_plans([scenes[index] for index in indices], plans, scores, path)
