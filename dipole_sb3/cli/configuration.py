"""Finds the configuration tree and lists what it offers."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from omegaconf import OmegaConf


@cache
def config_folder() -> Path:
    """The folder with train.yaml, evaluate.yaml, demo.yaml and the groups: installed, or in the root of a checkout."""
    spec = importlib.util.find_spec("dipole_sb3.configs")
    package = Path(__file__).parents[1]
    candidates = [Path(spec.origin).parent] if spec is not None and spec.origin else []
    for folder in (*candidates, package.parent / "configs"):
        if (folder / "train.yaml").is_file():
            return folder
    raise FileNotFoundError(f"{package}: the configuration tree, dipole_sb3.configs, is not installed beside it")


VERSION_BASE: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3") else {}
"""Hydra 1.3 takes 1.1's defaults without this argument, and 1.4 warns of it."""


def open_configuration_tree() -> Any:
    """A context in which ``hydra.compose`` finds train.yaml and the others."""
    return hydra.initialize_config_dir(str(config_folder()), **VERSION_BASE)


@cache
def task_names() -> tuple[str, ...]:
    """Every value that ``task=`` takes, e.g. ``ogbench/cube-single-play``."""
    folder = config_folder() / "task"
    return tuple(sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml")))


@cache
def driving_names() -> tuple[str, ...]:
    """Every NAME that ``task=driving/NAME`` takes."""
    return tuple(sorted(file.stem for file in (config_folder() / "driving").glob("*.yaml")))


@cache
def algorithm_names() -> tuple[str, ...]:
    """Every value that ``algo=`` takes."""
    return tuple(sorted(file.stem for file in (config_folder() / "algo").glob("*.yaml")))


@cache
def suite_names() -> tuple[str, ...]:
    """Every value that ``suite=`` takes, e.g. ``paper/ogbench``."""
    folder = config_folder() / "suite"
    return tuple(sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml")))


def suite_sentences() -> dict[str, str]:
    """The first sentence of every suite's text."""
    folder = config_folder() / "suite"
    files: dict[str, Any] = {name: OmegaConf.load(folder / f"{name}.yaml") for name in suite_names()}
    return {name: str(file.about).partition(". ")[0] for name, file in files.items()}


def is_tuned(algorithm: str, task: str) -> bool:
    """Whether an algorithm has hyperparameters of its own for a task.

    :param algorithm: value of ``algo=``.
    :param task: value of ``task=``.
    """
    return (config_folder() / "tuned" / algorithm / f"{task}.yaml").is_file()


@cache
def option_names(algorithm: str | None = None) -> tuple[str, ...]:
    """Every option of ``dipole train``, dotted, e.g. ``algo.beta``.

    :param algorithm: value of ``algo=``; None or an unknown name: the default of train.yaml.
    """
    folder = config_folder()
    names = _leaves(folder / "train.yaml") + _leaves(folder / "evaluation" / "sweep.yaml")
    chosen = algorithm if algorithm in algorithm_names() else _default_algorithm()
    names += [f"algo.{name}" for name in _leaves(folder / "algo" / f"{chosen}.yaml")]
    plain = [name for name in names if not name.startswith(("hydra", "defaults", "algo._"))]
    return (*plain, "algo", "task", "task_id")


def driving_option_names() -> tuple[str, ...]:
    """Every option of ``dipole train task=driving/…``, dotted, e.g. ``finetune.beta``."""
    names = _leaves(config_folder() / "driving.yaml")
    return (*(name for name in names if not name.startswith(("hydra", "defaults"))), "task")


def _default_algorithm() -> str:
    defaults: Any = OmegaConf.load(config_folder() / "train.yaml").defaults
    return next(str(entry.algo) for entry in defaults if "algo" in entry)


def _leaves(file: Path) -> list[str]:
    """Dotted names of the values of a YAML file."""
    content: Any = OmegaConf.to_container(OmegaConf.load(file))
    return [name for name, _ in dotted(content)]


def dotted(options: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested options with its dotted name, e.g. ``("algo.beta", 1.0)``."""
    for name, value in options.items():
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def paper_target(algorithm: str, task: Mapping[str, Any], task_id: int | None, online: bool = False) -> str | None:
    """The paper's result for this algorithm on this task, as a phrase; None if the paper reports none.

    :param algorithm: name of the algorithm's class.
    :param task: the ``task`` section of a run's configuration.
    :param task_id: 1 to 5 for OGBench, else None.
    :param online: the result after offline training followed by online training.
    """
    targets = _targets(algorithm)
    terms: dict[str, str] = targets.get("terms", {})
    if online:
        dataset, domain = str(task["dataset"]), task.get("domain")
        row = targets.get("ogbench_online", {}).get(domain)
        if row is None or not dataset.startswith("ogbench/") or task_id != row["task_id"]:
            return None
        before, after = (_with_deviation(row[phase]) for phase in ("offline", "online"))
        return f"success {before} % after 1M offline steps, {after} % after 1M more online ({terms['ogbench_online']})"
    score = paper_score(algorithm, task, task_id)
    if score is None:
        return None
    if task_id is None:
        return f"return {_with_deviation(score)} ({terms['exorl']})"
    return f"success {_with_deviation(score)} % ({terms['ogbench']})"


def paper_score(algorithm: str, task: Mapping[str, Any], task_id: int | None) -> dict[str, float] | None:
    """The paper's offline result: ``mean`` and perhaps ``std``, success in percent or return; None: not reported.

    :param algorithm: name of the algorithm, e.g. ``DIPOLE``.
    :param task: the ``task`` section of a run's configuration.
    :param task_id: 1 to 5 for OGBench, else None.
    """
    targets = _targets(algorithm)
    dataset, domain = str(task["dataset"]), task.get("domain")
    if dataset.startswith("ogbench/") and task_id is not None and domain in targets.get("ogbench", {}):
        return {key: values[task_id - 1] for key, values in targets["ogbench"][domain].items()}
    if dataset.startswith("exorl/") and task.get("algorithm") == "rnd":
        of_exorl: dict[str, dict[str, float]] = targets.get("exorl", {})
        return of_exorl.get(task["name"])
    return None


def paper_average(algorithm: str, domain: str) -> dict[str, float] | None:
    """The paper's average over the five tasks of an OGBench domain, likewise."""
    averages: dict[str, dict[str, float]] = _targets(algorithm).get("ogbench_average", {})
    return averages.get(domain)


@cache
def _targets(algorithm: str) -> dict[str, Any]:
    of_algorithms: Any = OmegaConf.to_container(OmegaConf.load(config_folder() / "targets.yaml"))
    found: dict[str, Any] = of_algorithms.get(algorithm.lower(), {})
    return found


def _with_deviation(row: Mapping[str, Any]) -> str:
    return f"{row['mean']} ± {row['std']}" if "std" in row else str(row["mean"])
