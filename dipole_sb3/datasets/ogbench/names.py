"""Names of OGBench's data sets, and where their files live."""

from __future__ import annotations

import difflib
import importlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import gymnasium

from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets.ogbench.oracles import RECIPES, VISUAL

DIRECTORY_VARIABLE = "OGBENCH_DATA_DIR"
"""Environment variable that replaces OGBench's default folder, ``~/.ogbench/data``."""

_BEHAVIOURS = {
    "pointmaze": ("navigate", "stitch"),
    "antmaze": ("navigate", "stitch", "explore"),
    "humanoidmaze": ("navigate", "stitch"),
    "antsoccer": ("navigate", "stitch"),
    "cube": ("play", "noisy"),
    "scene": ("play", "noisy"),
    "puzzle": ("play", "noisy"),
}
_GOALS = re.compile(r"(?P<scene>.+)-(?P<behaviour>[^-]+)-(?P<version>v\d+)")
_SINGLE_TASK = re.compile(r"(?P<scene>.+)-(?P<behaviour>[^-]+)-singletask(?P<task>-task\d+)?-(?P<version>v\d+)")


@dataclass(frozen=True)
class NamedSet:
    """One OGBench data set, with the rewards of one task or with goals.

    :param name: full name, for example ``cube-single-play-singletask-task2-v0``, or ``cube-single-play-v0`` with goals.
    :param env_id: gymnasium id of its environment, ``cube-single-singletask-task2-v0`` or ``cube-single-v0``.
    :param dataset: data set with version, ``cube-single-play-v0``: the stem of its files.
    """

    name: str
    env_id: str
    dataset: str

    @property
    def has_goals(self) -> bool:
        """Whether goals are part of the observations, instead of one rewarded task."""
        return self.name == self.dataset

    @property
    def recipe(self) -> str | None:
        """Name under which the data can be made anew, or None where it takes trained experts or pictures."""
        stem = self.dataset.rpartition("-v")[0]
        return stem if stem in RECIPES else None

    def files(self, directory: Path) -> tuple[Path, Path]:
        """Paths of the training and the validation file."""
        return split_files(directory, self.dataset)


def split_files(directory: Path, dataset: str) -> tuple[Path, Path]:
    """Paths of a data set's training and validation file in a folder, as OGBench names them."""
    return directory / f"{dataset}.npz", directory / f"{dataset}-val.npz"


def require_ogbench() -> None:
    """Imports ogbench, which registers its environments.

    :raises DatasetError: when it is not installed.
    """
    try:
        importlib.import_module("ogbench")
    except ModuleNotFoundError as error:
        raise DatasetError(
            f"OGBench data needs the package {error.name}, which is not installed: pip install 'dipole-sb3[ogbench]'"
        ) from error


def data_directory(dataset_dir: str | Path | None = None) -> Path:
    """The folder of OGBench's files: the argument, else ``$OGBENCH_DATA_DIR``, else ogbench's own default."""
    if dataset_dir is None:
        dataset_dir = os.environ.get(DIRECTORY_VARIABLE) or None
    if dataset_dir is None:
        require_ogbench()
        from ogbench.utils import DEFAULT_DATASET_DIR

        dataset_dir = DEFAULT_DATASET_DIR
    return Path(dataset_dir).expanduser()


def single_task_names() -> list[str]:
    """Every single-task data set of the installed ogbench, sorted."""
    require_ogbench()
    names = []
    for env_id in gymnasium.registry:
        scene, mark, rest = env_id.partition("-singletask")
        if mark:
            names += [f"{scene}-{behaviour}-singletask{rest}" for behaviour in _behaviours(scene)]
    return sorted(names)


def goal_set_names() -> list[str]:
    """Every data set of the installed ogbench with goals that are no pictures, sorted."""
    require_ogbench()
    names = []
    for env_id in gymnasium.registry:
        scene, _, version = env_id.rpartition("-")
        if "singletask" not in env_id and not scene.startswith(VISUAL):
            names += [f"{scene}-{behaviour}-{version}" for behaviour in _behaviours(scene)]
    return sorted(names)


def _behaviours(scene: str) -> tuple[str, ...]:
    return _BEHAVIOURS.get(scene.removeprefix(VISUAL).partition("-")[0], ())


def near_matches(name: str, names: Iterable[str]) -> str:
    """'; did you mean …?' with the nearest names, or nothing when none is near."""
    matches = difflib.get_close_matches(name, list(names), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(matches)}?" if matches else ""


def parse(name: str) -> NamedSet:
    """The data set that a name means.

    :param name: ``{scene}-{behaviour}-singletask[-task{1..5}]-v0``, or with goals ``{scene}-{behaviour}-v0``;
        optionally with the prefix ``ogbench/``.
    :raises DatasetError: unknown name (the nearest ones are offered), or goals that are pictures.
    """
    require_ogbench()
    name = name.removeprefix("ogbench/")
    single = _SINGLE_TASK.fullmatch(name)
    if single is not None:
        env_id = f"{single['scene']}-singletask{single['task'] or ''}-{single['version']}"
        dataset = f"{single['scene']}-{single['behaviour']}-{single['version']}"
        return NamedSet(name, env_id, dataset) if env_id in gymnasium.registry else _refuse(name)
    goals = _GOALS.fullmatch(name)
    if goals is None or f"{goals['scene']}-{goals['version']}" not in gymnasium.registry:
        return _refuse(name)
    if not goals["scene"].startswith(VISUAL) and _behaviours(goals["scene"]):
        return NamedSet(name, f"{goals['scene']}-{goals['version']}", name)
    return _refuse(name)


def _refuse(name: str) -> NamedSet:
    single_tasks, goal_sets = single_task_names(), goal_set_names()
    stem = re.sub(r"-v\d+$", "", name)
    task = f"{stem}-singletask-v0"
    if name.startswith(VISUAL) and task in single_tasks:
        raise DatasetError(
            f"{name}: its goals are pictures, and no rule tells success from two pictures; expected one of its tasks: "
            f"{task} (the default task) or {stem}-singletask-task1-v0 to -task5-v0"
        )
    if task in single_tasks:
        raise DatasetError(
            f"{name} has no version; expected {stem}-v0 (with goals) or one of its tasks: {task} (the default task) or "
            f"{stem}-singletask-task1-v0 to -task5-v0"
        )
    raise DatasetError(f"{name} is no data set of OGBench{near_matches(name, [*single_tasks, *goal_sets])}")


def require_known_behaviour(task: NamedSet) -> None:
    """Refuses a name whose data set OGBench does not have (``cube-single-paly``).

    :raises DatasetError: with the nearest names.
    """
    names = goal_set_names() if task.has_goals else single_task_names()
    if task.name not in names:
        raise DatasetError(
            f"{task.name} is no data set of OGBench, and no file of that name was found{near_matches(task.name, names)}"
        )
