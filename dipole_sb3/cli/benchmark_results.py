"""What the runs of a benchmark have left: every evaluation of every run, read from its folder."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dipole_sb3.cli import run_folder, sweep
from dipole_sb3.cli.benchmark_plan import Group
from dipole_sb3.cli.models import algorithm_of, own_values
from dipole_sb3.cli.periodic_evaluation import EVALUATIONS
from dipole_sb3.common.files import write_csv
from dipole_sb3.common.intervals import Interval, mean_interval, proportion_interval
from dipole_sb3.learning.knobs import Knob

_LAST = 3
"""Evaluations whose mean the published baselines report."""


@dataclass(frozen=True)
class Evaluation:
    """Some episodes of one model.

    :param seed: of the run.
    :param timesteps: after which the model was evaluated.
    :param setting: value of every knob.
    :param episodes: their number.
    :param returns: mean return, with its 95 % interval.
    :param successes: success rate in [0, 1], likewise; None where the task has no success.
    """

    seed: int
    timesteps: int
    setting: Mapping[str, float]
    episodes: int
    returns: Interval
    successes: Interval | None

    @property
    def score(self) -> float:
        """The success rate; where the task has none, the return."""
        return self.returns.mean if self.successes is None else self.successes.mean


@dataclass(frozen=True)
class Scores:
    """All evaluations of one group.

    :param group: the runs.
    :param own: the value of every knob with which the algorithm acts unless told otherwise.
    :param final: of the finished models, one per seed and cell of the sweep.
    :param during: while they learned, at the own setting; per seed in the order of time.
    """

    group: Group
    own: Mapping[str, float]
    final: list[Evaluation]
    during: list[Evaluation] = field(default_factory=list)

    @property
    def algorithm(self) -> str:
        """Value of ``algo=``."""
        return self.group.algorithm

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.group.task

    @property
    def settings(self) -> list[Mapping[str, float]]:
        """Every cell of the sweep, in its order."""
        return list({tuple(each.setting.items()): each.setting for each in self.final}.values())

    def at(self, setting: Mapping[str, float]) -> list[float]:
        """Score of the finished models at a setting, one per seed."""
        return [each.score for each in self.final if each.setting == setting]

    @cached_property
    def at_end(self) -> list[float]:
        """Score of the finished models at the own setting, one per seed: the final score."""
        return self.at(self.own)

    @cached_property
    def of_last(self) -> list[float] | None:
        """Mean over the last three evaluations, one per seed; None where fewer were made.

        That of the untrained model, at the first timestep, is none of them.
        """
        found, first = [], self.group.config.eval_freq
        for seed in dict.fromkeys(each.seed for each in self.final):
            last = [each.score for each in self.during if each.seed == seed and each.timesteps >= first][-_LAST:]
            if len(last) < _LAST:
                return None
            found.append(float(np.mean(last)))
        return found

    @cached_property
    def best(self) -> Mapping[str, float]:
        """The setting whose mean over the seeds is the highest, chosen on the very episodes that it is reported on."""
        return max(self.settings, key=lambda setting: float(np.mean(self.at(setting))))

    @property
    def has_success(self) -> bool:
        """Whether scores are success rates."""
        return self.final[0].successes is not None

    def normalised(self, scores: Sequence[float]) -> np.ndarray:
        """Scores on a scale on which tasks compare: success rates as they are, returns between the suite's bounds."""
        if self.has_success:
            return np.array(scores)
        low, high = self.group.entry.ref_min_score, self.group.entry.ref_max_score
        return (np.array(scores) - low) / (high - low)


def read_scores(groups: Iterable[Group]) -> list[Scores]:
    """All evaluations of finished groups.

    :raises ValueError: runs on one task have learned from different data.
    """
    groups = list(groups)
    _require_same_data(groups)
    found = []
    for group in groups:
        knobs = algorithm_of(group.config).knobs()
        own, stem = own_values(group.config), sweep.stem(knobs)
        final, during = [], []
        for run in group.runs:
            steps = run.config.offline_steps + run.config.online_steps
            seed = int(run.config.seed)
            final += [_of_row(row, knobs, seed, steps) for row in _rows(run.folder / f"{stem}.csv")]
            during += _while_learning(run.folder / EVALUATIONS, own, seed)
        found.append(Scores(group, own, final, during))
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _of_row(row: Mapping[str, str], knobs: Sequence[Knob], seed: int, steps: int) -> Evaluation:
    # Not the type of the algorithm's own value: a configuration may write ω = 1 as a whole number.
    setting = {knob.name: knob.checked(row[knob.name]) for knob in knobs}
    successes = _interval(row, "success") if "success_mean" in row else None
    return Evaluation(seed, steps, setting, int(row["episodes"]), _interval(row, "return"), successes)


def _interval(row: Mapping[str, str], name: str) -> Interval:
    return Interval(*(float(row[f"{name}_{bound}"]) for bound in Interval._fields))


def _while_learning(path: Path, own: Mapping[str, float], seed: int) -> list[Evaluation]:
    if not path.is_file():
        return []
    saved = np.load(path)
    found = []
    for index, timestep in enumerate(saved["timesteps"].tolist()):
        returns, successes = saved["results"][index], None
        if "successes" in saved:
            made = saved["successes"][index]
            successes = proportion_interval(int(made.sum()), len(made))
        found.append(Evaluation(seed, timestep, own, len(returns), mean_interval(returns.tolist()), successes))
    return found


def _require_same_data(groups: Sequence[Group]) -> None:
    first: dict[str, tuple[Path, str]] = {}
    for group in groups:
        for run in group.runs:
            facts = run_folder.read_dataset_facts(run.folder)
            learned_from = f"{facts.get('transitions')} transitions with the checksum {str(facts.get('checksum'))[:12]}"
            folder, expected = first.setdefault(group.task, (run.folder, learned_from))
            if learned_from != expected:
                raise ValueError(
                    f"{run.folder}: has learned from {learned_from}, and {folder} from {expected}; expected the same "
                    "data for every algorithm: remove one of the folders and repeat the command"
                )


def write_results(scores: Sequence[Scores], path: Path) -> None:
    """The long table: one row per algorithm, task, seed, time of evaluation and setting of the knobs.

    :raises OSError: the file cannot be written; an earlier file with this name is unchanged.
    """
    knobs = list(dict.fromkeys(name for each in scores for name in each.own))
    header = ["algorithm", "task", "seed", "timesteps", *knobs, "own_setting", "episodes"]
    bounds = [f"{name}_{bound}" for name in ("return", "success") for bound in Interval._fields]
    rows: list[list[Any]] = [[*header, *bounds]]
    for each in scores:
        ends = {evaluation.timesteps for evaluation in each.final}
        # The last one while learning is repeated by the sweep: the same model, the same episodes.
        for one in (*(one for one in each.during if one.timesteps not in ends), *each.final):
            values = [one.setting.get(name, "") for name in knobs]
            own = int(one.setting == each.own)
            successes = ("", "", "") if one.successes is None else one.successes
            named = [each.algorithm, each.task, one.seed, one.timesteps, *values, own, one.episodes]
            rows.append([*named, *one.returns, *successes])
    write_csv(path, rows)
