"""Evaluates trained models over the values of their knobs: the same episodes for every cell of the table."""

from __future__ import annotations

import csv
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from dipole_sb3.common.child_processes import available_cores
from dipole_sb3.common.files import write_csv
from dipole_sb3.common.intervals import mean_interval, proportion_interval
from dipole_sb3.common.progress import progress_bar
from dipole_sb3.evaluation.batched_acting import Acting, ActingModel
from dipole_sb3.evaluation.environment_pool import KeptEnvironments, MakeEnv
from dipole_sb3.evaluation.episode_player import Player, play
from dipole_sb3.learning.knobs import Knob

MAX_ENVIRONMENTS_OF_A_MODEL = 16
"""Environments stepped together for one model. Beyond this number, a larger batch hardly gets cheaper per row on a CPU
(measured at widths 128 and 512), while OGBench's manipulation scenes take 100 to 160 MB each."""

MAX_ENVIRONMENTS = 64
"""Environments stepped together for all models: at most 10 GB of such scenes. With more models, groups of them play one
after the other; fewer environments per model would change the noise of an episode, and so the result."""

_WORTH_PROCESSES = 20.0
"""Below this many seconds of environment steps, starting processes costs more than it saves."""

Grid = Mapping[str, Sequence[float]]
"""Name of a knob → its values."""


@dataclass(frozen=True)
class SweepRow:
    """One cell: a value of every knob, and means over the episodes with 95 % confidence intervals.

    Returns are undiscounted sums of the environment's own rewards, with Student's t interval (NaN for one episode).
    Success rates lie in [0, 1], with Wilson's interval; None where the task has no success.
    """

    setting: Mapping[str, float]
    episodes: int
    return_mean: float
    return_low: float
    return_high: float
    success_mean: float | None = None
    success_low: float | None = None
    success_high: float | None = None


@dataclass(frozen=True, eq=False)
class SweepResult:
    """The whole table, with the returns of every episode for paired comparisons.

    :param knobs: the knobs that were varied, in the policy's order; none: the table has one row.
    :param rows: one per cell; the first knob varies fastest, its values in the given order.
    :param returns: of every episode, shape [rows, episodes]; episode e started from ``reset(seed=seed + e)`` in every
        row.
    :param successes: likewise, boolean; None if the task does not report success.
    :param seed: seed of the first episode.
    """

    knobs: tuple[Knob, ...]
    rows: tuple[SweepRow, ...]
    returns: np.ndarray
    successes: np.ndarray | None
    seed: int

    def values(self, knob: str) -> list[float]:
        """Every value of a knob, in the order of evaluation."""
        return list(dict.fromkeys(row.setting[knob] for row in self.rows))

    def row(self, **setting: float) -> SweepRow:
        """The cell with this value of every knob, e.g. ``row(omega=1.0, num_candidates=4)``.

        :raises KeyError: it was not evaluated.
        """
        return self.rows[self._index(setting)]

    def episode_returns(self, **setting: float) -> np.ndarray:
        """Returns of a cell's episodes, shape [episodes]; the same index has the same start in every cell.

        :raises KeyError: it was not evaluated.
        """
        return self.returns[self._index(setting)]  # type: ignore[no-any-return]

    def _index(self, setting: Mapping[str, float]) -> int:
        for index, row in enumerate(self.rows):
            if row.setting == setting:
                return index
        found = ", ".join(f"{knob.name} {self.values(knob.name)}" for knob in self.knobs) or "one cell without knobs"
        raise KeyError(f"{setting_text(self.knobs, setting) or 'no setting'} was not evaluated; found {found}")


def evaluate_sweep(
    model: ActingModel,
    make_env: MakeEnv,
    grid: Grid | None = None,
    *,
    episodes: int = 50,
    seed: int = 0,
    processes: int | None = None,
    deterministic: bool = False,
    progress: bool = False,
) -> SweepResult:
    """Plays the same episodes with every combination of knob values.

    Episode e of every cell starts from ``reset(seed=seed + e)``, and every cell draws the same sequence of noise, so
    cells differ only in their setting. A cell's result does not depend on the other cells, nor on the number of
    processes: these step the environments, while the policy acts on all of them at once in this process. The states of
    torch's and NumPy's global generators are kept. Success is read from the last step's info (``"success"`` as in
    OGBench's own evaluation, or ``"is_success"``). Observations are normalised by the model's VecNormalize statistics;
    rewards are not normalised.

    :param model: trained or untrained.
    :param make_env: makes one environment, which must end its episodes; must be picklable by cloudpickle if there are
        several processes.
    :param grid: values of the model's knobs, e.g. ``{"omega": [-1, 0, 1], "num_candidates": [1, 4]}``, without
        duplicates; a knob that is missing keeps the model's own value. A model without knobs has one cell.
    :param episodes: episodes per cell, ≥ 1.
    :param seed: seed of the first episode and of the policy's noise, ≥ 0.
    :param processes: number of processes that step the environments; 1: this process does. None: one per core if that
        saves time, else 1.
    :param deterministic: the policy's noise is fixed instead of drawn.
    :param progress: show a progress bar over all episodes.
    :raises ValueError: a value is out of range, a name is not one of the model's knobs, or only some episodes report
        success.
    """
    (result,) = evaluate_sweeps(
        [model],
        make_env,
        grid,
        episodes=episodes,
        seed=seed,
        processes=processes,
        deterministic=deterministic,
        progress=progress,
    )
    return result


def evaluate_sweeps(
    models: Sequence[ActingModel],
    make_env: MakeEnv,
    grid: Grid | None = None,
    *,
    episodes: int = 50,
    seed: int = 0,
    processes: int | None = None,
    deterministic: bool = False,
    progress: bool = False,
    environments: KeptEnvironments | None = None,
) -> list[SweepResult]:
    """:func:`evaluate_sweep` for several models: their environments step together, and the models act in one batch.

    Each result is the one that the model would get alone: its episodes have the same starts and the same noise.
    Policies of the same architecture act as one stack of networks, which can round actions differently (in float32, by
    about 1e-6); others act one after the other, without any difference. If the dynamics do not amplify such
    differences, returns agree to 1e-3 (tested on Reacher; on an x86 CPU they were equal to the bit); otherwise an
    episode can take a different course.

    :param models: at least one, for the same environment, with the same knobs; they must have the same value of each
        knob that is not in ``grid``.
    :param environments: keeps the environments open for the next call; None: they are closed.
    :return: one result per model, in order; the parameters are those of :func:`evaluate_sweep`.
    :raises ValueError: as in :func:`evaluate_sweep`, or there are no models.
    """
    for name, value, least in (
        ("the number of models", len(models), 1),
        ("episodes", episodes, 1),
        ("seed", seed, 0),
        ("processes", processes, 1),
    ):
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}, expected at least {least}")
    knobs = models[0].policy.knobs
    cells = _cells(models, grid or {})
    # The fewest possible rounds, filled about equally; for the models as for the episodes.
    slots = -(-episodes // -(-episodes // MAX_ENVIRONMENTS_OF_A_MODEL))
    together = -(-len(models) // -(-len(models) // max(1, MAX_ENVIRONMENTS // slots)))
    total = len(models) * len(cells) * episodes
    sweeps = [_Sweep(knobs, seed) for _ in models]
    with ExitStack() as closed:
        if environments is None:
            environments = closed.enter_context(closing(KeptEnvironments(make_env)))
        if processes is None:
            pays = environments.seconds_per_episode * total > _WORTH_PROCESSES
            processes = min(available_cores(), slots * together) if pays else 1
        pool = closed.enter_context(environments.open(slots * together, processes))
        bar = closed.enter_context(progress_bar(progress, total=total, unit=" episodes", desc="evaluating"))
        for setting in cells:
            acting = functools.partial(Acting, setting=setting, deterministic=deterministic)
            for start in range(0, len(models), together):
                players = [
                    Player(model, range(place * slots, (place + 1) * slots), range(seed, seed + episodes), seed)
                    for place, model in enumerate(models[start : start + together])
                ]
                play(pool, players, acting, bar)
                for sweep, player in zip(sweeps[start:], players, strict=False):
                    sweep.add(setting, player)
    return [sweep.result() for sweep in sweeps]


def own_setting(model: ActingModel) -> dict[str, float]:
    """The model's own value of every knob."""
    return {knob.name: getattr(model.policy, knob.name) for knob in model.policy.knobs}


def _cells(models: Sequence[ActingModel], grid: Grid) -> list[dict[str, float]]:
    """Every combination of knob values; the first knob varies fastest."""
    policy, own = models[0].policy, own_setting(models[0])
    unknown = sorted(grid.keys() - own.keys())
    if unknown:
        names = ", ".join(own) or "nothing"
        raise ValueError(f"{unknown[0]}: {type(policy).__name__} has no such knob, expected values of: {names}")
    for model in models[1:]:
        other = own_setting(model)
        for name, value in own.items():
            if name not in grid and other.get(name) != value:
                raise ValueError(
                    f"{name}: found {value} and {other.get(name)} in models that are evaluated together, expected one "
                    "value, or its values in the grid"
                )
    axes = [_require_axis(knob, grid.get(knob.name, [own[knob.name]])) for knob in policy.knobs]
    combinations = itertools.product(*reversed(axes))
    return [dict(zip(own, reversed(values), strict=True)) for values in combinations]


class _Sweep:
    """Collects the results of one model's cells as they are played."""

    def __init__(self, knobs: tuple[Knob, ...], seed: int) -> None:
        self._knobs, self._seed = knobs, seed
        self._rows: list[SweepRow] = []
        self._returns: list[np.ndarray] = []
        self._successes: list[list[bool | None]] = []

    def add(self, setting: Mapping[str, float], played: Player) -> None:
        self._returns.append(played.returns)
        self._successes.append(played.successes)
        _require_consistent(self._successes)
        self._rows.append(summary_row(setting, played.returns, played.successes))

    def result(self) -> SweepResult:
        has_success = self._rows[0].success_mean is not None
        successes = np.array(self._successes, bool) if has_success else None
        return SweepResult(self._knobs, tuple(self._rows), np.array(self._returns), successes, self._seed)


def _require_axis(knob: Knob, values: Sequence[float]) -> list[float]:
    checked = [knob.checked(value) for value in values]
    if not checked or len(set(checked)) != len(checked):
        raise ValueError(f"{knob.name} is {checked}, expected at least one value and none twice")
    return checked


def summary_row(setting: Mapping[str, float], returns: np.ndarray, successes: list[bool | None]) -> SweepRow:
    row = SweepRow(dict(setting), len(returns), *mean_interval(returns.tolist()))
    if successes[0] is None:
        return row
    rate = proportion_interval(sum(map(bool, successes)), len(successes))
    return replace(row, success_mean=rate.mean, success_low=rate.low, success_high=rate.high)


def _require_consistent(successes: list[list[bool | None]]) -> None:
    reported = [success is not None for cell in successes for success in cell]
    if any(reported) and not all(reported):
        raise ValueError(
            f"{sum(reported)} of {len(reported)} episodes told success in their last info, expected all or none of them"
        )


def write_sweep_csv(result: SweepResult, path: str | Path) -> None:
    """The table as CSV, one row per cell: the knobs, then the fields of :class:`SweepRow`.

    The success columns are there only if the task reports success. The file is written atomically: it appears only when
    it is complete.

    :raises OSError: the file cannot be written; an earlier file with this name is unchanged.
    """
    write_csv(path, [sweep_columns(result.rows), *(sweep_values(row, result.rows) for row in result.rows)])


def read_sweep_csv(path: str | Path) -> list[SweepRow]:
    """The rows that :func:`write_sweep_csv` wrote.

    :raises ValueError: the file is no such table, or has no rows.
    """
    names = [field.name for field in fields(SweepRow) if field.name != "setting"]
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [
                SweepRow(
                    {name: float(value) for name, value in row.items() if name not in names},
                    int(row["episodes"]),
                    **{name: float(row[name]) for name in names if name != "episodes" and name in row},
                )
                for row in csv.DictReader(file, strict=True)
            ]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(
            f"{path}: is no table of an evaluation ({error}), expected what dipole evaluate wrote"
        ) from error
    if not rows:
        raise ValueError(f"{path}: has no rows, expected the table of an evaluation")
    return rows


def sweep_columns(rows: Sequence[SweepRow]) -> list[str]:
    """Names of the knobs and of the fields; without the success fields if no row has them."""
    return [*rows[0].setting, *_fields(rows)]


def sweep_values(row: SweepRow, rows: Sequence[SweepRow]) -> list[Any]:
    """A row's values in the columns of its table."""
    return [*row.setting.values(), *(getattr(row, name) for name in _fields(rows))]


def _fields(rows: Sequence[SweepRow]) -> list[str]:
    has_success = any(row.success_mean is not None for row in rows)
    names = [field.name for field in fields(SweepRow) if field.name != "setting"]
    return [name for name in names if has_success or not name.startswith("success")]


def setting_text(knobs: Sequence[Knob], setting: Mapping[str, float]) -> str:
    """A setting as text for people, e.g. ``ω = 0.5, N = 4``; empty for a model without knobs."""
    symbols = {knob.name: knob.symbol for knob in knobs}
    return ", ".join(f"{symbols.get(name, name)} = {value:g}" for name, value in setting.items())


def format_sweep_table(result: SweepResult) -> str:
    """The table for a terminal: the first knob's values down, the others across; success rates, if any, first."""
    return format_rows(result.knobs, result.rows)


def format_rows(knobs: Sequence[Knob], rows: Sequence[SweepRow]) -> str:
    """:func:`format_sweep_table` of rows that were read from a file."""
    tables = [format_cells(knobs, rows, return_cell)]
    episodes = rows[0].episodes
    titles = [f"Return, mean ± half of the 95 % interval, {episodes} episodes a cell"]
    if rows[0].success_mean is not None:
        tables.insert(0, format_cells(knobs, rows, success_cell))
        titles.insert(0, f"Success rate with its 95 % interval, {episodes} episodes a cell")
    return "\n\n".join(f"{title}\n{table}" for title, table in zip(titles, tables, strict=True))


def format_cells(knobs: Sequence[Knob], rows: Sequence[SweepRow], cell: Callable[[SweepRow], str]) -> str:
    """Cells as a table: the first knob's values down, the combinations of the others across."""
    if not knobs:
        return aligned_table([""], [[cell(row)] for row in rows])
    first, others = knobs[0], knobs[1:]
    lines: dict[float, list[str]] = {}
    across: dict[str, None] = {}
    for row in rows:
        value = row.setting[first.name]
        lines.setdefault(value, [f"{value:g}"]).append(cell(row))
        across[setting_text(knobs, {knob.name: row.setting[knob.name] for knob in others})] = None
    return aligned_table([first.symbol, *across], list(lines.values()))


def aligned_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Right-aligned columns for a terminal, with a line under the header (if there is one)."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]

    def text(line: Sequence[str]) -> str:
        return "  " + "   ".join(value.rjust(width) for value, width in zip(line, widths, strict=True))

    rule = [text(header), "  " + "   ".join("─" * width for width in widths)] if any(header) else []
    return "\n".join([*rule, *map(text, lines)])


def return_cell(row: SweepRow) -> str:
    """The mean return, with half the width of its interval if it has one."""
    if math.isnan(row.return_low):
        return f"{row.return_mean:.2f}"
    return f"{row.return_mean:.2f} ± {row.return_high - row.return_mean:.2f}"


def success_cell(row: SweepRow) -> str:
    """The success rate, with its interval if it has one."""
    mean, low, high = (100 * (value or 0.0) for value in (row.success_mean, row.success_low, row.success_high))
    return f"{mean:.0f} %" if math.isnan(low) else f"{mean:.0f} % [{low:.0f}, {high:.0f}]"
