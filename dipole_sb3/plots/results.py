"""Pictures of a run's result: return over the knob values, and the weights of the recorded data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from dipole_sb3.buffers.normalization import BatchNormalizer
from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.evaluation.sweep import SweepResult, SweepRow, setting_text
from dipole_sb3.learning.advantage_weights import AdvantageWeights
from dipole_sb3.learning.knobs import Knob
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm
from dipole_sb3.plots.drawing import COLOURS, MARKERS, MUTED, NEGATIVE, POSITIVE, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CHUNK = 4096


def plot_sweep(
    result: SweepResult,
    path: str | Path,
    *,
    data_return: float | None = None,
    agent_return: float | None = None,
    title: str | None = None,
) -> None:
    """Return over the first knob, one line per setting of the others, with 95 % intervals.

    If the task reports success, the success rate is drawn beside the return. A model without knobs is one point.

    :param result: from :func:`~dipole_sb3.evaluation.sweep.evaluate_sweep`.
    :param path: PNG file.
    :param data_return: mean return of the recorded episodes, drawn as a line.
    :param agent_return: return of the recording agent after its training, drawn as a line.
    :param title: title of the picture.
    """
    lines: dict[str, list[SweepRow]] = {}
    for row in result.rows:
        others = {knob.name: row.setting[knob.name] for knob in result.knobs[1:]}
        lines.setdefault(setting_text(result.knobs, others), []).append(row)
    references = [
        (value, text, style)
        for value, text, style in (
            (data_return, "mean of the recorded data", "--"),
            (agent_return, "recording agent at its end", "-."),
        )
        if value is not None
    ]
    episodes = f"{result.rows[0].episodes} episodes, 95 % interval"
    plot_cells(result.knobs, lines, path, episodes, references=references, title=title)


def plot_cells(
    knobs: Sequence[Knob],
    lines: Mapping[str, Sequence[SweepRow]],
    path: str | Path,
    over: str,
    *,
    references: Sequence[tuple[float, str, str]] = (),
    title: str | None = None,
) -> None:
    """Return, and the success rate if there is one, over the first knob, one line for each label, with intervals.

    :param knobs: the knobs that were varied.
    :param lines: label → cells.
    :param path: PNG file.
    :param over: what a point is the mean of, and what its interval is.
    :param references: returns to draw as lines: value, name, line style.
    :param title: title of the picture.
    """
    has_success = all(row.success_mean is not None for rows in lines.values() for row in rows)
    with drawing(path, 11.0 if has_success else 7.2, 4.6) as figure:
        axes = figure.subplots(1, 2 if has_success else 1, squeeze=False)[0]
        if title is not None:
            figure.suptitle(title)
        _draw_cells(axes[-1], knobs, lines, "return")
        axes[-1].set_ylabel("return of an episode")
        axes[-1].set_title(over if over.startswith("mean") else f"mean of {over}", loc="left", fontsize=10, color=MUTED)
        for value, text, style in references:
            _reference_line(axes[-1], value, text, style)
        if has_success:
            _draw_cells(axes[0], knobs, lines, "success")
            axes[0].set_ylabel("success rate")
            axes[0].set_ylim(-0.03, 1.03)
            axes[0].yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
            axes[0].set_title(over, loc="left", fontsize=10, color=MUTED)
        if any(lines):
            axes[0].legend(loc="best", title=", ".join(knob.title for knob in knobs[1:]))


def _draw_cells(axes: Axes, knobs: Sequence[Knob], lines: Mapping[str, Sequence[SweepRow]], quantity: str) -> None:
    first = knobs[0] if knobs else None
    for index, (label, of_line) in enumerate(lines.items()):
        rows = sorted(of_line, key=lambda row: row.setting[first.name] if first else 0.0)
        order = [row.setting[first.name] if first else 0.0 for row in rows]
        mean, low, high = (_column(rows, f"{quantity}_{bound}") for bound in ("mean", "low", "high"))
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        axes.fill_between(order, low, high, color=colour, alpha=0.15, linewidth=0)
        spread = [np.clip(mean - low, 0, None), np.clip(high - mean, 0, None)]
        axes.errorbar(order, mean, spread, color=colour, marker=marker, markersize=6, capsize=3, label=label)
    if first is None:
        axes.set_xticks([])
        return
    ticks = sorted({row.setting[first.name] for rows in lines.values() for row in rows})
    names = dict(first.names)
    axes.set_xticks(ticks, [_tick(value, names.get(value)) for value in ticks])
    axes.set_xlabel(first.title)


def _tick(value: float, name: str | None) -> str:
    number = f"{value:g}".replace("-", "−")
    return number if name is None else f"{number}\n({name})"


def _column(rows: Sequence[SweepRow], name: str) -> np.ndarray:
    return np.array([getattr(row, name) for row in rows], float)


def _reference_line(axes: Axes, value: float, text: str, style: str) -> None:
    axes.axhline(value, color=MUTED, linestyle=style, linewidth=1.4, zorder=1)
    axes.annotate(
        f"{text}: {value:.1f}".replace("-", "−"),
        (1.0, value),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 4),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=MUTED,
        fontsize=10,
    )


def recorded_advantages(model: OfflineAlgorithm, dataset: OfflineReplayBuffer, limit: int = 20_000) -> np.ndarray:
    """Advantages of recorded transitions, as training uses them for the weights.

    :param model: provides networks and normalisation.
    :param dataset: raw data with the model's spaces; images with their channels first or last.
    :param limit: largest number of transitions; they are evenly spread over the data.
    :return: shape [transitions], in units of return (of normalised return if rewards are normalised).
    """
    dataset = dataset.with_channels_of(model.observation_space)
    count = dataset.size() * dataset.n_envs
    indices = torch.linspace(0, count - 1, min(count, limit), dtype=torch.float64).long().to(dataset.device)
    statistics = model.get_vec_normalize_env()
    normalizer = None if statistics is None else BatchNormalizer(statistics, dataset.device)
    weights = _advantage_weights(model)
    model.policy.set_training_mode(False)
    parts = []
    with torch.no_grad():
        for chunk in torch.split(indices, _CHUNK):
            batch = dataset.take(chunk)
            parts.append(weights.advantage(batch if normalizer is None else normalizer(batch)))
    return torch.cat(parts).cpu().numpy()


def _advantage_weights(model: OfflineAlgorithm) -> AdvantageWeights:
    weights = model.advantage_weights()
    if weights is None:
        raise ValueError(f"{type(model).__name__} does not weight its data by an advantage: there is nothing to draw")
    return weights


def plot_weights(model: OfflineAlgorithm, dataset: OfflineReplayBuffer, path: str | Path) -> tuple[float, float]:
    """Draws the weights over the advantages of the recorded data, and where the weights saturate.

    :param model: trained.
    :param dataset: raw data with the model's spaces, on the model's device.
    :param path: PNG file.
    :return: shares of the data below and above the range in which the first weight still changes.
    :raises ValueError: the algorithm does not weight its data by an advantage.
    """
    advantages, weights = recorded_advantages(model, dataset), _advantage_weights(model)
    lower, upper = weights.saturation
    shares = float((advantages < lower).mean()), float((advantages > upper).mean())
    left, right = _range(advantages)
    with drawing(path, 8.0, 4.8) as figure:
        axes = figure.subplots()
        bins = np.linspace(left, right, 61).tolist()
        density = np.full(len(advantages), 100.0 / len(advantages))
        axes.hist(advantages, bins=bins, weights=density, color="#B9C4CE", label="recorded transitions")
        axes.set(xlim=(left, right), xlabel=f"advantage {weights.formula}, in units of return")
        axes.set_ylabel("share of the data per bin (%)")
        curve = axes.twinx()
        curve.grid(False)
        curve.spines["right"].set_visible(True)
        x = np.linspace(left, right, 400)
        for (name, weight), colour in zip(weights.curves.items(), (POSITIVE, NEGATIVE), strict=False):
            curve.plot(x, weight(torch.from_numpy(x)).numpy(), color=colour, label=name)
        curve.set(ylabel="weight")
        curve.set_ylim(0, 1 if weights.largest <= 1 else None)
        axes.axvspan(left, min(max(lower, left), right), color=NEGATIVE, alpha=0.10, linewidth=0)
        axes.axvspan(max(min(upper, right), left), right, color=POSITIVE, alpha=0.10, linewidth=0)
        figure.suptitle(weights.title)
        axes.set_title(f"saturated (shaded): {weights.note(*shares)}", fontsize=10, color=MUTED)
        handles = [*axes.get_legend_handles_labels()[0], *curve.get_legend_handles_labels()[0]]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return shares


def _range(values: np.ndarray) -> tuple[float, float]:
    """The range of nearly all values, with a margin; wide enough for an axis when they are all equal."""
    low, high = np.percentile(values, [0.2, 99.8])
    margin = max(0.05 * (high - low), 1e-3)
    return float(low - margin), float(high + margin)
