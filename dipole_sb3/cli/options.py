"""Types and ranges of the options that the commands themselves read; an algorithm checks its own."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf


@dataclass
class EvaluationOptions:
    """evaluation/sweep.yaml."""

    omegas: list[float] = MISSING
    candidates: list[int] | None = MISSING
    episodes: int = MISSING
    eval_seed: int = MISSING
    processes: int | None = MISSING
    pictures: bool = MISSING


@dataclass
class TrainOptions(EvaluationOptions):
    """train.yaml, without the algorithm and the task."""

    offline_steps: int = MISSING
    online_steps: int = MISSING
    n_envs: int = MISSING
    runs: int = MISSING
    seed: int = MISSING
    run_dir: str = MISSING
    replace: bool = MISSING
    log_interval: int = MISSING
    checkpoint_freq: int = MISSING
    eval_freq: int = MISSING
    eval_episodes: int = MISSING
    progress_bar: bool | None = MISSING
    profile: bool = MISSING


_AT_LEAST = {
    "offline_steps": 0,
    "online_steps": 0,
    "n_envs": 1,
    "runs": 1,
    "seed": 0,
    "eval_seed": 0,
    "log_interval": 1,
    "checkpoint_freq": 0,
    "eval_freq": 0,
    "eval_episodes": 1,
    "episodes": 0,
    "processes": 1,
}


def check_options(config: DictConfig, schema: type[EvaluationOptions]) -> None:
    """Refuses options of the wrong type or out of range before anything is done with them.

    :raises ValueError: naming the option, what it is and what was expected.
    :raises omegaconf.errors.ValidationError: a value that cannot be read as the option's type.
    """
    names = [field.name for field in fields(schema)]
    typed: Any = OmegaConf.merge(OmegaConf.structured(schema), {name: config[name] for name in names})
    for name in names:
        value, least = typed[name], _AT_LEAST.get(name)
        if least is not None and value is not None and value < least:
            raise ValueError(f"{name} is {value}, expected at least {least}")
    for name, least in (("omegas", -1), ("candidates", 1)):
        values = typed[name]
        if values is not None and (not values or min(values) < least):
            raise ValueError(f"{name} is {list(values)}, expected numbers of at least {least}")
