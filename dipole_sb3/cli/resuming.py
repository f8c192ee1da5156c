"""How a run goes on: from which checkpoint, with which options, and whether there is anything left to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from dipole_sb3.cli import run_folder, sweep
from dipole_sb3.cli.configuration import config_folder, dotted
from dipole_sb3.cli.models import algorithm_of
from dipole_sb3.cli.options import TrainOptions, check_options
from dipole_sb3.cli.periodic_evaluation import EVALUATIONS
from dipole_sb3.cli.runs import HOOKS, Run
from dipole_sb3.learning.checkpoints import newest_checkpoint

FIXED_OPTIONS = ("algo", "task", "task_id", "seed", "runs", "run_dir", "normalize")
"""Options that a resumed run keeps from its first start."""

AUTO: Literal["auto"] = "auto"
Resume = Literal[False, True, "auto"]
"""Whether runs begin (False), go on from their checkpoints (True), or do whichever it is (``"auto"``)."""


def require_can_go_on(runs: Sequence[Run]) -> None:
    """Refuses ``resume=auto`` where the next start would look elsewhere, or would remove what it should go on with.

    :raises ValueError: nobody gave the folders' names, or ``replace=true`` is asked for as well.
    """
    require_not_replaced(any(run.config.replace for run in runs))
    if not all(run.own_name for run in runs):
        raise ValueError(
            "resume=auto needs the same folder at every start, but its default name is made of the time; expected "
            "run_dir=FOLDER, or hydra.sweep.dir=FOLDER for the runs of -m"
        )


def require_not_replaced(replace: bool) -> None:
    """
    :param replace: of a command that is to go on with a run.
    :raises ValueError: it is true.
    """
    if replace:
        raise ValueError("resume= goes on with the run in the folder, replace=true removes it; expected one of them")


def unfinished(runs: Sequence[Run]) -> list[Run]:
    """The runs that are to begin or to go on.

    :raises ValueError: the run in a folder has other options.
    """
    left = []
    for run in runs:
        if run_folder.is_used(run.folder):
            before = run_folder.read_config(run.folder)
            require_same(run.folder, _fixed_options(run.config), _fixed_options(before))
            _require_same_episodes(run.folder, run.config, before)
            _require_length(run.config, before.offline_steps, before.offline_steps + before.online_steps, run.folder)
        if is_finished(run):
            print(f"{run.folder}: is finished")
        else:
            left.append(run)
    return left


def require_same(folder: Path, now: Mapping[str, Any], then: Mapping[str, Any]) -> None:
    """Refuses to go on with other options than those with which a run began.

    :param now: name → value.
    :param then: likewise.
    :raises ValueError: the message names the first that differs.
    """
    for name in sorted(now.keys() | then.keys()):
        if now.get(name) != then.get(name):
            raise ValueError(
                f"{folder}: holds a run with {name}={then.get(name)}, found {name}={now.get(name)}; expected the "
                "options with which it began, or another run_dir"
            )


def _require_same_episodes(folder: Path, now: DictConfig, then: DictConfig) -> None:
    """Evaluations while learning are compared with each other: all of a run play the same episodes."""
    if (folder / EVALUATIONS).is_file():
        require_same(folder, *({name: each[name] for name in ("eval_episodes", "eval_seed")} for each in (now, then)))


def _fixed_options(config: DictConfig) -> dict[str, Any]:
    options: Any = OmegaConf.to_container(config, resolve=True)
    return dict(dotted({name: options.get(name) for name in FIXED_OPTIONS if name not in ("runs", "run_dir")}))


def is_finished(run: Run) -> bool:
    """Whether a run has learned for as long as it should and been evaluated, whose table is the last file it writes."""
    model = run.folder / run_folder.MODEL
    if run_folder.is_being_replaced(run.folder) or not model.is_file():
        return False
    if run_folder.timesteps_of(model) < steps_of(run):
        return False
    table = table_of(run)
    return table is None or table.is_file()


def steps_of(run: Run) -> int:
    """Number of timesteps of a run; fewer than those of its options if a callback has ended it."""
    steps = int(run.config.offline_steps + run.config.online_steps)
    stopped = run_folder.stopped_after(run.folder)
    return steps if stopped is None else min(steps, stopped)


def table_of(run: Run) -> Path | None:
    """The file of a run's evaluation; None: it has none."""
    if not run.config.episodes or run.config.task.env is None:
        return None
    return run.folder / f"{sweep.stem(algorithm_of(run.config).knobs())}.csv"


def checkpoint_of(folder: Path, resume: Resume) -> Path | None:
    """What a run goes on from; None: it begins.

    :raises FileNotFoundError: it is to go on, and there is no checkpoint.
    :raises ValueError: all checkpoints are damaged.
    """
    if not resume or (resume == AUTO and not is_begun(folder)):
        return None
    return _newest_checkpoint(folder)


def is_begun(folder: Path) -> bool:
    """Whether there is something to go on from."""
    return not run_folder.is_being_replaced(folder) and any((folder / run_folder.CHECKPOINTS).glob("*.zip"))


def _newest_checkpoint(folder: Path) -> Path:
    try:
        path, damaged = newest_checkpoint(folder / run_folder.CHECKPOINTS)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder}: no checkpoint in {run_folder.CHECKPOINTS}/ to go on from; start it anew, with replace=true"
        ) from error
    for sentence in damaged:
        print(f"{sentence}; going on from {path.name}")
    return path


def resumed_config(folder: Path, overrides: list[str]) -> DictConfig:
    """The configuration with which a run goes on.

    :param overrides: options that may change, as on a command line.
    :raises FileNotFoundError: the folder is not that of a run.
    :raises ValueError: an option may not change, or not to this value.
    """
    config = run_folder.read_config(folder)
    if "online_steps" not in config:
        raise ValueError(
            f"{folder}: {run_folder.CONFIG} has no online_steps: the run is of an earlier version, and its checkpoints "
            "do not hold all of it; expected a run of this version"
        )
    defaults: Any = OmegaConf.load(config_folder() / "train.yaml")
    for field in fields(TrainOptions):
        # An option that is newer than the run.
        if field.name not in config and field.name in defaults:
            config[field.name] = defaults[field.name]
    for name in HOOKS:
        config[name] = config.get(name) or {}  # of a run from before they existed, or null
    begun = config.copy()
    before, length = config.offline_steps, config.offline_steps + config.online_steps
    overrides = [override.lstrip("+") for override in overrides]
    for override in overrides:
        name, equals, _ = override.partition("=")
        if not equals or name.split(".")[0] in FIXED_OPTIONS:
            raise ValueError(
                f"{override}: a resumed run stays as it was; only its length, evaluation and logging may change, "
                "such as offline_steps=2000000"
            )
    OmegaConf.set_struct(config, True)
    for name in HOOKS:
        OmegaConf.set_struct(config[name], False)  # entries may be added
    config.merge_with_dotlist(overrides)
    check_options(config, TrainOptions)
    _require_length(config, before, length, folder)
    _require_same_episodes(folder, config, begun)
    return config


def _require_length(config: DictConfig, before: int, length: int, folder: Path) -> None:
    """Refuses other numbers of steps for a run than those that it can still be given.

    :param before: its ``offline_steps`` until now.
    :param length: all its steps until now.
    """
    total = config.offline_steps + config.online_steps
    phases_moved = bool(config.offline_steps != before and config.online_steps)
    # The checkpoint can be large, so it is read only if one of the two may be wrong.
    done = _timesteps(folder) if total < length or phases_moved else 0
    if total < done:
        raise ValueError(
            f"offline_steps + online_steps is {total}, but the run in {folder} has {done} timesteps already; "
            "expected at least as many"
        )
    if phases_moved and done > before:
        raise ValueError(
            f"offline_steps is {config.offline_steps}, but the run has gone on online after {before}; expected only "
            "online_steps to change now"
        )


def _timesteps(folder: Path) -> int:
    """Number of timesteps in the newest checkpoint of a run."""
    return run_folder.timesteps_of(_newest_checkpoint(folder))
