"""Pictures of how a policy acts at several settings: paths of Reacher's fingertip, and sampled actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium
import numpy as np
import torch

from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common.random_state import seeded_torch
from dipole_sb3.evaluation.batched_acting import normalized_observations, stack_observations
from dipole_sb3.evaluation.environment_pool import MakeEnv
from dipole_sb3.evaluation.sweep import setting_text
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm
from dipole_sb3.plots.drawing import COLOURS, GUIDED, MUTED, NEGATIVE, POSITIVE, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Setting = Mapping[str, Any]
"""Name of a knob → its value; a knob that is missing keeps the model's own value."""

_REACH = 21.0
"""Reach of Reacher's arm in cm: its links are 10 and 11 cm long."""


class FingertipPath(NamedTuple):
    """The fingertip's path in one episode and its target, in cm; the norms of its actions and its return."""

    points: np.ndarray
    efforts: np.ndarray
    target: np.ndarray
    total_reward: float

    @property
    def distance_reward(self) -> float:
        """Reacher's reward for distance: minus the metres between fingertip and target, summed over steps."""
        return float(-np.linalg.norm(self.points[1:] - self.target, axis=1).sum() / 100.0)


def plot_paths(
    model: OfflineAlgorithm,
    make_env: MakeEnv,
    path: str | Path,
    settings: Sequence[Setting],
    *,
    seeds: Sequence[int] | None = None,
    deterministic: bool = False,
) -> None:
    """Paths of Reacher's fingertip to the same targets, one panel per setting.

    :param model: trained on Reacher.
    :param make_env: makes a Gymnasium Reacher.
    :param path: PNG file.
    :param settings: one per panel: values of the model's knobs.
    :param seeds: one episode per seed, started by ``reset(seed=...)`` (colours repeat after 8). None: those of
        :func:`spread_seeds`.
    :param deterministic: the policy's noise is fixed instead of drawn.
    :raises ValueError: the environment has no fingertip and target.
    """
    seeds = spread_seeds(make_env) if seeds is None else list(seeds)
    panels = []
    for setting in settings:
        with seeded_torch(0):
            panels.append(_paths(model, make_env, setting, seeds, deterministic))
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with drawing(path, 2.9 * columns + 0.5, 3.35 * rows + 0.8) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, setting, paths in zip(grid.flat, settings, panels, strict=False):
            _draw_paths(axes, _turned(model, settings, setting), paths)
        for axes in grid[:, 0]:
            axes.set_ylabel("y (cm)")
        for axes in grid[-1]:
            axes.set_xlabel("x (cm)")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(handles))
        same = {name: value for name, value in settings[0].items() if all(each[name] == value for each in settings)}
        knobs = model.policy.knobs
        turned = [knob.title for knob in knobs if knob.name in settings[0] and knob.name not in same]
        what = f", {' and '.join(turned)} turned after training" if turned else ""
        rest = f" ({setting_text(knobs, same)})" if same else ""
        figure.suptitle(f"The same {len(seeds)} targets{what}{rest}")


def spread_seeds(make_env: MakeEnv, count: int = 6) -> list[int]:
    """Seeds of episodes whose targets lie in different directions, so that their paths can be told apart.

    The circle is divided into equal sectors; each gets the first seed whose target lies in it.

    :param make_env: makes a Gymnasium Reacher.
    :param count: number of sectors, and so of seeds.
    """
    environment = make_env()
    chosen: dict[int, int] = {}
    seed = 0
    while len(chosen) < count:
        environment.reset(seed=seed)
        x, y = _position(environment, "target")
        chosen.setdefault(int(np.arctan2(y, x) % (2 * np.pi) / (2 * np.pi) * count), seed)
        seed += 1
    environment.close()
    return [chosen[sector] for sector in range(count)]


def _paths(
    model: OfflineAlgorithm, make_env: MakeEnv, setting: Setting, seeds: Sequence[int], deterministic: bool
) -> list[FingertipPath]:
    environments = [make_env() for _ in seeds]
    observations = [environment.reset(seed=seed)[0] for environment, seed in zip(environments, seeds, strict=True)]
    points = [[_position(environment, "fingertip")] for environment in environments]
    targets = [_position(environment, "target") for environment in environments]
    efforts: list[list[float]] = [[] for _ in seeds]
    totals = [0.0] * len(seeds)
    playing = list(range(len(seeds)))
    while playing:
        batch = normalized_observations(model, stack_observations([observations[index] for index in playing]))
        actions, _ = model.predict(batch, deterministic=deterministic, **setting)
        ended = set()
        for index, action in zip(playing, actions, strict=True):
            observations[index], reward, terminated, truncated, _ = environments[index].step(action)
            points[index].append(_position(environments[index], "fingertip"))
            efforts[index].append(float(np.linalg.norm(action)))
            totals[index] += float(reward)
            if terminated or truncated:
                ended.add(index)
        playing = [index for index in playing if index not in ended]
    for environment in environments:
        environment.close()
    columns = zip(points, efforts, targets, totals, strict=True)
    return [FingertipPath(np.array(way), np.array(effort), target, total) for way, effort, target, total in columns]


def _position(environment: gymnasium.Env[Any, Any], body: str) -> np.ndarray:
    """Position of one of the robot's bodies in the plane, in cm."""
    simulated: Any = environment.unwrapped
    try:
        return 100.0 * np.array(simulated.get_body_com(body)[:2], float)
    except (AttributeError, KeyError) as error:
        name = environment.spec.id if environment.spec is not None else type(simulated).__name__
        raise ValueError(
            f"{name} has no body {body!r}; expected Gymnasium's Reacher, whose fingertip is drawn"
        ) from error


def _turned(model: OfflineAlgorithm, settings: Sequence[Setting], setting: Setting) -> str:
    """For a panel's title: the knobs that differ between the settings, with the names of their values."""
    parts = []
    for knob in model.policy.knobs:
        if knob.name in setting and any(each[knob.name] != setting[knob.name] for each in settings):
            name = dict(knob.names).get(float(setting[knob.name]))
            value = f"{knob.symbol} = {setting[knob.name]:g}".replace("-", "−")
            parts.append(value if name is None else f"{value} ({name.removesuffix(' alone')})")
    return ", ".join(parts)


def _draw_paths(axes: Axes, turned: str, paths: Sequence[FingertipPath]) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Circle

    axes.add_patch(
        Circle((0, 0), _REACH, fill=False, color="#B0B0B0", linestyle=":", linewidth=1.4, label="arm's reach")
    )
    axes.plot(0, 0, marker="+", color=MUTED, markersize=9, linestyle="none", label="shoulder")
    for index, (points, efforts, target, _) in enumerate(paths):
        colour, first = COLOURS[index % len(COLOURS)], index == 0
        label: dict[str, Any] = {}
        segments = np.stack([points[:-1], points[1:]], axis=1)
        axes.add_collection(
            LineCollection(list(segments), linewidths=_line_width(efforts), color=colour, capstyle="round")
        )
        neutral = {"label": "start"} if first else label
        axes.plot(*points[0], marker="o", markersize=4, color=MUTED, linestyle="none", zorder=3, **neutral)
        axes.plot(*target, marker="*", markersize=15, color=colour, markeredgecolor="white", linestyle="none", zorder=4)
        axes.plot(
            *points[-1], marker="o", markersize=5.5, color=colour, markeredgecolor="black", linestyle="none", zorder=5
        )
    for effort, text in ((0.1, "little torque"), (1.0, "much torque")):
        axes.plot([], [], color=MUTED, linewidth=_line_width(effort), label=text)
    axes.plot([], [], marker="*", markersize=12, color=MUTED, linestyle="none", label="target")
    axes.plot([], [], marker="o", color="white", markeredgecolor="black", linestyle="none", label="end")
    axes.set(xlim=(-_REACH - 2, _REACH + 2), ylim=(-_REACH - 2, _REACH + 2), aspect="equal")
    axes.grid(False)
    distance = np.mean([path.distance_reward for path in paths])
    total = np.mean([path.total_reward for path in paths])
    title = f"return {total:.1f}".replace("-", "−")
    axes.set_title(f"{turned}: {title}" if turned else title, pad=20, weight="bold")
    parts = f"= {distance:.1f} distance {total - distance:+.1f} torque".replace("-", "−")
    axes.annotate(parts, (0.5, 1), xycoords="axes fraction", xytext=(0, 6), textcoords="offset points", ha="center")


def _line_width(effort: Any) -> Any:
    """Line width in points, from the norm of the action."""
    return 0.8 + 4.5 * effort


def plot_actions(
    model: OfflineAlgorithm,
    observation: Any,
    path: str | Path,
    settings: Sequence[Setting],
    *,
    samples: int = 400,
    dims: tuple[int, int] = (0, 1),
    seed: int = 0,
) -> None:
    """Sampled actions at one state for several settings, over contours of Q.

    :param model: with at least two action dimensions.
    :param observation: raw, one state; :func:`choose_observation` finds one where actions matter.
    :param path: PNG file.
    :param settings: at most three, one per panel: values of the model's knobs.
    :param samples: number of samples at each setting.
    :param dims: the two action dimensions drawn; for Q the others are fixed at the mean of the last setting's samples.
    :param seed: seed of the samples; all settings start from the same noise.
    :raises ValueError: the model has fewer than two action dimensions.
    """
    if model.policy.action_dim < 2:
        raise ValueError(
            f"the model has {model.policy.action_dim} action dimension, expected at least 2 to draw a plane"
        )
    clouds = [_samples(model, observation, setting, samples, seed) for setting in settings]
    ticks = np.linspace(-1, 1, 81)
    plane = np.tile(clouds[-1].mean(axis=0), (ticks.size**2, 1))
    plane[:, dims[0]], plane[:, dims[1]] = (axis.ravel() for axis in np.meshgrid(ticks, ticks))
    q = _q_values(model, observation, plane).reshape(ticks.size, ticks.size)
    best_row, best_column = np.unravel_index(q.argmax(), q.shape)
    with drawing(path, 11.0, 4.3) as figure:
        grid = figure.subplots(1, len(settings), sharex=True, sharey=True, squeeze=False)[0]
        for axes, setting, colour, cloud in zip(grid, settings, (NEGATIVE, POSITIVE, GUIDED), clouds, strict=False):
            # Light greys only: the samples must stand out everywhere.
            contours = axes.contourf(ticks, ticks, q, levels=14, cmap="Greys_r", vmin=1.6 * q.min() - 0.6 * q.max())
            axes.contour(contours, colors="#8C8C8C", linewidths=0.5, linestyles="solid")
            axes.scatter(
                *cloud[:, dims].T,
                s=16,
                color=colour,
                edgecolors="white",
                linewidths=0.4,
                alpha=0.85,
                clip_on=False,
                zorder=3,
            )
            axes.plot(
                ticks[best_column],
                ticks[best_row],
                marker="*",
                markersize=16,
                zorder=4,
                color="#F0E442",
                markeredgecolor="black",
            )
            axes.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", xlabel=f"action {dims[0] + 1}")
            axes.grid(False)
            mean = f"mean Q {_q_values(model, observation, cloud).mean():.2f}".replace("-", "−")
            axes.set_title(f"{_turned(model, settings, setting)}\n{mean}")
        grid[0].set_ylabel(f"action {dims[1] + 1}")
        figure.colorbar(contours, ax=grid, label="min(Q₁, Q₂)", shrink=0.85)
        figure.suptitle(
            f"{samples} actions drawn at one state, over the critics' Q (★: its maximum; actions scaled to [−1, 1])"
        )


def choose_observation(
    model: OfflineAlgorithm,
    dataset: OfflineReplayBuffer,
    *,
    worse: Setting,
    better: Setting,
    among: int = 200,
    samples: int = 32,
) -> Any:
    """A recorded state where the choice of action matters.

    At this state, the Q-values of ``better`` exceed those of ``worse`` by more than at 29 of 30 states.

    :param model: provides samples and Q.
    :param dataset: raw data with the model's spaces.
    :param worse: values of the model's knobs.
    :param better: values of the model's knobs, of the setting that should have the higher Q.
    :param among: number of states compared, evenly spread over the data.
    :param samples: actions sampled at each setting, per state.
    :return: the raw observation.
    """
    count = dataset.size() * dataset.n_envs
    indices = np.unique(np.linspace(0, count - 1, min(count, among)).astype(int))
    gaps = []
    for index in indices:
        observation = _recorded(dataset, index)
        low, high = (
            _q_values(model, observation, _samples(model, observation, setting, samples, seed=0)).mean()
            for setting in (worse, better)
        )
        gaps.append(high - low)
    return _recorded(dataset, indices[np.argsort(gaps)[int(29 / 30 * (len(gaps) - 1))]])


def _recorded(dataset: OfflineReplayBuffer, index: int) -> Any:
    row, column = divmod(int(index), dataset.n_envs)
    if isinstance(dataset.observations, dict):
        return {key: array[row, column] for key, array in dataset.observations.items()}
    return dataset.observations[row, column]


def _samples(model: OfflineAlgorithm, observation: Any, setting: Setting, count: int, seed: int) -> np.ndarray:
    """Actions scaled to [−1, 1], shape [count, action]."""
    batch = normalized_observations(model, stack_observations([observation] * count))
    with seeded_torch(seed):
        actions, _ = model.predict(batch, deterministic=False, **setting)
    return np.asarray(model.policy.scale_action(actions)).reshape(count, -1)


def _q_values(model: OfflineAlgorithm, observation: Any, actions: np.ndarray) -> np.ndarray:
    """min(Q₁, Q₂) of many actions at one state, shape [actions]."""
    batch = normalized_observations(model, stack_observations([observation]))
    policy = model.policy
    policy.set_training_mode(False)
    tensors, _ = policy.obs_to_tensor(batch)
    count = len(actions)
    if isinstance(tensors, dict):
        repeated: Any = {key: value.expand(count, *value.shape[1:]) for key, value in tensors.items()}
    else:
        repeated = tensors.expand(count, *tensors.shape[1:])
    with torch.no_grad():
        q = policy.q_values(repeated, torch.as_tensor(actions, dtype=torch.float32, device=policy.device))
    return q.cpu().numpy()
