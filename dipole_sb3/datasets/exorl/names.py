"""Names of ExORL's recordings and tasks, where their files live, and the ids of their environments."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import gymnasium

from dipole_sb3.common.errors import DatasetError

DIRECTORY_VARIABLE = "EXORL_DATA_DIR"
"""Environment variable that replaces the default folder, ``~/.exorl``."""

ALGORITHMS = ("aps", "diayn", "disagreement", "icm", "icm_apt", "proto", "random", "rnd", "smm")
"""Exploring agents whose recordings ExORL publishes, for every domain."""


class Domain(NamedTuple):
    """A robot: what it can be rewarded for, and the steps of its episodes."""

    tasks: tuple[str, ...]
    episode_steps: int


DOMAINS = {
    "cheetah": Domain(("run", "run-backward"), 1000),
    "jaco": Domain(("reach-top-left", "reach-top-right"), 250),
    "quadruped": Domain(("run", "walk"), 1000),
    "walker": Domain(("run", "stand", "walk"), 1000),
}


@dataclass(frozen=True)
class Recording:
    """What one exploring agent recorded in one domain, without any task in mind: an archive of ExORL's.

    :param domain: a key of :data:`DOMAINS`.
    :param algorithm: the agent, for example ``rnd``; also the name of the recording's folder.
    """

    domain: str
    algorithm: str

    def __str__(self) -> str:
        return f"exorl/{self.domain}/{self.algorithm}"

    def folder(self, directory: Path) -> Path:
        """Where the recording lies in the folder of all of them."""
        return directory / self.domain / self.algorithm


@dataclass(frozen=True)
class RewardedTask:
    """A recording seen with the rewards of one task.

    :param recording: the data.
    :param task: one of the domain's tasks, for example ``walk``.
    """

    recording: Recording
    task: str

    def __str__(self) -> str:
        return f"{self.recording}/{self.task}"

    @property
    def env_id(self) -> str:
        """Gymnasium id of the environment that gives these rewards."""
        return environment_id(self.recording.domain, self.task)


def environment_id(domain: str, task: str) -> str:
    """``exorl/walker-walk-v0``."""
    return f"exorl/{domain}-{task}-v0"


def register_environments() -> None:
    """Makes the nine environments known to Gymnasium, without importing dm_control."""
    for name, domain in DOMAINS.items():
        for task in domain.tasks:
            gymnasium.register(
                environment_id(name, task),
                entry_point="dipole_sb3.datasets.exorl.environments:ExorlEnv",
                max_episode_steps=domain.episode_steps,
                kwargs={"domain": name, "task": task},
            )


def data_directory(dataset_dir: str | Path | None = None) -> Path:
    """The folder of all recordings: the argument, else ``$EXORL_DATA_DIR``, else ``~/.exorl``."""
    return Path(dataset_dir or os.environ.get(DIRECTORY_VARIABLE) or "~/.exorl").expanduser()


def parse(name: str) -> RewardedTask:
    """The rewarded recording that a name means.

    :param name: ``exorl/{domain}/{algorithm}/{task}``, as ``exorl/walker/rnd/walk``; the prefix may be left out, and
        underscores may stand for the hyphens of a task (``run_backward``).
    :raises DatasetError: another form, an unknown domain, or a task of another domain.
    """
    domain, algorithm, task = _parts(name, "exorl/<domain>/<algorithm>/<task>, such as exorl/walker/rnd/walk", 3)
    recording = _recording(name, domain, algorithm)
    tasks, found = DOMAINS[domain].tasks, task.replace("_", "-")
    if found not in tasks:
        raise DatasetError(f"{name}: the domain {domain} has no task {task}; expected {_listed(tasks)}")
    return RewardedTask(recording, found)


def parse_recording(name: str) -> Recording:
    """The recording that a name means, of those that ExORL publishes.

    :param name: ``exorl/{domain}/{algorithm}``, as ``exorl/walker/rnd``; the prefix may be left out.
    :raises DatasetError: another form, an unknown domain, or an unknown algorithm.
    """
    domain, algorithm = _parts(name, "exorl/<domain>/<algorithm>, such as exorl/walker/rnd; all tasks share it", 2)
    if algorithm not in ALGORITHMS:
        raise DatasetError(
            f"{name}: ExORL has no recordings of an agent {algorithm}; {_nearest(algorithm, ALGORITHMS)}"
        )
    return _recording(name, domain, algorithm)


def _parts(name: str, form: str, count: int) -> list[str]:
    parts = name.removeprefix("exorl/").split("/")
    if len(parts) != count or not all(parts):
        raise DatasetError(f"{name}: this is no name of ExORL data; expected {form}")
    return parts


def _recording(name: str, domain: str, algorithm: str) -> Recording:
    if domain not in DOMAINS:
        raise DatasetError(f"{name}: there is no domain {domain} here; {_nearest(domain, tuple(DOMAINS))}")
    # The algorithm becomes a folder's name: '..' must not lead out of the recordings' folder.
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*", algorithm) is None:
        raise DatasetError(f"{name}: {algorithm} is no name of an algorithm; expected one such as rnd or proto")
    return Recording(domain, algorithm)


def _nearest(found: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(found, known, n=1)
    return f"did you mean {near[0]}?" if near else f"expected {_listed(known)}"


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
