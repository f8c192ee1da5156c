"""Sampled actions of a policy at several settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common.random_state import seeded_torch
from dipole_sb3.evaluation.batched_acting import normalized_observations, stack_observations
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm
from dipole_sb3.plots.drawing import GUIDED, NEGATIVE, POSITIVE, drawing

Setting = Mapping[str, Any]
"""Name of a knob → its value; a knob that is missing keeps the model's own value."""


def turned_text(model: OfflineAlgorithm, settings: Sequence[Setting], setting: Setting) -> str:
    """For a panel's title: the knobs that differ between the settings, with the names of their values."""
    parts = []
    for knob in model.policy.knobs:
        if knob.name in setting and any(each[knob.name] != setting[knob.name] for each in settings):
            name = dict(knob.names).get(float(setting[knob.name]))
            value = f"{knob.symbol} = {setting[knob.name]:g}".replace("-", "−")
            parts.append(value if name is None else f"{value} ({name.removesuffix(' alone')})")
    return ", ".join(parts)


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
            axes.set_title(f"{turned_text(model, settings, setting)}\n{mean}")
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
