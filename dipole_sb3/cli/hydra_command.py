"""Runs a function under Hydra with a given command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from dipole_sb3.cli import errors
from dipole_sb3.cli.configuration import config_folder

_BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


def run(command: str, job: Callable[[DictConfig, Path], None], arguments: list[str]) -> int:
    """Composes ``command``.yaml with the overrides and calls ``job(config, folder)``, for a multirun several times.

    :param command: name of the sub-command and of its file in the configuration tree.
    :param job: gets the composed configuration and the folder Hydra made for its output.
    :param arguments: Hydra's command line: overrides and flags.
    :return: 0; failures raise.
    """

    def guarded(config: DictConfig) -> None:
        folder = _short(Path(HydraConfig.get().runtime.output_dir))
        try:
            job(config, folder)
        except Exception as error:
            if errors.was_interrupted(error):
                raise KeyboardInterrupt from error
            if not isinstance(error, errors.USER_ERRORS) or errors.full_trace_wanted():
                raise
            # SystemExit passes through Hydra, which would print a traceback for anything else.
            print(f"dipole: {errors.sentence(error, arguments)}", file=sys.stderr)
            raise SystemExit(1) from error
        finally:
            _remove_if_empty(folder)

    main: Any = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=command)(guarded)
    with _called_as([f"dipole {command}", *arguments]):
        main()
    return 0


def overrides() -> list[str]:
    """Of the job that runs, as its command line has them; in a multirun with the job's own values."""
    return list(HydraConfig.get().overrides.task)


def sweep_folder() -> Path | None:
    """Of all jobs of the multirun to which the one that runs belongs; None outside of one."""
    config = HydraConfig.get()
    return _short(Path(config.runtime.cwd, config.sweep.dir)) if config.mode == RunMode.MULTIRUN else None


def job_stands_alone() -> bool:
    """Whether the job that runs must do its work itself: in a process or an environment that Hydra made for it."""
    config = HydraConfig.get()
    return config.launcher["_target_"] != _BASIC_LAUNCHER or bool(config.job.env_set)


@contextmanager
def _called_as(arguments: list[str]) -> Iterator[None]:
    """Hydra reads the process's arguments, and raises errors for the caller to word if the environment asks for it."""
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
    """Relative to the working directory where it lies inside, as the user would type it.

    Absolute where hydra.job.chdir has changed that directory for the job.
    """
    cwd = Path(HydraConfig.get().runtime.cwd)
    return folder.relative_to(cwd) if Path.cwd() == cwd and folder.is_relative_to(cwd) else folder


def _remove_if_empty(folder: Path) -> None:
    """A run that could not start leaves no folder behind, nor the ones that were made above it."""
    if folder.resolve() != Path.cwd() and folder.is_dir() and not any(folder.iterdir()):
        # A relative path goes no higher than the working directory.
        folder.rmdir() if folder.is_absolute() else os.removedirs(folder)
