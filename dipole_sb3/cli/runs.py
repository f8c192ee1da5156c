"""The runs of one command line: their configurations, their folders, and which of them can learn together."""

from __future__ import annotations

import copy
import glob
import json
import shlex
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from dipole_sb3.cli import claim, run_folder
from dipole_sb3.cli.configuration import dotted
from dipole_sb3.cli.models import algorithm_of
from dipole_sb3.cli.options import TrainOptions, check_options

_OF_ONE_RUN = ("seed", "runs", "run_dir", "replace")
"""Options that are not part of a setting."""

OF_THE_MACHINE = (
    *("processes", "progress_bar", "pictures", "profile", "log_interval", "checkpoint_freq", "checkpoint_minutes"),
    *("algo.verbose", "algo.device", "task.dataset_dir"),
    *("objective", "objective_at.omega", "objective_at.guidance", "objective_at.num_candidates"),
)
"""Options that change nothing of what a run learns or how it is evaluated."""

HOOKS = ("callbacks", "loggers")
"""Options that hold what a user added to a run; see :mod:`~dipole_sb3.cli.hooks`."""


class Run(NamedTuple):
    """One run.

    :param config: resolved configuration of this run only: ``runs`` is 1.
    :param folder: folder of the run.
    :param setting: overrides of the command line (in a sweep: of this job), except ``seed``, ``runs``, ``run_dir`` and
        ``replace``; runs that differ only in their seed have the same setting.
    :param collection: folder that contains only the runs of this command line; None if there is none.
    :param own_name: whether the command line gave the folder's name; if not, another may be taken when it is in use.
    """

    config: DictConfig
    folder: Path
    setting: tuple[str, ...] = ()
    collection: Path | None = None
    own_name: bool = True


def runs_of(
    config: DictConfig, folder: Path, overrides: Sequence[str], sweep_folder: Path | None, own_name: bool = True
) -> list[Run]:
    """The runs that a composed configuration asks for: ``runs`` of them, with seeds ``seed``, ``seed + 1``, ….

    ``run_dir`` of each run is composed with its own seed. If the folders are then not different, or the job has another
    folder (in a sweep), the runs go to ``FOLDER/seedN``.

    :param config: as composed from train.yaml; its interpolations must be resolvable at this point.
    :param folder: Hydra's folder for the job.
    :param overrides: overrides of the job.
    :param sweep_folder: in a sweep, the folder of all jobs; else None.
    :param own_name: as of :class:`Run`.
    :raises ValueError: an option has the wrong type or is out of range.
    """
    check_options(config, TrainOptions)
    configs = [with_seed(config, config.seed + number) for number in range(config.runs)]
    folders, collection = [folder], sweep_folder
    if config.runs > 1:
        folders = [Path(each.run_dir) for each in configs]
        if len(set(folders)) < len(folders) or folders[0].resolve() != folder.resolve():
            folders = [folder / f"seed{each.seed}" for each in configs]
            collection = sweep_folder or folder
    setting = tuple(each for each in overrides if each.split("=")[0].lstrip("+") not in _OF_ONE_RUN)
    for each, own in zip(configs, folders, strict=True):
        each.run_dir = str(own)
    return [Run(each, own, setting, collection, own_name) for each, own in zip(configs, folders, strict=True)]


def with_seed(config: DictConfig, seed: int) -> DictConfig:
    """One run's part of a configuration: resolved, with this seed."""
    config = copy.deepcopy(config)
    config.seed, config.runs = seed, 1
    resolved: Any = {}
    if hooks := [name for name in HOOKS if config.get(name)]:
        added = copy.deepcopy(config)
        # An escaped interpolation resolves to an interpolation: the folder may still get another name.
        added.run_dir = r"\${run_dir}"
        entries_of: Any = OmegaConf.to_container(added, resolve=True)
        resolved = {name: entries_of[name] for name in hooks}
    OmegaConf.resolve(config)
    for name, entries in resolved.items():
        config[name] = entries
    return config


def resumed(config: DictConfig, folder: Path) -> Run:
    """A run to continue; its setting holds all its options, and :func:`distinguished` keeps only those that differ."""
    return Run(config, folder, setting_of(config))


def setting_of(config: DictConfig) -> tuple[str, ...]:
    """What a run is, apart from its seed: every option that changes what it learns or how it is evaluated."""
    options = OmegaConf.to_container(config)
    assert isinstance(options, dict)
    for name in (*_OF_ONE_RUN, *HOOKS):
        options.pop(name, None)
    return tuple(f"{name}={value}" for name, value in dotted(options) if name not in OF_THE_MACHINE)


def require_different(runs: Sequence[Run]) -> None:
    """Refuses identical runs, and runs that share a folder.

    :raises ValueError: the message names them.
    """
    for (setting, seed), count in Counter((run.setting, run.config.seed) for run in runs).items():
        if count > 1:
            options = " ".join([*setting, f"seed={seed}"])
            raise ValueError(f"{count} runs are the same ({options}), expected every seed once in a setting")
    for folder, count in Counter(run.folder.resolve() for run in runs).items():
        if count > 1:
            raise ValueError(f"{count} runs have the folder {folder}, expected one for each")


def claim_folders(runs: Sequence[Run], opened: ExitStack, may_be_used: bool = False) -> list[Run]:
    """Keeps other processes from writing the folders of all runs, or refuses all of them.

    A folder whose name nobody gave gets another name if it is in use: two commands may begin in the same second.

    :param opened: keeps the claims until it is closed.
    :param may_be_used: whether there may be a run in a folder, which is to go on.
    :return: the runs, with the folders that they have got.
    :raises ValueError: a folder is claimed by another process, or has a run already that may not be replaced.
    """
    claimed = []
    for run in runs:
        if may_be_used or run.own_name or run.config.replace:
            advice = "wait for it or stop it" if may_be_used else "wait for it, stop it, or give another run_dir"
            require_unused = run_folder.require_unused if not may_be_used and not run.config.replace else _anything
            require_unused(run.folder)  # nothing of a run that is refused is touched
            opened.enter_context(claim.claimed(run.folder, advice))
            require_unused(run.folder)  # it may have ended just before the claim
            claimed.append(run)
        else:
            folder = claim.claim_free(run.folder, opened, run_folder.is_used)
            run.config.run_dir = str(folder)
            claimed.append(run._replace(folder=folder))
    return claimed


def _anything(_: Path) -> None:
    """Refuses no folder."""


def stackable_groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Groups of runs that can learn together: in a group, only seeds and options that may vary per model differ.

    The groups are in the order of their first runs.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_shared_options(run.config), []).append(run)
    return list(groups.values())


def _shared_options(config: DictConfig) -> str:
    """All options that must be equal within a group, as text."""
    options = OmegaConf.to_container(config)
    assert isinstance(options, dict)
    stackable = algorithm_of(config).stackable()
    algorithm = {name: value for name, value in options["algo"].items() if name not in stackable}
    # Every run has callbacks and loggers of its own.
    rest = {name: value for name, value in options.items() if name not in ("algo", "seed", "run_dir", *HOOKS)}
    return json.dumps([algorithm, rest], sort_keys=True)


def distinguished(runs: Sequence[Run]) -> list[Run]:
    """The same runs with shorter settings: without the overrides that all of them share."""
    shared = set.intersection(*(set(run.setting) for run in runs))
    return [run._replace(setting=tuple(each for each in run.setting if each not in shared)) for run in runs]


def settings(runs: Sequence[Run]) -> dict[tuple[str, ...], list[Run]]:
    """The runs, grouped by setting."""
    found: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        found.setdefault(run.setting, []).append(run)
    return found


def shell_words(runs: Sequence[Run]) -> str:
    """The folders of runs for a shell: the folder or pattern of exactly these runs if there is one, else all."""
    folders = {run.folder.resolve() for run in runs}
    collection = runs[0].collection
    if (
        collection is not None
        and {path.parent.resolve() for path in collection.glob(f"*/{run_folder.CONFIG}")} == folders
    ):
        return shlex.quote(str(collection))
    # The default run_dir ends in the seed: …-seed0, …-seed1.
    starts = {str(run.folder).removesuffix(str(run.config.seed)) for run in runs}
    start = starts.pop()
    if (
        not starts
        and start == shlex.quote(start)
        and {Path(name).resolve() for name in glob.glob(f"{start}*")} == folders
    ):
        return f"{start}*"
    return shlex.join(str(run.folder) for run in runs)
