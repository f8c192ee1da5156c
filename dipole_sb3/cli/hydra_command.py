"""Runs a function under Hydra with a given command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig

from dipole_sb3.cli import errors
from dipole_sb3.cli.claim import remove_empty
from dipole_sb3.cli.configuration import VERSION_BASE, config_folder

_MAIN: dict[str, Any] = VERSION_BASE or {
    "execution_whitelist": ["dipole_sb3.*", "hydra.*", "hydra_plugins.*", "optuna.*"]
}
"""From 1.4 on, Hydra is told whose classes a configuration may have it make: plugins, and this package's callback."""

_BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
_BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


class EveryJobFails(ValueError):
    """An option of the command line with which no job of a sweep can end well, so that none is to begin."""


class SweepEnd(Callback):
    """Hydra's callback that notes the folder of a multirun whose jobs were other processes, or alone."""

    folder: ClassVar[Path | None] = None

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        SweepEnd.folder = Path(config.hydra.sweep.dir)


def run(command: str, job: Callable[[DictConfig, Path], Any], arguments: list[str], called: str | None = None) -> int:
    """Composes ``command``.yaml with the overrides and calls ``job(config, folder)``; several times in a multirun.

    :param command: name of the sub-command and of its file in the configuration tree.
    :param job: takes the composed configuration and the folder that Hydra made for its output; what it returns goes to
        the sweeper.
    :param arguments: Hydra's command line: overrides and flags.
    :param called: what the user called the sub-command, if it is not the name of its file.
    :return: 0; failures raise.
    """

    def guarded(config: DictConfig) -> Any:
        folder = _short(Path(HydraConfig.get().runtime.output_dir))
        try:
            return job(config, folder)
        except Exception as error:
            if errors.was_interrupted(error):
                raise KeyboardInterrupt from error
            if not isinstance(error, errors.USER_ERRORS) or errors.full_trace_wanted():
                raise
            if sweeper_needs_results() and not isinstance(error, EveryJobFails):
                raise  # it may go on after some failures
            # SystemExit passes through Hydra, which would print a traceback for anything else.
            print(f"dipole: {errors.sentence(error, arguments)}", file=sys.stderr)
            raise SystemExit(1) from error
        finally:
            _remove_if_empty(folder)

    SweepEnd.folder = None
    main: Any = hydra.main(config_path=str(config_folder()), config_name=command, **_MAIN)(guarded)
    with _called_as([f"dipole {called or command}", *arguments]):
        main()
    return 0


def folder_of_finished_sweep() -> Path | None:
    """The folder of the multirun that :func:`run` has run, if there is something in it."""
    folder = SweepEnd.folder
    if folder is None or not folder.is_dir():
        return None
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def overrides() -> list[str]:
    """Overrides of the running job, as on its command line; in a multirun, with the values of this job."""
    return list(HydraConfig.get().overrides.task)


def sweep_folder() -> Path | None:
    """The common folder of all jobs of the running multirun; None outside a multirun."""
    config = HydraConfig.get()
    return _short(Path(config.runtime.cwd, config.sweep.dir)) if config.mode == RunMode.MULTIRUN else None


def folder_was_named() -> bool:
    """Whether the command line of the running job says where its output goes, instead of a name made of the time."""
    config = HydraConfig.get()
    names = {override.split("=")[0].lstrip("+") for override in (*config.overrides.task, *config.overrides.hydra)}
    # In a multirun run_dir decides nothing, and hydra.sweep.subdir is below a folder that is named after the time.
    naming = {"hydra.sweep.dir"} if config.mode == RunMode.MULTIRUN else {"run_dir", "hydra.run.dir"}
    return not names.isdisjoint(naming)


def choices() -> tuple[str, str]:
    """The running job's values of ``algo=`` and ``task=``."""
    chosen = HydraConfig.get().runtime.choices
    return str(chosen["algo"]), str(chosen["task"])


def job_stands_alone() -> bool:
    """Whether the running job must do its work at once.

    So it is when Hydra made a process or environment variables for it, or waits for its result.
    """
    config = HydraConfig.get()
    return config.launcher["_target_"] != _BASIC_LAUNCHER or bool(config.job.env_set) or sweeper_needs_results()


def sweeper_needs_results() -> bool:
    """Whether the running job belongs to a sweeper that chooses the next jobs by what the last ones returned."""
    if not HydraConfig.initialized():
        return False
    config = HydraConfig.get()
    return bool(config.mode == RunMode.MULTIRUN and config.sweeper["_target_"] != _BASIC_SWEEPER)


def sweep_directions() -> list[str]:
    """What a searching sweeper does with the results, MINIMIZE or MAXIMIZE; empty if it does not say."""
    if not sweeper_needs_results():
        return []
    found = HydraConfig.get().sweeper.get("direction")
    directions = found if isinstance(found, ListConfig) else [found]
    return [getattr(each, "name", str(each)).upper() for each in directions]


@contextmanager
def _called_as(arguments: list[str]) -> Iterator[None]:
    """Sets ``sys.argv``, which Hydra reads, and HYDRA_FULL_ERROR, which makes Hydra raise errors, not print them."""
    before, before_arguments = os.environ.get("HYDRA_FULL_ERROR"), sys.argv
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = arguments
    try:
        yield
    finally:
        sys.argv = before_arguments
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def _short(folder: Path) -> Path:
    """The folder relative to the working directory if it is inside, as the user would type it.

    It stays absolute if hydra.job.chdir has changed the working directory for the job.
    """
    cwd = Path(HydraConfig.get().runtime.cwd)
    return folder.relative_to(cwd) if Path.cwd() == cwd and folder.is_relative_to(cwd) else folder


def _remove_if_empty(folder: Path) -> None:
    """Removes the empty folder of a run that could not start."""
    if folder.resolve() != Path.cwd() and folder.is_dir() and not any(folder.iterdir()):
        remove_empty(folder)
