"""Makes OGBench data sets anew: same distribution as the originals, no download.

Finished episodes are kept as files in a hidden folder beside the target, so that a run that was stopped, killed or
that ran out of disk goes on where it was. The same name and seed give the same bytes, whatever the number of
processes and interruptions (with the same versions of ogbench, MuJoCo and NumPy; pictures also with the same renderer).
"""

from __future__ import annotations

import re
import shutil
import sys
import zipfile
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from dipole_sb3.common.child_processes import available_cores
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.progress import progress_bar
from dipole_sb3.common.renderers import off_screen_renderer
from dipole_sb3.common.task_processes import Finish
from dipole_sb3.datasets.ogbench.names import data_directory, near_matches, require_ogbench, split_files
from dipole_sb3.datasets.ogbench.oracles import RECIPES, VISUAL, Recipe
from dipole_sb3.datasets.ogbench.workers import Job, Task, make_episodes
from dipole_sb3.datasets.unfinished import alone, at_least, open_unfinished, write_json

__all__ = ["dataset_names", "find_recipe", "make_dataset"]

_NEEDS_EXPERTS = ("antmaze", "humanoidmaze", "antsoccer")


def dataset_names() -> list[str]:
    """Data sets that can be made, without version: ``cube-single-play``, ``visual-cube-single-play``, …"""
    return sorted(RECIPES)


def find_recipe(name: str) -> Recipe:
    """How a data set is made.

    :param name: ``cube-single-play``; also with ``ogbench/`` before it, ``-v0`` after it, or as a single-task name.
    :raises DatasetError: unknown name (the nearest ones are offered), or one that cannot be made here.
    """
    stem = re.sub(r"(-singletask(-task\d+)?)?(-v0)?$", "", name.removeprefix("ogbench/"))
    if stem in RECIPES:
        return RECIPES[stem]
    if stem.removeprefix(VISUAL).startswith(_NEEDS_EXPERTS):
        raise DatasetError(
            f"{name} cannot be made: its oracle is a trained expert that OGBench does not ship; download it"
        )
    raise DatasetError(f"{name} is no data set that can be made{near_matches(stem, RECIPES)}")


def make_dataset(
    name: str,
    *,
    episodes: int | None = None,
    seed: int = 0,
    processes: int | None = None,
    dataset_dir: str | Path | None = None,
    progress: bool = True,
    overwrite: bool = False,
    max_episode_steps: int | None = None,
    elsewhere: Finish | None = None,
) -> Path:
    """Makes ``{name}-v0.npz`` and ``{name}-v0-val.npz`` with the oracles that ship inside ogbench.

    The files have the originals' keys, dtypes and layout; :func:`~dipole_sb3.load_dataset` finds them. A script that
    calls this needs ``if __name__ == "__main__":``, because worker processes import it.

    :param name: ``cube-single-play``, ``scene-noisy``, ``puzzle-4x4-play``, ``pointmaze-giant-stitch``, …
    :param episodes: training episodes, ≥ 1; validation gets max(1, a tenth). Default: as many as the original has.
    :param seed: of the whole data set, ≥ 0.
    :param processes: episodes made at a time, ≥ 1; default: the cores this process may use.
    :param dataset_dir: target folder; default ``$OGBENCH_DATA_DIR``, else ``~/.ogbench/data``.
    :param progress: show a progress bar; where there is no terminal, a line a minute.
    :param overwrite: replace existing files, and discard unfinished episodes made with other settings.
    :param max_episode_steps: steps of an episode, ≥ 2; default: as in the original.
    :param elsewhere: makes the episodes, instead of processes of this machine; see ``dipole data make --engine ray``.
    :returns: path of the training file. When both files exist already, it says so and does nothing.
    :raises DatasetError: unknown name, pictures where MuJoCo cannot draw, unfinished episodes made with other settings,
        another process making the same data set, or files that cannot be written. Finished episodes are kept.
    :raises ValueError: a number out of its range.
    """
    recipe = find_recipe(name)
    require_ogbench()
    episodes = at_least("episodes", 1, recipe.episodes if episodes is None else episodes)
    steps = at_least(
        "max_episode_steps", 2, recipe.max_episode_steps if max_episode_steps is None else max_episode_steps
    )
    processes = at_least("processes", 1, available_cores() if processes is None else processes)
    work = _Work(recipe, data_directory(dataset_dir), at_least("seed", 0, seed), steps, episodes)
    with alone(work.target, work.folder, f".{work.dataset}.lock", "episodes"):
        _make(work, processes, progress and elsewhere is None, overwrite, elsewhere)
    return work.target


@dataclass(frozen=True)
class _Work:
    """One data set in the making, and where its files go."""

    recipe: Recipe
    directory: Path
    seed: int
    max_episode_steps: int
    episodes: int
    renderer: str | None = None

    @property
    def dataset(self) -> str:
        return f"{self.recipe.name}-v0"

    @property
    def target(self) -> Path:
        return split_files(self.directory, self.dataset)[0]

    @property
    def validation_target(self) -> Path:
        return split_files(self.directory, self.dataset)[1]

    @property
    def record(self) -> Path:
        """Note beside the files on how they were made."""
        return self.directory / f"{self.dataset}.json"

    @property
    def folder(self) -> Path:
        """Hidden folder of finished episodes."""
        return self.directory / f".{self.dataset}.partial"

    @property
    def finished_folder(self) -> Path:
        """What the hidden folder is called during its deletion, so that half of it is never taken for progress."""
        return self.directory / f".{self.dataset}.finished"

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that an episode's content depends on; the number of episodes is not among it."""
        return {
            "dataset": self.dataset,
            "seed": self.seed,
            "max_episode_steps": self.max_episode_steps,
            **{package: version(package) for package in ("ogbench", "mujoco", "numpy")},
            **({} if self.renderer is None else {"renderer": self.renderer}),
        }

    def tasks(self, split: str) -> list[Task]:
        count = self.episodes if split == "train" else max(1, self.episodes // 10)
        return [Task(split, index) for index in range(count)]


def _make(work: _Work, processes: int, progress: bool, overwrite: bool, elsewhere: Finish | None) -> None:
    shutil.rmtree(work.finished_folder, ignore_errors=True)
    if not overwrite and _already_there(work):
        return
    if work.recipe.is_visual:
        work = replace(work, renderer=off_screen_renderer(f"{work.recipe.name} has pictures"))
    open_unfinished(work.folder, work.settings, "episodes", overwrite)
    tasks = work.tasks("train") + work.tasks("val")
    todo = [task for task in tasks if not zipfile.is_zipfile(task.file(work.folder))]
    job = Job(work.recipe.name, work.max_episode_steps, work.seed, work.folder, work.renderer)
    bar = progress_bar(progress, total=len(tasks), initial=len(tasks) - len(todo), desc=work.dataset, unit=" episodes")
    try:
        with bar, closing(make_episodes(job, todo, processes, elsewhere)) as finished:
            for _ in finished:
                bar.update()
            bar.set_description_str(f"{work.dataset}, compressing")
            _finish(work)
    except KeyboardInterrupt:
        kept = sum(zipfile.is_zipfile(task.file(work.folder)) for task in tasks)
        _say(
            f"Interrupted: {kept} of {len(tasks)} episodes are kept in {work.folder}; the same call goes on from there."
        )
        raise


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _already_there(work: _Work) -> bool:
    """Whether there is nothing to do; refuses to overwrite half of a pair."""
    present = [path for path in (work.target, work.validation_target) if path.exists()]
    if len(present) == 1 and not work.folder.exists():
        raise DatasetError(
            f"{present[0]} exists without its other split; move it away or pass overwrite=True to make both anew"
        )
    if len(present) == 2:
        _say(f"{work.target} and its -val split exist already: nothing to do (overwrite=True makes them anew).")
    return len(present) == 2


def _finish(work: _Work) -> None:
    """Both files from the episodes. The training file comes last: where it is, all is."""
    pairs = {work.validation_target: work.tasks("val"), work.target: work.tasks("train")}
    compressed = {target: work.folder / f"{target.name}.tmp" for target in pairs}
    try:
        for target, tasks in pairs.items():
            _join([task.file(work.folder) for task in tasks], compressed[target])
        sizes = {target.name: compressed[target].stat().st_size for target in pairs}
        write_json(work.record, work.settings | {"episodes": work.episodes, "bytes": sizes})
        for target in pairs:
            compressed[target].replace(target)
    finally:
        for path in compressed.values():
            path.unlink(missing_ok=True)
    work.folder.rename(work.finished_folder)
    shutil.rmtree(work.finished_folder)


def _join(parts: list[Path], target: Path) -> None:
    """Writes what ``np.savez_compressed`` would of all episodes one after the other, holding one in memory."""
    lengths = [len(_column(part, "terminals")) for part in parts]
    with np.load(parts[0]) as first:
        columns = {key: first[key] for key in first.files}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, example in columns.items():
            header = {
                "descr": np.lib.format.dtype_to_descr(example.dtype),
                "fortran_order": False,
                "shape": (sum(lengths), *example.shape[1:]),
            }
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for part in parts:
                    member.write(_column(part, key).tobytes())


def _column(part: Path, key: str) -> np.ndarray[Any, Any]:
    """One array of a finished episode; a damaged file is removed, so that the next call makes it again."""
    try:
        with np.load(part) as episode:
            return np.ascontiguousarray(episode[key])
    except OSError:
        raise
    except Exception as error:  # NumPy raises errors of many kinds for damaged bytes
        part.unlink()
        raise DatasetError(
            f"{part} was damaged and is removed ({error}); the same call makes this episode again"
        ) from error
