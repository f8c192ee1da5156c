"""What a user adds to a run: SB3 callbacks and KVWriters that the configuration names, made for each run anew."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import KVWriter

from dipole_sb3.cli import run_folder
from dipole_sb3.cli.configuration import dotted
from dipole_sb3.cli.models import algorithm_of
from dipole_sb3.cli.resuming import Resume
from dipole_sb3.cli.runs import HOOKS, Run, setting_of
from dipole_sb3.evaluation.sweep import SweepRow
from dipole_sb3.tracking.tracker import IDS, Tracker

_KINDS: Mapping[str, type[Any]] = {"callbacks": BaseCallback, "loggers": KVWriter}


class AddedCallbacks(CallbackList):
    """The callbacks that a user added to a run; remembers whether one of them ended the training."""

    ended = False

    def _on_step(self) -> bool:
        going = super()._on_step()
        self.ended |= not going
        return going


class Hooks(NamedTuple):
    """Of one run."""

    callbacks: AddedCallbacks
    loggers: list[KVWriter]


def check_hooks(run: Run) -> None:
    """Refuses entries that cannot be made, before anything starts.

    :raises ValueError: no such class, a class of the wrong kind, or arguments that it does not take; the message names
        the entry.
    :raises ModuleNotFoundError: the package of a shipped entry is not installed.
    """
    for kind in HOOKS:
        for name, entry in _entries(run.config, kind).items():
            _target(f"{kind}.{name}", _KINDS[kind], entry, run)


def made_hooks(run: Run, resume: Resume, opened: ExitStack) -> Hooks:
    """A run's callbacks and loggers.

    :param resume: whether trackers go on with the run that they know.
    :param opened: closes the loggers.
    :raises ValueError: an entry refuses its arguments.
    """
    made: dict[str, list[Any]] = {kind: [] for kind in HOOKS}
    # A run that replaces another begins anew in its trackers, too.
    with _forgotten(run.folder / IDS, not resume or run_folder.is_being_replaced(run.folder)):
        for kind in HOOKS:
            for name, entry in _entries(run.config, kind).items():
                made[kind].append(_made(f"{kind}.{name}", _KINDS[kind], entry, run))
                if kind == "loggers":
                    close_with(opened, made[kind][-1])
    return Hooks(AddedCallbacks(made["callbacks"]), made["loggers"])


def close_with(opened: ExitStack, logger: KVWriter) -> None:
    """Closes a run's logger at the end of the block; a tracker is told how it ended."""

    def close(kind: type[BaseException] | None, *_: Any) -> None:
        if isinstance(logger, Tracker) and kind is not None:
            logger.outcome = "stopped" if issubclass(kind, SystemExit | KeyboardInterrupt) else "failed"
        logger.close()

    opened.push(close)


@contextmanager
def _forgotten(file: Path, is_old: bool) -> Iterator[None]:
    """Removes the file if it is old; it is there again when the block fails, as nothing has taken its place then."""
    content = file.read_bytes() if is_old and file.exists() else None
    if content is not None:
        file.unlink()
    try:
        yield
    except BaseException:
        if content is not None:
            file.write_bytes(content)
        raise


def write_result(loggers: Sequence[KVWriter], rows: Sequence[SweepRow], step: int) -> None:
    """Sends the evaluation that ends a run to its trackers, e.g. ``sweep/return_mean/omega 1 num_candidates 4``."""
    values = {}
    for row in rows:
        setting = " ".join(f"{name} {value:g}" for name, value in row.setting.items())
        for quantity in ("return_mean", "success_mean"):
            if getattr(row, quantity) is not None:
                values["/".join(filter(None, ("sweep", quantity, setting)))] = getattr(row, quantity)
    for logger in loggers:
        if isinstance(logger, Tracker):
            logger.write_result(values, step)


def _entries(config: DictConfig, kind: str) -> dict[str, dict[str, Any]]:
    # All of it is resolved: an entry may refer to other options, e.g. ${run_dir}.
    options: Any = OmegaConf.to_container(config, resolve=True)
    plain = options.get(kind) or {}
    if not isinstance(plain, dict):
        raise ValueError(
            f"{kind} is {plain!r}, expected entries by their names, e.g. +{kind}.mine._target_=my_module.Mine"
        )
    for name, entry in plain.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("_target_"), str):
            raise ValueError(
                f"{kind}.{name} is {entry!r}, expected _target_ with the path of a class, and its arguments"
            )
        for argument, value in entry.items():
            if value == "???":
                raise ValueError(f"the option {kind}.{name}.{argument} is missing; give {kind}.{name}.{argument}=VALUE")
            if "_target_" in _keys(value):
                raise ValueError(
                    f"{kind}.{name}.{argument} has a _target_ of its own, expected plain values: only an entry's own "
                    "class is called"
                )
    return plain


def _keys(value: Any) -> set[Any]:
    """The names in a value, at any depth."""
    if isinstance(value, dict):
        return set(value).union(*map(_keys, value.values()))
    return set().union(*map(_keys, value)) if isinstance(value, list) else set()


def _target(where: str, kind: type[Any], entry: Mapping[str, Any], run: Run) -> tuple[Callable[..., Any], Any]:
    """The class of an entry, and the arguments for it."""
    path = entry["_target_"]
    module, _, name = path.rpartition(".")
    try:
        target = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module}.".startswith(f"{error.name}."):
            raise  # of a package that the module needs
        raise ValueError(f"{where}._target_ is {path}, but there is no module {error.name} on Python's path") from error
    except (AttributeError, ValueError) as error:
        raise ValueError(f"{where}._target_ is {path}, expected the path of a class, e.g. my_module.Mine") from error
    if not callable(target) or (isinstance(target, type) and not issubclass(target, kind)):
        raise ValueError(f"{where}._target_ is {path}, expected a sub-class of SB3's {kind.__name__}")
    arguments = {name: value for name, value in entry.items() if name != "_target_"}
    signature = inspect.signature(target)
    offered = {
        "run_folder": run.folder,
        "run_config": OmegaConf.to_container(run.config, resolve=True),
        "run_options": _options(run),
        "run_group": _group(run),
    }
    arguments |= {name: offered[name] for name in offered.keys() & signature.parameters.keys() - arguments.keys()}
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ValueError(f"{where}: {error}; {path} takes {signature}") from error
    return target, arguments


def _made(where: str, kind: type[Any], entry: Mapping[str, Any], run: Run) -> Any:
    target, arguments = _target(where, kind, entry, run)
    try:
        made = target(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
    if not isinstance(made, kind):
        raise ValueError(f"{where}._target_ made {type(made).__name__}, expected SB3's {kind.__name__}")
    return made


def _options(run: Run) -> dict[str, Any]:
    options: Any = OmegaConf.to_container(run.config, resolve=True)
    return dict(dotted({name: value for name, value in options.items() if name not in HOOKS}))


def _group(run: Run) -> str:
    """A name that exactly the seeds of a setting share, on all machines."""
    digest = hashlib.sha256(json.dumps(setting_of(run.config)).encode()).hexdigest()
    return f"{algorithm_of(run.config).__name__} {run.config.task.name} {digest[:8]}"
