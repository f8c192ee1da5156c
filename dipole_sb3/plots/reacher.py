"""Pictures of Reacher's arm at several settings: the paths of its fingertip to its targets, and an animation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium
import numpy as np

from dipole_sb3.common.random_state import seeded_torch
from dipole_sb3.evaluation.batched_acting import normalized_observations, stack_observations
from dipole_sb3.evaluation.environment_pool import MakeEnv
from dipole_sb3.evaluation.sweep import setting_text
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm
from dipole_sb3.plots.acting import Setting, turned_text
from dipole_sb3.plots.drawing import COLOURS, GUIDED, MUTED, NEGATIVE, POSITIVE, drawing
from dipole_sb3.plots.film import title_font, write_animation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_REACH = 21.0
"""Reach of Reacher's arm in cm: its links are 10 and 11 cm long."""

_STEP = 0.02
"""Seconds of one step of Reacher."""

_SLOWER = 2
"""In the animation: an episode lasts one second."""

_HELD = 25
"""Frames for which the animation stands still at an episode's end."""

_SIZE = 240
"""Of a panel of the animation, in pixels."""

_FINER = 3
"""It is drawn so much larger, for smooth edges."""


class ArmPath(NamedTuple):
    """The arm in one episode: fingertip and elbow, [steps + 1, 2], and the target, in cm; norms of actions; return."""

    points: np.ndarray
    elbows: np.ndarray
    efforts: np.ndarray
    target: np.ndarray
    total_reward: float

    @property
    def distance(self) -> float:
        """Between fingertip and target when the episode ends, in cm."""
        return float(np.linalg.norm(self.points[-1] - self.target))


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
    panels = [_paths(model, make_env, setting, seeds, deterministic) for setting in settings]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with drawing(path, 2.9 * columns + 0.5, 3.35 * rows + 0.8) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, setting, paths in zip(grid.flat, settings, panels, strict=False):
            _draw_paths(axes, turned_text(model, settings, setting), paths)
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
) -> list[ArmPath]:
    environments = [make_env() for _ in seeds]
    observations = [environment.reset(seed=seed)[0] for environment, seed in zip(environments, seeds, strict=True)]
    points = [[_position(environment, "fingertip")] for environment in environments]
    elbows = [[_position(environment, "body1")] for environment in environments]
    targets = [_position(environment, "target") for environment in environments]
    efforts: list[list[float]] = [[] for _ in seeds]
    totals = [0.0] * len(seeds)
    playing = list(range(len(seeds)))
    with seeded_torch(0):  # every setting draws the same noise
        while playing:
            batch = normalized_observations(model, stack_observations([observations[index] for index in playing]))
            actions, _ = model.predict(batch, deterministic=deterministic, **setting)
            ended = set()
            for index, action in zip(playing, actions, strict=True):
                observations[index], reward, terminated, truncated, _ = environments[index].step(action)
                points[index].append(_position(environments[index], "fingertip"))
                elbows[index].append(_position(environments[index], "body1"))
                efforts[index].append(float(np.linalg.norm(action)))
                totals[index] += float(reward)
                if terminated or truncated:
                    ended.add(index)
            playing = [index for index in playing if index not in ended]
    for environment in environments:
        environment.close()
    columns = zip(points, elbows, efforts, targets, totals, strict=True)
    return [
        ArmPath(np.array(way), np.array(elbow), np.array(effort), target, total)
        for way, elbow, effort, target, total in columns
    ]


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


def _draw_paths(axes: Axes, turned: str, paths: Sequence[ArmPath]) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Circle

    axes.add_patch(
        Circle((0, 0), _REACH, fill=False, color="#B0B0B0", linestyle=":", linewidth=1.4, label="arm's reach")
    )
    axes.plot(0, 0, marker="+", color=MUTED, markersize=9, linestyle="none", label="shoulder")
    for index, (points, _, efforts, target, _) in enumerate(paths):
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
    total = np.mean([path.total_reward for path in paths])
    title = f"return {total:.1f}".replace("-", "−")
    axes.set_title(f"{turned}: {title}" if turned else title, pad=20, weight="bold")
    ends = f"at the end {np.mean([path.distance for path in paths]):.1f} cm from the target"
    axes.annotate(ends, (0.5, 1), xycoords="axes fraction", xytext=(0, 6), textcoords="offset points", ha="center")


def _line_width(effort: Any) -> Any:
    """Line width in points, from the norm of the action."""
    return 0.8 + 4.5 * effort


def write_arm_animation(
    model: OfflineAlgorithm,
    make_env: MakeEnv,
    path: str | Path,
    settings: Sequence[Setting],
    *,
    near: float = 2.0,
    seeds: Sequence[int] | None = None,
) -> None:
    """The arm at several settings side by side, on its way to the same targets one after the other, as an endless GIF.

    Slowed down :data:`_SLOWER` times. It is drawn, not rendered, and so the same without a graphics driver.

    :param model: trained on Reacher.
    :param make_env: makes a Gymnasium Reacher.
    :param path: GIF file.
    :param settings: one per panel: values of the model's knobs.
    :param near: radius of the circle around a target, in cm; an arm that ends inside is drawn as having arrived.
    :param seeds: as for :func:`plot_paths`.
    :raises ValueError: the environment has no fingertip and target.
    """
    seeds = spread_seeds(make_env, 4) if seeds is None else list(seeds)
    panels = [_paths(model, make_env, setting, seeds, deterministic=False) for setting in settings]
    films = np.stack([np.concatenate([_arm_frames(each, near) for each in paths]) for paths in panels])
    reached = [sum(each.distance < near for each in paths) for paths in panels]
    titles = [
        f"{turned_text(model, settings, setting)}: reaches {count} of {len(seeds)}"
        for setting, count in zip(settings, reached, strict=True)
    ]
    write_animation(films, titles, _SLOWER * _STEP, path)


def _arm_frames(path: ArmPath, near: float) -> np.ndarray:
    """A frame per step, the last one held: [frames, size, size, 3], uint8."""
    frames = [
        _arm_frame(path.points[: now + 1], path.elbows[now], path.target, near, over=now == len(path.points) - 1)
        for now in range(len(path.points))
    ]
    return np.stack(frames + _HELD * frames[-1:])


def _arm_frame(points: np.ndarray, elbow: np.ndarray, target: np.ndarray, near: float, *, over: bool) -> np.ndarray:
    from PIL import Image, ImageDraw

    scale = _FINER * _SIZE / (2 * _REACH + 2)

    def at(place: np.ndarray) -> tuple[float, float]:
        return (place[0] + _REACH + 1) * scale, (_REACH + 1 - place[1]) * scale

    def disc(place: np.ndarray, radius: float, fill: str | None, outline: str | None = None) -> None:
        x, y = at(place)
        size = radius * scale
        pen.ellipse((x - size, y - size, x + size, y + size), fill, outline, width=_FINER)

    canvas = Image.new("RGB", (_FINER * _SIZE, _FINER * _SIZE), "white")
    pen = ImageDraw.Draw(canvas)
    shoulder = np.zeros(2)
    arrived = bool(np.linalg.norm(points[-1] - target) < near)
    disc(shoulder, _REACH, "#F4F4F4")
    disc(target, near, "#BFE5D6" if arrived else "#F6D9C6", GUIDED if arrived else NEGATIVE)
    disc(target, 0.35, GUIDED if arrived else NEGATIVE)
    if len(points) > 1:
        pen.line([at(place) for place in points], fill="#A9A9A9", width=_FINER, joint="curve")
    for begin, end in ((shoulder, elbow), (elbow, points[-1])):
        pen.line([at(begin), at(end)], fill=POSITIVE, width=round(1.1 * scale))
    for place, radius in ((shoulder, 1.1), (elbow, 0.85)):
        disc(place, radius, "#003D66")
    disc(points[-1], 0.75, "black")
    if over:
        away = np.linalg.norm(points[-1] - target)
        pen.text(
            (canvas.width / 2, canvas.height - 3 * _FINER),
            f"{away:.1f} cm away",
            fill=GUIDED if arrived else NEGATIVE,
            font=title_font(13 * _FINER),
            anchor="mb",
        )
    return np.asarray(canvas.resize((_SIZE, _SIZE), Image.Resampling.LANCZOS))
