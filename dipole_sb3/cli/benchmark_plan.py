"""What a benchmark compares: the tasks of a suite, and every algorithm's runs on them."""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import torch
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dipole_sb3.cli import errors, run_folder
from dipole_sb3.cli.configuration import (
    algorithm_names,
    config_folder,
    dotted,
    is_tuned,
    open_configuration_tree,
    suite_names,
    task_names,
)
from dipole_sb3.cli.models import algorithm_of, own_values
from dipole_sb3.cli.options import TrainOptions, check_options, grid_in
from dipole_sb3.cli.runs import Run, with_seed
from dipole_sb3.common.files import replaced_when_complete
from dipole_sb3.common.version import VERSION

CODE = "code.json"
PLANNED = ("algo", "task", "task_id", "seed", "runs", "run_dir", "replace")
"""Options of ``dipole train`` that a benchmark sets itself."""

_ALWAYS = ("algo.verbose=0", "pictures=false")
"""What every run gets first; a suite and the command line may say otherwise."""

_MAY_DIFFER = ("run_dir", "replace", "processes", "progress_bar", "profile", "pictures", "loggers")
"""Options of a run that change none of its figures."""


@dataclass
class TaskEntry:
    """A task of a suite.

    :param task: value of ``task=``.
    :param task_ids: OGBench's; None: the task has none.
    :param ref_min_score: return that counts as 0 where algorithms are compared over tasks.
    :param ref_max_score: return that counts as 1; unused where the task reports success.
    """

    task: str = MISSING
    task_ids: list[int] | None = None
    ref_min_score: float = 0.0
    ref_max_score: float = 1.0


@dataclass
class Suite:
    """A file of ``configs/suite/``.

    :param about: a sentence: what it is for, and what it does not show.
    :param tasks: what the algorithms are compared on.
    :param algos: values of ``algo=``, unless the command names others.
    :param seeds: runs of each algorithm on each task, unless the command says otherwise.
    :param options: options of ``dipole train``: of all runs under ``all``, of an algorithm's under its name.
    :param made_episodes: episodes of each data set, all of which are made in the benchmark's folder; 0: data sets are
        those that ``dipole train`` would take.
    """

    about: str = MISSING
    tasks: list[TaskEntry] = MISSING
    algos: list[str] = MISSING
    seeds: int = MISSING
    options: dict[str, list[str]] = field(default_factory=dict)
    made_episodes: int = 0


class Group(NamedTuple):
    """The seeds of one algorithm on one task, which learn together.

    :param algorithm: value of ``algo=``.
    :param task: name of the task, e.g. ``cube-single-play-task2``.
    :param entry: what the suite says of it.
    :param runs: one per seed.
    """

    algorithm: str
    task: str
    entry: TaskEntry
    runs: list[Run]

    @property
    def config(self) -> DictConfig:
        """Of the first seed; the others differ in nothing else."""
        return self.runs[0].config


def load_suite(name: str) -> Suite:
    """A suite by its name, or by the path of a YAML file of one's own.

    :raises ValueError: there is none; the message lists the nearest.
    :raises omegaconf.errors.OmegaConfBaseException: the file has other fields than :class:`Suite`.
    """
    file = Path(name) if name.endswith((".yaml", ".yml")) else config_folder() / "suite" / f"{name}.yaml"
    if not file.is_file():
        near = difflib.get_close_matches(name, suite_names(), n=1, cutoff=0.5)
        known = f"nearest: {near[0]}" if near else f"known are {', '.join(suite_names())}"
        raise ValueError(f"there is no suite={name}; {known}, or the path of a YAML file")
    found = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Suite), OmegaConf.load(file)))
    assert isinstance(found, Suite)
    return found


def planned(suite: Suite, algos: Sequence[str], seeds: int, out: Path, overrides: Sequence[str]) -> list[Group]:
    """Every group, in the order in which they learn: task by task.

    :param overrides: options of ``dipole train`` for every run.
    :raises ValueError: an algorithm that is unknown or has no hyperparameters for a task, or an option that is planned
        here or does not fit; hydra's and omegaconf's errors name an option that an algorithm does not have.
    """
    for name in algos:
        if name not in algorithm_names():
            raise ValueError(f"algos: there is no {name}; expected some of {', '.join(algorithm_names())}")
    if len(set(algos)) < len(algos) or not algos:
        raise ValueError(f"algos is {list(algos)}, expected at least one algorithm and none twice")
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}, expected at least 1")
    for override in overrides:
        if override.partition("=")[0].lstrip("+~") in PLANNED:
            raise ValueError(
                f"{override}: a benchmark plans this itself; expected suite=, algos=, seeds=, out= or an option of "
                "`dipole train` for every run"
            )
    groups = []
    with open_configuration_tree():
        for entry in suite.tasks:
            configs = {name: _composed(suite, name, entry, out, overrides) for name in algos}
            task_ids: list[int | None] = [None] if entry.task_ids is None else [*entry.task_ids]
            for task_id in task_ids:
                groups += [_group(name, entry, task_id, config, seeds, out) for name, config in configs.items()]
    return groups


def _composed(suite: Suite, algorithm: str, entry: TaskEntry, out: Path, overrides: Sequence[str]) -> DictConfig:
    """What the tasks of an entry share."""
    if entry.task in task_names() and not is_tuned(algorithm, entry.task):
        raise ValueError(
            f"algos: {algorithm} has no hyperparameters for {entry.task}, so its figures would say nothing; expected "
            f"others of {', '.join(algorithm_names())}, or configs/tuned/{algorithm}/{entry.task}.yaml with its values"
        )
    options = [f"task={entry.task}", f"algo={algorithm}", "run_dir=unset", *_ALWAYS]
    if suite.made_episodes and entry.task_ids is not None:
        options.append(f"task.dataset_dir={out / 'data'}")
    options += [*suite.options.get("all", ()), *suite.options.get(algorithm, ())]
    try:
        config = hydra.compose("train", overrides=[*options, *overrides])
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(f"{algorithm} on {entry.task}: {errors.sentence(error, options)}") from error
    check_options(config, TrainOptions)
    if not config.episodes:
        raise ValueError("episodes is 0, expected at least 1: a benchmark evaluates what has learned")
    return config


def _group(algorithm: str, entry: TaskEntry, task_id: int | None, config: DictConfig, seeds: int, out: Path) -> Group:
    runs, of_task = [], copy.deepcopy(config)
    if task_id is not None:
        of_task.task_id = task_id
    for seed in range(seeds):
        each = with_seed(of_task, seed)
        folder = out / each.task.name / algorithm / f"seed{seed}"
        each.run_dir = str(folder)
        runs.append(Run(each, folder, (f"algo={algorithm}", f"task={each.task.name}")))
    group = Group(algorithm, str(runs[0].config.task.name), entry, runs)
    _require_own_setting(group)
    return group


def _require_own_setting(group: Group) -> None:
    own = own_values(group.config)
    grid = grid_in(algorithm_of(group.config).knobs(), own, group.config)
    for knob in algorithm_of(group.config).knobs():
        if own[knob.name] not in grid[knob.name]:
            raise ValueError(
                f"{knob.option} is {grid[knob.name]}, expected {own[knob.name]} among them: {group.algorithm}'s own "
                f"value on {group.task} ({knob.name}), which the table compares"
            )


def require_same(groups: Sequence[Group], out: Path) -> dict[str, str]:
    """Refuses to go on with a benchmark that other code or another configuration began; notes the code of a new one.

    :return: the code.
    :raises ValueError: the message names what differs, what it was and what it is now.
    """
    for run in (run for group in groups for run in group.runs):
        if (run.folder / run_folder.CONFIG).is_file():
            _require_same_config(run)
    now, file = code(), out / CODE
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        for name, value in now.items():
            if before.get(name) != value:
                raise ValueError(
                    f"{out}: was begun with {name} {before.get(name)}, and this is {value}: figures of both would not "
                    "compare; expected the same code, or another out=FOLDER"
                )
        return now
    out.mkdir(parents=True, exist_ok=True)
    with replaced_when_complete(file) as written:
        written.write(f"{json.dumps(now, indent=2)}\n".encode())
    return now


def _require_same_config(run: Run) -> None:
    before, now = (_flat(each) for each in (run_folder.read_config(run.folder), run.config))
    for name in (*now, *(name for name in before if name not in now)):
        if before.get(name) != now.get(name):
            raise ValueError(
                f"{run.folder}: was begun with {name}={before.get(name)}, and this is {name}={now.get(name)}; expected "
                "the same options, or another out=FOLDER"
            )


def _flat(config: DictConfig) -> dict[str, Any]:
    found = OmegaConf.to_container(config, resolve=True)
    assert isinstance(found, dict)
    return dict(dotted({name: value for name, value in found.items() if name not in _MAY_DIFFER}))


def code() -> dict[str, str]:
    """What makes the figures: version and sources of the package (without its pictures), version of PyTorch."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted({*package.rglob("*.py")} - {*(package / "plots").rglob("*.py")}):
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return {"dipole_sb3": VERSION, "sources": digest.hexdigest()[:16], "torch": torch.__version__}
