"""``dipole benchmark``: every algorithm on every task of a suite, on the same data and the same episodes; one table."""

from __future__ import annotations

import importlib.util
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import OmegaConf

from dipole_sb3.cli import benchmark_table, pictures, shared_machine, train, training
from dipole_sb3.cli.benchmark_plan import Group, Suite, load_suite, planned, require_same
from dipole_sb3.cli.benchmark_results import Scores, read_scores, write_results
from dipole_sb3.cli.engine import Engine, split, taken_from
from dipole_sb3.cli.resuming import is_begun, is_finished
from dipole_sb3.cli.runs import claim_folders
from dipole_sb3.common.files import replaced_when_complete

RESULTS, TABLE = "results.csv", "table.md"
AGGREGATES, PROFILES, IMPROVEMENT, CURVES = "aggregates.png", "profiles.png", "improvement.png", "curves.png"
_OWN = ("suite", "algos", "seeds", "out")


class _Asked(NamedTuple):
    """The command line."""

    suite_name: str
    suite: Suite
    algos: list[str]
    seeds: int
    out: Path
    overrides: list[str]
    engine: Engine | None

    @property
    def command(self) -> str:
        """What repeats it, or goes on with it."""
        own = [f"suite={self.suite_name}", f"algos=[{','.join(self.algos)}]", f"seeds={self.seeds}", f"out={self.out}"]
        where = self.engine.options if self.engine is not None else []
        return f"dipole benchmark {shlex.join([*own, *self.overrides, *where])}"


def run(arguments: list[str]) -> int:
    """``dipole benchmark``; begins, or goes on with what the same command has begun.

    :raises ValueError: an option does not fit, or other code or another configuration began it; nothing has started.
    :raises SystemExit: stopped by a signal; what has learned is saved, and the command to go on is printed.
    """
    asked = _read(arguments)
    groups = planned(asked.suite, asked.algos, asked.seeds, asked.out, asked.overrides)
    _require_packages(groups)
    for group in groups:
        train.require_startable(group.runs)
    code = require_same(groups, asked.out)
    if asked.engine is None and (hint := shared_machine.hint()):
        print(hint)
    _make_data(asked, groups)
    if asked.engine is None:
        _learn(asked, groups)
    else:
        _learn_in_cluster(asked, groups, asked.engine)
    _report(asked, read_scores(groups), code)
    return 0


def _read(arguments: Sequence[str]) -> _Asked:
    own: dict[str, Any] = {}
    overrides = []
    engine, arguments = taken_from(arguments)
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if argument.startswith("-") or not equals:
            raise ValueError(f"{argument}: expected option=value; `dipole benchmark --help` lists them")
        if name in _OWN:
            own |= OmegaConf.to_container(OmegaConf.from_dotlist([argument]))  # type: ignore[arg-type]
        else:
            overrides.append(argument)
    name = str(own.get("suite", "smoke"))
    suite = load_suite(name)
    algos, seeds = own.get("algos", suite.algos), own.get("seeds", suite.seeds)
    if not isinstance(algos, list):
        raise ValueError(f"algos is {algos!r}, expected a list, e.g. algos=[dipole,iql]")
    if isinstance(seeds, bool) or not isinstance(seeds, int):
        raise ValueError(f"seeds is {seeds!r}, expected a whole number: how many runs each algorithm makes of a task")
    out = Path(str(own.get("out", f"runs/benchmark/{name.removesuffix('.yaml')}")))
    return _Asked(name, suite, list(map(str, algos)), seeds, out, overrides, engine)


def _require_packages(groups: Sequence[Group]) -> None:
    pictures.require_matplotlib(OmegaConf.create({"pictures": True}))
    if len(groups[0].runs) > 1 and importlib.util.find_spec("rliable") is None:
        raise ValueError("rliable is not installed; it comes with pip install 'dipole-sb3[benchmark]'")


def _make_data(asked: _Asked, groups: Sequence[Group]) -> None:
    """Makes the data sets of a suite that brings its own, as far as they are not there."""
    if not asked.suite.made_episodes:
        return
    from dipole_sb3.datasets.ogbench.generation import make_dataset

    made: set[str] = set()
    for group in groups:
        task = group.config.task
        if task.get("domain") is None or task.domain in made:
            continue
        made.add(task.domain)
        if (Path(task.dataset_dir) / f"{task.domain}-v0.npz").exists():
            continue
        print(f"Making {asked.suite.made_episodes} episodes of {task.domain}", flush=True)
        make_dataset(
            task.dataset,
            episodes=asked.suite.made_episodes,
            processes=group.config.processes,
            dataset_dir=task.dataset_dir,
        )


def _learn(asked: _Asked, groups: Sequence[Group]) -> None:
    """Every group learns and is evaluated, as far as it is not done."""
    seconds: dict[str, list[float]] = {}
    todo = [group for group in groups if not all(map(is_finished, group.runs))]
    if len(todo) < len(groups):
        print(f"{len(groups) - len(todo)} of {len(groups)} groups of runs are done already")
    for number, group in enumerate(todo, start=1):
        start = time.perf_counter()
        waiting = [each for each in group.runs if not is_finished(each)]
        seeds = ", ".join(str(each.config.seed) for each in waiting)
        steps = group.config.offline_steps + group.config.online_steps
        print(f"[{number}/{len(todo)}] {group.algorithm} on {group.task}, seeds {seeds}: {steps} timesteps", flush=True)
        with ExitStack() as opened:
            claim_folders(waiting, opened, may_be_used=True)
            # Only now: until the claim, another process may have worked on them.
            waiting = [each for each in waiting if not is_finished(each)]
            begun = [each for each in waiting if is_begun(each.folder)]
            for runs, resume in (([each for each in waiting if each not in begun], False), (begun, True)):
                if runs:
                    training.evaluate(runs, training.train(runs, resume, go_on_with=asked.command))
        seconds.setdefault(group.task, []).append(time.perf_counter() - start)
        (scores,) = read_scores([group])
        # Of a task that comes later nothing is known but how long this one takes.
        left = [float(np.mean(seconds.get(each.task, seconds[group.task]))) for each in todo[number:]]
        ahead = f"; {len(left)} to go, about {_duration(sum(left))}" if left else ""
        score = benchmark_table.cell(scores, scores.at_end)
        print(f"  {score}{' %' if scores.has_success else ''}, {_duration(seconds[group.task][-1])}{ahead}", flush=True)


def _learn_in_cluster(asked: _Asked, groups: Sequence[Group], engine: Engine) -> None:
    """The same in a cluster: the seeds of a group are cut so that every slot has something to do."""
    from dipole_sb3.cli.engine import cluster

    with cluster.connected(engine) as slots:
        named = [[(group, run) for run in group.runs] for group in groups]
        tasks = []
        for part in split(named, slots):
            group, waiting = part[0][0], [run for _, run in part if not is_finished(run)]
            if waiting:
                seeds = ", ".join(str(run.config.seed) for run in waiting)
                tasks.append(training.task_of(f"{group.algorithm} on {group.task}, seeds {seeds}", waiting))
        cluster.perform_all(tasks, engine, slots, asked.command)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _report(asked: _Asked, scores: Sequence[Scores], code: Mapping[str, str]) -> None:
    """Writes the tables and pictures, and prints the first table."""
    write_results(scores, asked.out / RESULTS)
    page = benchmark_table.page(asked.suite_name, asked.suite, scores, asked.command, code)
    with replaced_when_complete(asked.out / TABLE) as file:
        file.write(page.encode())
    drawn = _draw(scores, asked.out)
    print(f"\n{benchmark_table.terminal_table(benchmark_table.final(scores))}")
    print(f"\nThe whole page is {asked.out / TABLE}, every evaluation is in {asked.out / RESULTS}")
    if len(drawn) < 2:
        print("With more seeds there would be intervals over tasks: seeds=2 or more")
    if drawn:
        print(f"Pictures beside them: {', '.join(drawn)}")


def _draw(scores: Sequence[Scores], folder: Path) -> list[str]:
    from dipole_sb3.plots import benchmark as plots

    drawn = []
    curves, labels = _curves(scores)
    if curves:
        plots.plot_learning(curves, folder / CURVES, labels)
        drawn.append(CURVES)
    table = _normalised(scores)
    if len(scores[0].at_end) > 1:
        plots.plot_aggregates(table, folder / AGGREGATES)
        plots.plot_profiles(table, folder / PROFILES)
        drawn += [AGGREGATES, PROFILES]
        if len(table) > 1:
            plots.plot_improvement(table, folder / IMPROVEMENT)
            drawn.append(IMPROVEMENT)
    return drawn


def _normalised(scores: Sequence[Scores]) -> dict[str, np.ndarray]:
    """Algorithm → normalised final scores, shape [seeds, tasks]."""
    return {
        name: np.stack([each.normalised(each.at_end) for each in scores if each.algorithm == name], axis=1)
        for name in dict.fromkeys(each.algorithm for each in scores)
    }


def _curves(scores: Sequence[Scores]) -> tuple[dict[str, Any], Mapping[str, str]]:
    curves: dict[str, dict[str, Any]] = {}
    labels = {each.task: "success rate" if each.has_success else "return" for each in scores}
    for each in scores:
        runs = []
        for seed in dict.fromkeys(one.seed for one in each.during):
            course = [one for one in each.during if one.seed == seed]
            runs.append(([one.timesteps for one in course], [one.score for one in course]))
        if runs:
            curves.setdefault(each.task, {})[each.algorithm] = runs
    return curves, labels
