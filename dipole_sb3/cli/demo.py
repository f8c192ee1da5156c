"""``dipole demo``: the main job, with pictures."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from dipole_sb3.cli import hydra_command, pictures, sweep, train
from dipole_sb3.evaluation import format_sweep_table


def run(arguments: list[str]) -> int:
    """``dipole demo``."""
    return hydra_command.run("demo", demo, arguments)


def demo(config: DictConfig, folder: Path) -> None:
    """Trains, evaluates and draws; ends with the table and where the pictures are.

    :param config: as composed from demo.yaml.
    :param folder: of the run.
    """
    model, dataset = train.train(config, folder)
    result = sweep.run(model, config.task.env, config, folder, dataset.metadata) if config.episodes else None
    drawn = [folder / pictures.SWEEP] if config.pictures and result is not None else []
    if config.pictures:
        drawn += pictures.draw_acting(model, dataset, config, folder)
        drawn += pictures.draw_training(model, dataset, folder)
    if result is not None:
        print(f"\n{format_sweep_table(result)}")
        _print_reference(dataset.metadata)
    print(f"\nThis run is in {folder}/")
    if drawn:
        print(f"Its pictures: {', '.join(path.name for path in drawn)}")


def _print_reference(facts: dict[str, float]) -> None:
    if {"data_return_mean", "agent_return_mean"} <= set(facts):
        print(
            f"\nMean return of the data: {facts['data_return_mean']:.2f}; "
            f"of the agent that recorded it, in the end: {facts['agent_return_mean']:.2f}"
        )
