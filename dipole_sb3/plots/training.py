"""Pictures of a run: return over ω, the weights on the data, learning curves; and how the policy acts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from dipole_sb3.algorithms.dipole.algorithm import DIPOLE
from dipole_sb3.algorithms.dipole.dichotomy import aggregate, dichotomous_weights
from dipole_sb3.buffers.normalization import BatchNormalizer
from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.evaluation.sweep import SweepResult, SweepRow
from dipole_sb3.learning.training_monitor import SATURATION
from dipole_sb3.plots.acting import choose_observation, plot_actions, plot_paths
from dipole_sb3.plots.curves import plot_curves
from dipole_sb3.plots.drawing import COLOURS, MARKERS, MUTED, NEGATIVE, POSITIVE, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "choose_observation",
    "plot_actions",
    "plot_curves",
    "plot_omega_sweep",
    "plot_paths",
    "plot_weights",
    "recorded_advantages",
]

_CHUNK = 4096


def plot_omega_sweep(
    result: SweepResult,
    path: str | Path,
    *,
    data_return: float | None = None,
    agent_return: float | None = None,
    title: str | None = None,
) -> None:
    """Return over ω, a line for each N, with 95 % intervals; success rate beside it where the task has success.

    :param result: from :func:`~dipole_sb3.evaluation.sweep.evaluate_sweep`.
    :param path: PNG file.
    :param data_return: mean return of the recorded episodes, drawn as a line.
    :param agent_return: return of the recording agent when it had finished, drawn as a line.
    :param title: above the picture.
    """
    has_success = result.successes is not None
    with drawing(path, 11.0 if has_success else 7.2, 4.6) as figure:
        axes = figure.subplots(1, 2 if has_success else 1, squeeze=False)[0]
        if title is not None:
            figure.suptitle(title)
        _draw_cells(axes[-1], result, "return")
        axes[-1].set_ylabel("return of an episode")
        episodes = result.rows[0].episodes
        axes[-1].set_title(f"mean of {episodes} episodes, 95 % interval", loc="left", fontsize=10, color=MUTED)
        for value, text, style in (
            (data_return, "mean of the recorded data", "--"),
            (agent_return, "recording agent at its end", "-."),
        ):
            if value is not None:
                _reference_line(axes[-1], value, text, style)
        if has_success:
            _draw_cells(axes[0], result, "success")
            axes[0].set_ylabel("success rate")
            axes[0].set_ylim(-0.03, 1.03)
            axes[0].yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
            axes[0].set_title(f"{episodes} episodes, 95 % interval", loc="left", fontsize=10, color=MUTED)
        axes[0].legend(loc="best", title="candidates per action")


def _draw_cells(axes: Axes, result: SweepResult, quantity: str) -> None:
    order = sorted(result.omegas)
    for index, count in enumerate(result.candidates):
        rows = [result.row(omega, count) for omega in order]
        mean, low, high = (_column(rows, f"{quantity}_{bound}") for bound in ("mean", "low", "high"))
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        axes.fill_between(order, low, high, color=colour, alpha=0.15, linewidth=0)
        spread = [np.clip(mean - low, 0, None), np.clip(high - mean, 0, None)]
        axes.errorbar(order, mean, spread, color=colour, marker=marker, markersize=6, capsize=3, label=f"N = {count}")
    names = {-1.0: "−1\n(π⁻ alone)", 0.0: "0\n(π⁺ alone)"}
    axes.set_xticks(order, [names.get(omega, f"{omega:g}") for omega in order])
    axes.set_xlabel("greediness ω")


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


def recorded_advantages(model: DIPOLE, dataset: OfflineReplayBuffer, limit: int = 20_000) -> np.ndarray:
    """Advantages min(Q̄₁, Q̄₂)(s, a) − V(s) of recorded transitions, as training weights them.

    :param model: gives target critics, value and normalisation.
    :param dataset: raw data of the model's spaces.
    :param limit: at most so many transitions, evenly spread over the data.
    :return: shape [transitions], in units of return (of normalised return where rewards are normalised).
    """
    count = dataset.size() * dataset.n_envs
    indices = torch.linspace(0, count - 1, min(count, limit), dtype=torch.float64).long().to(dataset.device)
    statistics = model.get_vec_normalize_env()
    normalizer = None if statistics is None else BatchNormalizer(statistics, dataset.device)
    policy = model.policy
    policy.set_training_mode(False)
    parts = []
    with torch.no_grad():
        for chunk in torch.split(indices, _CHUNK):
            batch = dataset.take(chunk)
            batch = batch if normalizer is None else normalizer(batch)
            q = policy.critic_target.head(policy.critic_target.features(batch.observations), batch.actions)
            parts.append(aggregate(q, "min") - policy.value.head(policy.value.features(batch.observations)))
    return torch.cat(parts).cpu().numpy()


def plot_weights(model: DIPOLE, dataset: OfflineReplayBuffer, path: str | Path) -> tuple[float, float]:
    """How σ(βG + k) splits the recorded data between π⁺ and π⁻, and where it saturates.

    :param model: trained; gives β, k and the advantages.
    :param dataset: raw data of the model's spaces, on the model's device.
    :param path: PNG file.
    :return: shares of the data with a weight below 0.05 and above 0.95.
    """
    advantages = recorded_advantages(model, dataset)
    weights, _ = _weights(model, advantages)
    shares = float((weights < SATURATION).mean()), float((weights > 1 - SATURATION).mean())
    edge = math.log(1 / SATURATION - 1)
    lower, upper = (-edge - model.shift) / model.beta, (edge - model.shift) / model.beta
    left, right = _range(advantages)
    with drawing(path, 8.0, 4.8) as figure:
        axes = figure.subplots()
        bins = np.linspace(left, right, 61).tolist()
        density = np.full(len(advantages), 100.0 / len(advantages))
        axes.hist(advantages, bins=bins, weights=density, color="#B9C4CE", label="recorded transitions")
        axes.set(xlim=(left, right), xlabel="advantage G = min(Q₁, Q₂) − V, in units of return")
        axes.set_ylabel("share of the data per bin (%)")
        curve = axes.twinx()
        curve.grid(False)
        curve.spines["right"].set_visible(True)
        x = np.linspace(left, right, 400)
        names = ("weight of π⁺: σ(βG + k)", "weight of π⁻: 1 − σ(βG + k)")
        for weight, colour, name in zip(_weights(model, x), (POSITIVE, NEGATIVE), names, strict=True):
            curve.plot(x, weight, color=colour, label=name)
        curve.set(ylim=(0, 1.0), ylabel="weight")
        axes.axvspan(left, min(max(lower, left), right), color=NEGATIVE, alpha=0.10, linewidth=0)
        axes.axvspan(max(min(upper, right), left), right, color=POSITIVE, alpha=0.10, linewidth=0)
        figure.suptitle(
            f"How the advantage splits the data between π⁺ and π⁻ (β = {model.beta:g}, k = {model.shift:g})"
        )
        axes.set_title(
            f"saturated (shaded): {100 * shares[0]:.1f} % of the data train π⁻ alone (weight of π⁺ < {SATURATION:g}), "
            f"{100 * shares[1]:.1f} % π⁺ alone (> {1 - SATURATION:g})",
            fontsize=10,
            color=MUTED,
        )
        handles = [*axes.get_legend_handles_labels()[0], *curve.get_legend_handles_labels()[0]]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return shares


def _weights(model: DIPOLE, advantages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    positive, negative = dichotomous_weights(torch.from_numpy(advantages), model.beta, model.shift)
    return positive.numpy(), negative.numpy()


def _range(values: np.ndarray) -> tuple[float, float]:
    """Where nearly all values are, with a margin; wide enough for an axis when they are all equal."""
    low, high = np.percentile(values, [0.2, 99.8])
    margin = max(0.05 * (high - low), 1e-3)
    return float(low - margin), float(high + margin)
