"""The command line that makes a run, found again in its configuration."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dipole_sb3.cli.configuration import algorithm_names, config_folder, dotted, open_configuration_tree, task_names
from dipole_sb3.cli.runs import OF_THE_MACHINE
from dipole_sb3.common.public_names import public_name

_NOT_TOLD = (*OF_THE_MACHINE, "run_dir", "replace", "runs", "driven_episodes", "film")
"""Options that are the machine's business, or change nothing of the model."""


def command_of(config: DictConfig) -> str | None:
    """The shortest command that makes this run; None where its task or algorithm is not one of this package.

    Files and folders appear by their names, without where they lie.

    :param config: the resolved configuration of a run.
    """
    program = "demo" if "made_episodes" in config else "train"
    wanted = _values(config)
    task = str(config.task.get("domain") or config.task.name)
    tasks = [name for name in task_names() if name.rpartition("/")[2] == task]
    algorithms = [name for name in algorithm_names() if _target(name) == config.algo["_target_"]]
    if len(tasks) != 1 or len(algorithms) != 1:
        return None
    chosen = [f"task={tasks[0]}", f"algo={algorithms[0]}"]
    if config.get("task_id") is not None:
        chosen.append(f"task_id={config.task_id}")
    try:
        given = _composed(program, chosen)
        changed = {name: value for name, value in wanted.items() if name not in given or given[name] != value}
        options = [
            *chosen,
            *(f"{'' if name in given else '+'}{name}={_text(value)}" for name, value in changed.items()),
        ]
        again = _composed(program, options)
    except (HydraException, OmegaConfBaseException):
        return None
    if any(again.get(name) != value for name, value in wanted.items()):
        return None
    dataset = f"task.dataset={public_name(str(config.task.dataset))}"
    return shlex.join(["dipole", program, *(dataset if each.startswith("task.dataset=") else each for each in options)])


def _composed(program: str, options: Sequence[str]) -> dict[str, Any]:
    with open_configuration_tree():
        config = hydra.compose(program, overrides=[*options, "run_dir=unset"])
    return _values(config)


def _values(config: DictConfig) -> dict[str, Any]:
    """Every option that is told, by its dotted name; ``???`` is still to be given."""
    plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    return {name: value for name, value in dotted(plain) if name not in _NOT_TOLD and not name.startswith("loggers.")}


def _target(algorithm: str) -> str:
    content: Any = OmegaConf.load(config_folder() / "algo" / f"{algorithm}.yaml")
    return str(content["_target_"])


def _text(value: Any) -> str:
    """A value as Hydra reads it."""
    return str(value) if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
