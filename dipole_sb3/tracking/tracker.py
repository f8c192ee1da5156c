"""What the writers for experiment trackers share: one run of the tracker for each run folder, also after a restart."""

from __future__ import annotations

import csv
import json
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from stable_baselines3.common.logger import KVWriter

from dipole_sb3.common.files import replaced_when_complete

IDS = "trackers.json"
"""File of a run's folder: name of a tracker → its identifier of the run."""

_PROGRESS = "progress.csv"

Outcome = Literal["finished", "stopped", "failed"]
"""How a run has ended; what was stopped, by Ctrl-C or a scheduler, can go on."""


class Tracker(KVWriter):
    """A KVWriter that sends the numbers of every row of a run's log to an experiment tracker, under SB3's names.

    A run that goes on from a checkpoint writes rows again that the tracker has: they are left out. A tracker that fails
    later than at its start is told once and ends nothing: the rows are in the run's folder as well.

    :param run_folder: folder of the run.
    :param name: name of the tracker, and whatever else tells its runs from those of another in the same folder.
    """

    outcome: Outcome = "finished"
    """What :meth:`close` tells the tracker, where it has a word for it."""

    def __init__(self, run_folder: Path, name: str) -> None:
        self.run_folder, self.name = run_folder, name
        self.known_id = _read_ids(run_folder).get(name)
        self._written_until = -1 if self.known_id is None else _last_timestep(run_folder / _PROGRESS)
        self._failed = False

    @abstractmethod
    def send(self, values: Mapping[str, float], step: int) -> None:
        """Sends numbers.

        :param values: name → number.
        :param step: timestep.
        """

    def keep_id(self, identifier: str) -> None:
        """Notes the tracker's identifier of the run, by which the run goes on after a restart."""
        with replaced_when_complete(self.run_folder / IDS) as file:
            file.write(f"{json.dumps(_read_ids(self.run_folder) | {self.name: identifier}, indent=2)}\n".encode())

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Sends the numbers of a row."""
        if step > self._written_until:
            self.send_numbers(key_values, step)

    def write_result(self, values: Mapping[str, float], step: int) -> None:
        """Sends the evaluation that ends a run.

        :param values: name → number.
        :param step: timestep of the finished model.
        """
        self.send_numbers(values, step)

    def send_numbers(self, values: Mapping[str, Any], step: int) -> None:
        """:meth:`send` of those values that are numbers, see :meth:`try_to`."""
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float | np.number)}
        if numbers:
            self.try_to(lambda: self.send(numbers, step))

    def close(self) -> None:
        """Ends the tracker's run."""
        self.try_to(self.end)

    @abstractmethod
    def end(self) -> None:
        """Sends what is left, and ends the tracker's run."""

    def try_to(self, step: Callable[[], None]) -> None:
        """Calls a function; if it fails, training goes on without the tracker, and the terminal is told."""
        if self._failed:
            return
        try:
            step()
        except Exception as error:  # of whichever kind: hours of training must not end for it
            self._failed = True
            reason = " ".join(str(error).split("\n")[0].split())
            print(
                f"{self.run_folder}: {self.name} takes no more rows ({reason}); the run goes on without it", flush=True
            )


def _read_ids(folder: Path) -> dict[str, str]:
    file = folder / IDS
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _last_timestep(progress: Path) -> int:
    """Timestep of the last row in a log; −1: there is none."""
    if not progress.is_file():
        return -1
    with progress.open(newline="", encoding="utf-8") as file:
        steps = [row.get("time/total_timesteps") for row in csv.DictReader(file)]
    return max((int(float(step)) for step in steps if step), default=-1)
