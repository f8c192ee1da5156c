"""Types and ranges of the options that the commands read themselves; each algorithm checks its own options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf

from dipole_sb3.cli.configuration import config_folder
from dipole_sb3.evaluation.batched_acting import ActingModel
from dipole_sb3.evaluation.sweep import Grid, own_setting
from dipole_sb3.learning.knobs import Knob
from dipole_sb3.learning.update_rule import Objective


@dataclass
class EvaluationOptions:
    """Options of evaluation/sweep.yaml."""

    episodes: int = MISSING
    eval_seed: int = MISSING
    processes: int | None = MISSING
    pictures: bool = MISSING


@dataclass
class TrainOptions(EvaluationOptions):
    """Options of train.yaml, without those of the algorithm and the task."""

    offline_steps: int = MISSING
    online_steps: int = MISSING
    n_envs: int = MISSING
    normalize: bool = MISSING
    runs: int = MISSING
    seed: int = MISSING
    run_dir: str = MISSING
    replace: bool = MISSING
    log_interval: int = MISSING
    checkpoint_freq: int = MISSING
    checkpoint_minutes: float = MISSING
    eval_freq: int = MISSING
    eval_episodes: int = MISSING
    objective: str | None = MISSING
    objective_at: dict[str, float | None] = MISSING
    progress_bar: bool | None = MISSING
    profile: bool = MISSING


@cache
def knob_options() -> tuple[str, ...]:
    """Options of evaluation/sweep.yaml that list knob values: all except those of :class:`EvaluationOptions`."""
    own = {field.name for field in fields(EvaluationOptions)}
    names: Any = OmegaConf.to_container(OmegaConf.load(config_folder() / "evaluation" / "sweep.yaml"))
    return tuple(str(name) for name in names if name not in own)


_AT_LEAST = {
    "offline_steps": 0,
    "online_steps": 0,
    "n_envs": 1,
    "runs": 1,
    "seed": 0,
    "eval_seed": 0,
    "log_interval": 1,
    "checkpoint_freq": 0,
    "checkpoint_minutes": 0,
    "eval_freq": 0,
    "eval_episodes": 1,
    "episodes": 0,
    "processes": 1,
    "made_episodes": 0,
    "driven_episodes": 1,
}


def check_options(config: DictConfig, schema: type[EvaluationOptions]) -> None:
    """Refuses options of the wrong type or out of range before any work starts.

    :raises ValueError: an option is out of range; the message names it, its value and the expected range.
    :raises omegaconf.errors.ValidationError: a value cannot be read as the option's type.
    """
    names = [field.name for field in fields(schema)]
    typed: Any = OmegaConf.merge(OmegaConf.structured(schema), {name: config[name] for name in names})
    for name in names:
        value, least = typed[name], _AT_LEAST.get(name)
        if least is not None and value is not None and value < least:
            raise ValueError(f"{name} is {value}, expected at least {least}")


def check_knobs(config: DictConfig, algorithm: str, knobs: Sequence[Knob]) -> None:
    """Refuses knob values that are out of range, and values of knobs that the algorithm does not have.

    :param algorithm: name of the algorithm.
    :param knobs: knobs of its policy.
    :raises ValueError: the message names the option, its value and what was expected.
    """
    of_options = {knob.option: knob for knob in knobs}
    for name in knob_options():
        values = config.get(name)
        if values is None:
            continue
        if name not in of_options:
            known = ", ".join(of_options) or "none of these options"
            raise ValueError(
                f"{name} is {_text(values)}, but {algorithm} has nothing of that name to turn; expected {known}"
            )
        if not isinstance(values, ListConfig) or not values:
            raise ValueError(f"{name} is {_text(values)}, expected a list of numbers, e.g. {name}=[1,2]")
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"{name} is {_text(values)}, expected a list of numbers, found {value!r} in it")
            of_options[name].checked(value, name)


def check_hyperparameters(config: DictConfig, objective: type[Objective]) -> None:
    """Refuses what an update cannot optimise, before any data is read.

    :param objective: of the algorithm's update.
    :raises ValueError: the message names the hyperparameter, its value and what was expected.
    """
    given: Any = OmegaConf.to_container(config.algo, resolve=True)
    objective.of(given)


def _text(values: Any) -> str:
    return str(list(values)) if isinstance(values, ListConfig) else repr(values)


def grid_of(model: ActingModel, config: DictConfig) -> Grid:
    """The values of every knob in an evaluation: those given by its option, else its default values."""
    return grid_in(model.policy.knobs, own_setting(model), config)


def grid_in(knobs: Sequence[Knob], own: Mapping[str, float], config: DictConfig) -> Grid:
    """The same, without a model.

    :param own: the algorithm's own value of every knob.
    """
    given = {knob.name: config.get(knob.option) for knob in knobs}
    return {
        knob.name: knob.default_sweep(own[knob.name]) if given[knob.name] is None else list(given[knob.name])
        for knob in knobs
    }
