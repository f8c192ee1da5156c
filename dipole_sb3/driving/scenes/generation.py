"""Makes data sets of driving scenes, several scenes at a time.

Finished scenes are kept in a hidden folder beside the target, which takes the target's name when all are there. A run
that was stopped or killed goes on where it was. The same seed gives the same bytes, whatever the number of processes
and interruptions (with the same versions of the packages that are noted in ``scenes.json``).
"""

from __future__ import annotations

import shutil
import sys
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from dipole_sb3.common.child_processes import available_cores
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.progress import progress_bar
from dipole_sb3.common.task_processes import Finish, finish_tasks
from dipole_sb3.datasets.unfinished import alone, at_least, open_unfinished, write_json
from dipole_sb3.driving.scenes.names import PREFIX, SPLITS, data_directory, made_name
from dipole_sb3.driving.scenes.writing import is_written, remove_others

DEFAULT_SCENES = 600
_RECORD = "scenes.json"
"""Note in a finished folder on how it was made, by which it is known."""
_PACKAGES = ("highway-env", "numpy", "scipy", "shapely", "pillow")


def make_scenes(
    name: str = "driving/highway-mix",
    *,
    scenes: int = DEFAULT_SCENES,
    seed: int = 0,
    processes: int | None = None,
    dataset_dir: str | Path | None = None,
    progress: bool = True,
    overwrite: bool = False,
    elsewhere: Finish | None = None,
) -> Path:
    """Makes scenes of highways, merges, intersections and roundabouts, in the layout of NAVSIM's data.

    :func:`~dipole_sb3.driving.scenes.load_scenes` finds them by their name. A script that calls this needs
    ``if __name__ == "__main__":``, because worker processes import it.

    :param name: ``driving/highway-mix``.
    :param scenes: training scenes, ≥ 1; the test split gets max(1, a third).
    :param seed: of the whole data set, ≥ 0.
    :param processes: scenes made at a time, ≥ 1; default: the cores this process may use.
    :param dataset_dir: target folder; default ``$DRIVING_DATA_DIR``, else ``~/.dipole/driving``.
    :param progress: show a progress bar; where there is no terminal, a line a minute.
    :param overwrite: replace existing scenes, and discard unfinished ones made with other settings.
    :param elsewhere: makes the scenes, instead of processes of this machine; see ``dipole data make --engine ray``.
    :returns: the folder of the scenes. When it exists already, it says so and does nothing.
    :raises DatasetError: unknown name, unfinished scenes made with other settings, another process making the same
        data set, or files that cannot be written. Finished scenes are kept.
    :raises ValueError: a number out of its range.
    """
    work = _Work(made_name(name), data_directory(dataset_dir), at_least("seed", 0, seed), at_least("scenes", 1, scenes))
    processes = at_least("processes", 1, available_cores() if processes is None else processes)
    with alone(work.target, work.folder, f".{work.name}.lock", "scenes"):
        _make(work, processes, progress and elsewhere is None, overwrite, elsewhere)
    return work.target


@dataclass(frozen=True)
class _Task:
    """One scene: its split and its place there, from 0."""

    split: str
    index: int


def _task_name(task: _Task) -> str:
    return f"{task.split} scene {task.index}"


@dataclass(frozen=True)
class _Making:
    """What a worker does for each task."""

    folder: Path
    seed: int

    def __call__(self, task: _Task) -> None:
        # Only workers need highway-env, which takes a while to import.
        from dipole_sb3.driving.scenes.making import make_scene

        # Independent of how many scenes there are and of who makes this one.
        seed = np.random.SeedSequence(self.seed, spawn_key=(SPLITS.index(task.split), task.index))
        make_scene(self.folder, task.split, task.index, seed)


@dataclass(frozen=True)
class _Work:
    """One data set in the making, and where its files go."""

    name: str
    directory: Path
    seed: int
    scenes: int

    @property
    def target(self) -> Path:
        return self.directory / self.name

    @property
    def folder(self) -> Path:
        """Hidden folder of finished scenes."""
        return self.directory / f".{self.name}.partial"

    @property
    def replaced(self) -> Path:
        """What an earlier data set is called while the new one takes its name."""
        return self.directory / f".{self.name}.replaced"

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that a scene's content depends on; the number of scenes is not among it."""
        versions = {package: version(package) for package in _PACKAGES}
        return {"dataset": f"{PREFIX}{self.name}", "seed": self.seed, **versions}

    @property
    def counts(self) -> dict[str, int]:
        return {"train": self.scenes, "test": max(1, self.scenes // 3)}

    def tasks(self) -> list[_Task]:
        return [_Task(split, index) for split, count in self.counts.items() for index in range(count)]


def _make(work: _Work, processes: int, progress: bool, overwrite: bool, elsewhere: Finish | None) -> None:
    _finish_replacing(work)
    if work.target.exists() and not overwrite:
        print(f"{work.target} exists already: nothing to do (overwrite=True makes it anew).", file=sys.stderr)
        return
    if work.target.exists() and not (work.target / _RECORD).is_file():
        raise DatasetError(f"{work.target}: has no {_RECORD} in it, so it is not overwritten; expected made scenes")
    open_unfinished(work.folder, work.settings, "scenes", overwrite)
    tasks = work.tasks()
    todo = [task for task in tasks if not is_written(work.folder, task.split, task.index)]
    bar = progress_bar(progress, total=len(tasks), initial=len(tasks) - len(todo), desc=work.name, unit=" scenes")
    making = _Making(work.folder, work.seed)
    kept = "finished scenes are kept, and the same call goes on from there"
    try:
        if elsewhere is not None:
            for _ in elsewhere(making, todo, _task_name, work.folder):
                pass
        else:
            with bar, closing(finish_tasks(making, todo, processes, _task_name, kept)) as finished:
                for _ in finished:
                    bar.update()
        _finish(work)
    except KeyboardInterrupt:
        made = sum(is_written(work.folder, task.split, task.index) for task in tasks)
        print(
            f"Interrupted: {made} of {len(tasks)} scenes are kept in {work.folder}; the same call goes on from there.",
            file=sys.stderr,
        )
        raise


def _finish(work: _Work) -> None:
    """The hidden folder takes the target's name."""
    remove_others(work.folder, work.counts)
    write_json(work.folder / _RECORD, work.settings | {"scenes": work.counts})
    if work.target.exists():
        work.target.rename(work.replaced)
    work.folder.rename(work.target)
    shutil.rmtree(work.replaced, ignore_errors=True)
    (work.target / "settings.json").unlink(missing_ok=True)


def _finish_replacing(work: _Work) -> None:
    """Finishes what a process began that was killed between two names."""
    if work.replaced.exists():
        if work.target.exists():
            shutil.rmtree(work.replaced)
        else:
            work.replaced.rename(work.target)
    (work.target / "settings.json").unlink(missing_ok=True)
