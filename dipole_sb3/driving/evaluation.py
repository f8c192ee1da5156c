"""How well an agent drives at each greediness ω: the scores of its plans, with intervals over scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dipole_sb3.common.files import write_csv
from dipole_sb3.common.intervals import Interval, mean_interval
from dipole_sb3.driving.scene import Floats, Scores
from dipole_sb3.driving.training.interfaces import Scenes, Scorer

SUB_SCORES = tuple(field.name for field in fields(Scores))
COLUMNS = ("policy", "omega", "pdms", "pdms_low", "pdms_high", *SUB_SCORES[:-1], "scenes", "plans_per_scene")
SHORT = ("NC", "DAC", "EP", "TTC", "C")
"""NAVSIM's names of the sub-scores, in the order of :class:`~dipole_sb3.driving.scene.Scores`."""

_BATCH = 64
"""Scenes that plan at a time."""


@dataclass(frozen=True)
class Evaluated:
    """One policy's scores on some scenes.

    :ivar policy: its name, e.g. ``"DIPOLE"``.
    :ivar omega: ω of its plans; None for a policy that takes none.
    :ivar scores: arrays [scenes, plans].
    """

    policy: str
    omega: float | None
    scores: Scores

    def percent(self, name: str) -> Interval:
        """Mean and 95 % interval over the scenes of a sub-score, or of ``pdms``, in percent."""
        values: Floats = getattr(self.scores, name)
        return mean_interval((100.0 * values.mean(axis=1)).tolist())


def score_agent(
    agent: Any, scenes: Scenes, scorer: Scorer, omega: float | None, *, num_plans: int = 1, seed: int = 0
) -> Scores:
    """Scores of an agent's plans: arrays [scenes, plans].

    The noise is that of :meth:`~dipole_sb3.driving.DPVLA.predict` with this seed, the same for every ω and policy.
    """
    parts = []
    for start in range(0, len(scenes), _BATCH):
        chosen = range(start, min(start + _BATCH, len(scenes)))
        plans = agent.predict(scenes.observations(chosen), omega, num_plans=num_plans, seed=seed)
        parts.append(scorer.score_plans([scenes[index].surroundings for index in chosen], plans))
    return joined(parts)


def score_experts(scenes: Scenes, scorer: Scorer) -> Scores:
    """Scores of where the cars really went: arrays [scenes, 1]."""
    all_of_them = [scenes[index] for index in range(len(scenes))]
    plans: npt.NDArray[np.float64] = np.stack([scene.expert for scene in all_of_them])[:, None].astype(np.float64)
    return scorer.score_plans([scene.surroundings for scene in all_of_them], plans)


def sweep(
    agent: Any,
    scenes: Scenes,
    scorer: Scorer,
    omegas: Sequence[float],
    *,
    policy: str = "DIPOLE",
    num_plans: int = 1,
    seed: int = 0,
) -> list[Evaluated]:
    """One row for each ω; for an agent that takes none, one row."""
    values: Sequence[float | None] = list(omegas) if agent.takes_omega else [None]
    return [
        Evaluated(policy, omega, score_agent(agent, scenes, scorer, omega, num_plans=num_plans, seed=seed))
        for omega in values
    ]


def best(rows: Sequence[Evaluated]) -> Evaluated:
    """The row of the highest mean PDMS; of equals the first."""
    return max(rows, key=lambda row: row.percent("pdms").mean)


def joined(parts: Sequence[Scores]) -> Scores:
    """Scores of all scenes, of those of some at a time."""
    return Scores(*(np.concatenate([getattr(part, name) for part in parts]) for name in SUB_SCORES))


def table(rows: Sequence[Evaluated]) -> list[Mapping[str, Any]]:
    """One mapping of :data:`COLUMNS` a row, percents with two digits."""
    found: list[Mapping[str, Any]] = []
    for row in rows:
        pdms = row.percent("pdms")
        scenes, plans = row.scores.pdms.shape
        percents = {name: f"{row.percent(name).mean:.2f}" for name in SUB_SCORES[:-1]}
        interval = {"pdms": f"{pdms.mean:.2f}", "pdms_low": f"{pdms.low:.2f}", "pdms_high": f"{pdms.high:.2f}"}
        omega = "" if row.omega is None else f"{row.omega:g}"
        found.append(
            {"policy": row.policy, "omega": omega, **interval, **percents, "scenes": scenes, "plans_per_scene": plans}
        )
    return found


def write_table(rows: Sequence[Evaluated], path: Path) -> None:
    """As CSV."""
    write_csv(path, [COLUMNS, *([row[name] for name in COLUMNS] for row in table(rows))])


def text(rows: Sequence[Evaluated]) -> str:
    """The table for a terminal."""
    lines = [["policy", "ω", "PDMS", "95 % interval", *SHORT]]
    for row in table(rows):
        interval = f"{float(row['pdms_low']):.1f} … {float(row['pdms_high']):.1f}"
        percents = [f"{float(row[name]):.1f}" for name in SUB_SCORES[:-1]]
        lines.append([row["policy"], row["omega"], f"{float(row['pdms']):.1f}", interval, *percents])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)
