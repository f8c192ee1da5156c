"""The pictures of guidance_bias.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import guidance_toy as toy
import matplotlib as mpl
import numpy as np
from torch import Tensor

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

if TYPE_CHECKING:
    from guidance_bias import Row

SHOWN_OMEGAS = (-1.0, 0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
DATA, POSITIVE, NEGATIVE, OPTIMAL, GUIDED, TRAINED = "0.82", "#1b7837", "#b2182b", "black", "#e08214", "#5e3c99"
BANDWIDTH = 0.015
SUBTITLES = {
    "ramp": "ramp: G rises, the best lies beyond the data",
    "peak": "peak: G is highest at 0.2, inside the data",
}


def smooth_density(quantiles: Tensor) -> Tensor:
    """Kernel density of equally likely actions on the grid; the kernel is narrow against all but a collapsed policy."""
    distances = (toy.GRID - quantiles[::8].unsqueeze(1)) / BANDWIDTH
    return (-0.5 * distances.square()).exp().mean(0)


def draw_densities(actions: Mapping[tuple[str, float], Mapping[str, Tensor]], path: Path, flow_steps: int) -> None:
    """A column for each state; from the bottom up the data with its pair, then guidance at rising ω."""
    figure, panels = plt.subplots(1, len(toy.STATES), figsize=(13, 9), sharex=True, sharey=True)
    for panel, state in zip(panels, toy.STATES, strict=True):
        _draw_data(panel, state)
        for line, omega in enumerate(SHOWN_OMEGAS, start=1):
            _draw_guided(panel, 1.25 * line, state, omega, actions[state.name, omega])
        panel.set_title(SUBTITLES[state.name], fontsize=12)
        panel.set_xlabel("action")
        panel.set_xlim(-1.05, 1.05)
        panel.set_yticks(
            [1.25 * line for line in range(len(SHOWN_OMEGAS) + 1)],
            ["data", *(_omega_label(omega) for omega in SHOWN_OMEGAS)],
        )
        panel.tick_params(axis="y", length=0)
        panel.spines["left"].set_visible(False)
    handles = [
        Patch(color=DATA, label="data μ"),
        Line2D([], [], color="0.35", linestyle=":", label="advantage G (own scale)"),
        Line2D([], [], color=POSITIVE, label="π⁺ ∝ μ·σ(βG)"),
        Line2D([], [], color=NEGATIVE, label="π⁻ ∝ μ·(1 − σ(βG))"),
        Line2D([], [], color=OPTIMAL, linestyle="--", label="π* ∝ μ·σ(βG)·exp(ωβG)"),
        Patch(color=GUIDED, alpha=0.55, label="guidance with exact velocities"),
        Line2D([], [], color=TRAINED, label=f"guidance, trained pair, {flow_steps} flow steps"),
    ]
    figure.legend(handles=handles, loc="lower center", ncols=4, fontsize=10, frameon=False)
    _save(figure, path, bottom=0.08)


def _omega_label(omega: float) -> str:
    names = {-1.0: "ω = −1 (π⁻)", 0.0: "ω = 0 (π⁺)"}
    return names.get(omega, f"ω = {omega:g}")


def _draw_data(panel: Any, state: toy.State) -> None:
    grid, data = toy.GRID.numpy(), toy.data_mass()
    panel.fill_between(grid, (data / data.max()).numpy(), color=DATA)
    for mass, colour in ((toy.positive_mass(state), POSITIVE), (toy.negative_mass(state), NEGATIVE)):
        panel.plot(grid, (mass / data.max() / 1.6).numpy(), color=colour)
    seen = toy.GRID[toy.GRID.abs() <= 1]
    advantage = state.advantage(seen).clamp(min=-2.0)
    height = (advantage - advantage.min()) / (advantage.max() - advantage.min())
    panel.plot(seen.numpy(), height.numpy(), color="0.35", linestyle=":")


def _draw_guided(panel: Any, base: float, state: toy.State, omega: float, parts: Mapping[str, Tensor]) -> None:
    """One row of the picture, every curve scaled to the same height."""
    grid, data = toy.GRID.numpy(), toy.data_mass()

    def heights(values: Tensor) -> np.ndarray:
        return (base + values / values.max()).numpy()

    panel.fill_between(grid, base, heights(data), color=DATA, alpha=0.6, linewidth=0)
    panel.fill_between(grid, base, heights(smooth_density(parts["exact"])), color=GUIDED, alpha=0.55, linewidth=0)
    panel.plot(grid, heights(toy.optimal_mass(state, omega)), color=OPTIMAL, linestyle="--", linewidth=1.2)
    panel.plot(grid, heights(smooth_density(parts["trained"])), color=TRAINED, linewidth=1.4)


def draw_over_omega(rows: Sequence[Row], path: Path) -> None:
    """Spread, share outside the data and distance to π* over ω."""
    figure, axes = plt.subplots(1, 3, figsize=(14, 4))
    panels: list[tuple[str, Callable[[Row, str], float], tuple[str, ...]]] = [
        (
            "standard deviation of the actions",
            lambda row, name: getattr(row, name).std,
            ("optimal", "exact", "trained"),
        ),
        (
            "actions outside the data, %",
            lambda row, name: 100 * getattr(row, name).outside,
            ("optimal", "exact", "trained"),
        ),
        (
            "distance to π* (Wasserstein-1)",
            lambda row, name: getattr(row, f"{name}_to_optimal"),
            ("exact", "trained"),
        ),
    ]
    styles = {
        "optimal": (":", "π*"),
        "exact": ("-", "guidance, exact fields"),
        "trained": ("--", "trained pair, 10 flow steps"),
    }
    for panel, (title, figure_of, names) in zip(axes, panels, strict=True):
        for state, colour in zip(toy.STATES, ("#2166ac", "#d6604d"), strict=True):
            own = [row for row in rows if row.state == state.name and row.omega >= 0]
            for name in names:
                style, label = styles[name]
                panel.plot(
                    range(len(own)),
                    [figure_of(row, name) for row in own],
                    style,
                    marker="o",
                    markersize=3,
                    color=colour,
                    label=f"{state.name}: {label}",
                )
            panel.set_xticks(range(len(own)), [f"{row.omega:g}" for row in own])
        panel.set_title(title, fontsize=11)
        panel.set_xlabel("ω")
        panel.set_ylim(bottom=0)
    axes[1].legend(fontsize=8, frameon=False)
    _save(figure, path)


def _save(figure: Any, path: Path, bottom: float = 0.0) -> None:
    for panel in figure.axes:
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout(rect=(0, bottom, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)
