"""The table of a benchmark: a page in Markdown, and its first part for the terminal."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dipole_sb3.cli.benchmark_plan import Suite
from dipole_sb3.cli.benchmark_results import Scores
from dipole_sb3.cli.configuration import paper_average, paper_score
from dipole_sb3.cli.models import algorithm_of
from dipole_sb3.evaluation.sweep import aligned_table, setting_text

_TASKS_OF_A_DOMAIN = 5


class Part(NamedTuple):
    """A table with a heading: tasks down, algorithms across."""

    title: str
    note: str
    rows: list[list[str]]


def page(suite_name: str, suite: Suite, scores: Sequence[Scores], command: str, code: Mapping[str, str]) -> str:
    """The whole page.

    :param command: what made it.
    :param code: versions that made it.
    """
    lines = [f"# dipole benchmark suite={suite_name}", "", suite.about, ""]
    lines += [f"`{command}`, {datetime.date.today().isoformat()}, " + ", ".join(f"{k} {v}" for k, v in code.items())]
    for part in [final(scores), *_others(scores), *_every_setting(scores)]:
        header, *rows = part.rows
        lines += ["", f"## {part.title}", "", part.note, ""]
        lines += [_line(header), _line(["---", *["---:"] * (len(header) - 1)]), *map(_line, rows)]
    return "\n".join(lines) + "\n"


def terminal_table(part: Part) -> str:
    """A part for the terminal."""
    header, *rows = part.rows
    return f"{part.title}\n{part.note}\n\n{aligned_table(header, rows)}"


def final(scores: Sequence[Scores]) -> Part:
    """The score of the finished models at each algorithm's own setting."""
    seeds, episodes = len(scores[0].at_end), _numbers(each.final[0].episodes for each in scores)
    brackets = "; in brackets what the paper reports" if any(map(_paper, scores)) else ""
    note = (
        f"Success in %, or return; mean ± standard deviation over {seeds} {'seed' if seeds == 1 else 'seeds'}, "
        f"{episodes} episodes each, the same for all{brackets}."
    )
    return Part("Final score", note, _rows(scores, lambda each: each.at_end, with_paper=True))


def _others(scores: Sequence[Scores]) -> list[Part]:
    parts = []
    if any(each.of_last for each in scores):
        note = "As the published baselines report: the mean of the last three evaluations while learning, per seed."
        parts.append(Part("Mean of the last three evaluations", note, _rows(scores, lambda each: each.of_last)))
    if any(len(each.settings) > 1 for each in scores):
        note = (
            "The setting of the knobs with the highest mean, chosen on the very episodes that are reported: an upper "
            "bound, not a result."
        )
        rows = _rows(scores, lambda each: each.at(each.best), with_setting=True)
        parts.append(Part("Best of the sweep", note, rows))
    return parts


def _every_setting(scores: Sequence[Scores]) -> list[Part]:
    """For each algorithm with knobs, all cells of its sweep: tasks down, settings across."""
    parts = []
    for algorithm in dict.fromkeys(each.algorithm for each in scores):
        of_algorithm = [each for each in scores if each.algorithm == algorithm]
        knobs = algorithm_of(of_algorithm[0].group.config).knobs()
        texts: dict[str, None] = {}
        for each in of_algorithm:
            texts |= dict.fromkeys(setting_text(knobs, setting) for setting in each.settings)
        if len(texts) < 2:
            continue
        rows = [["setting", *(each.task for each in of_algorithm)]]
        for text in texts:
            cells = [
                next((cell(each, each.at(one)) for one in each.settings if setting_text(knobs, one) == text), "")
                for each in of_algorithm
            ]
            rows.append([text, *cells])
        parts.append(Part(f"Every setting of {algorithm}", "As in the first table.", rows))
    return parts


def _rows(
    scores: Sequence[Scores],
    of_seeds: Callable[[Scores], list[float] | None],
    with_paper: bool = False,
    with_setting: bool = False,
) -> list[list[str]]:
    algorithms = list(dict.fromkeys(each.algorithm for each in scores))
    rows = [["task", *algorithms]]
    domains: dict[str, list[list[Scores]]] = {}
    for task in dict.fromkeys(each.task for each in scores):
        of_task = [next(each for each in scores if (each.task, each.algorithm) == (task, name)) for name in algorithms]
        domain = of_task[0].group.config.task.get("domain")
        if domain is not None:
            domains.setdefault(str(domain), []).append(of_task)
        cells = []
        for each in of_task:
            found = of_seeds(each)
            text = "" if found is None else cell(each, found)
            if with_setting and len(each.settings) > 1:
                text += f" at {setting_text(algorithm_of(each.group.config).knobs(), each.best)}"
            paper = _paper(each) if with_paper else None
            cells.append(text if paper is None else f"{text} ({_with_deviation(paper)})")
        rows.append([task, *cells])
    for domain, of_tasks in domains.items():
        if len(of_tasks) == 1:
            continue
        cells = []
        for of_algorithm in zip(*of_tasks, strict=True):
            known = [one for each in of_algorithm if (one := of_seeds(each)) is not None]
            text = cell(of_algorithm[0], np.mean(known, axis=0).tolist()) if len(known) == len(of_tasks) else ""
            average = paper_average(_class_name(of_algorithm[0]), domain) if with_paper else None
            if average is not None and len(of_tasks) == _TASKS_OF_A_DOMAIN:
                text += f" ({_with_deviation(average)})"
            cells.append(text)
        rows.append([f"{domain}, mean of {len(of_tasks)} tasks", *cells])
    return rows


def cell(scores: Scores, of_seeds: Sequence[float]) -> str:
    """Scores of several seeds as mean ± sample standard deviation: success in percent, or return."""
    scale, form = (100.0, ".0f") if scores.has_success else (1.0, ".1f")
    values = scale * np.array(of_seeds)
    mean = format(values.mean(), form)
    return mean if len(values) == 1 else f"{mean} ± {format(values.std(ddof=1), form)}"


def _paper(scores: Scores) -> dict[str, float] | None:
    config = scores.group.config
    return paper_score(_class_name(scores), config.task, config.get("task_id"))


def _class_name(scores: Scores) -> str:
    return algorithm_of(scores.group.config).__name__


def _with_deviation(row: Mapping[str, float]) -> str:
    return f"{row['mean']} ± {row['std']}" if "std" in row else str(row["mean"])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _numbers(values: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(set(values))))
