"""VecNormalize for recorded data: statistics fitted once, then frozen, and applied to batches on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from dipole_sb3.buffers.device_mirror import ObservationTensors
from dipole_sb3.buffers.offline_buffer import Batch, OfflineReplayBuffer

_UNFITTED_COUNT = 1.0
"""SB3 starts its running statistics with a pseudo-count of 1e-4; below one real sample they are not fitted."""

_ROWS_AT_ONCE = 65_536
"""Rows that are converted to float64 at a time: a large data set is never copied whole."""


class ObservationStatistics(NamedTuple):
    """How VecNormalize sees one observation: clip((x − mean) / std, −clip, clip).

    ====  ==========================================
    mean  the observation's shape, in its own units
    std   the same: √(variance + ε), so never 0
    clip  in standard deviations
    ====  ==========================================
    """

    mean: np.ndarray
    std: np.ndarray
    clip: float


def observation_statistics(vec_normalize: VecNormalize) -> dict[str | None, ObservationStatistics]:
    """Copies of the present statistics, by key of a Dict, or under None for a space that is none.

    :return: empty where observations are not normalised; keys that VecNormalize leaves alone are missing.
    """
    if not vec_normalize.norm_obs:
        return {}
    running = vec_normalize.obs_rms
    by_key: dict[str | None, RunningMeanStd] = {**running} if isinstance(running, dict) else {None: running}
    return {
        key: ObservationStatistics(
            np.array(one.mean), np.sqrt(one.var + vec_normalize.epsilon), float(vec_normalize.clip_obs)
        )
        for key, one in by_key.items()
    }


def normalized(observations: Any, statistics: Mapping[str | None, ObservationStatistics]) -> Any:
    """Raw observations as networks see them that have learned with these statistics.

    :param observations: shape [..., *observation], or a dict of those.
    :param statistics: by key of a Dict, or under None; what they lack stays as it is.
    :return: float32 where it is normalised; the observations themselves are not changed.
    """

    def one(key: str | None, value: np.ndarray) -> np.ndarray:
        if key not in statistics:
            return value
        mean, std, clip = statistics[key]
        scaled: np.ndarray = np.clip((value - mean) / std, -clip, clip).astype(np.float32)
        return scaled

    if isinstance(observations, dict):
        return {key: one(key, value) for key, value in observations.items()}
    return one(None, observations)


def fit_vec_normalize(vec_normalize: VecNormalize, dataset: OfflineReplayBuffer) -> None:
    """Fits the statistics to the data set, unless they are fitted and frozen or rest on more data, and freezes them.

    Recorded data do not change, so neither may the statistics: the networks would otherwise see a moving input. The
    same frozen statistics apply wherever the model acts. Statistics that are still moving may be those of a few steps,
    or of a single reset: they are kept only where they rest on at least as many samples as the data set has.

    :param vec_normalize: changed in place: ``obs_rms``, ``ret_rms``, ``training = False``.
    :param dataset: raw observations and rewards.
    """
    enough = dataset.size() * dataset.n_envs if vec_normalize.training else _UNFITTED_COUNT
    if vec_normalize.norm_obs:
        statistics = vec_normalize.obs_rms
        parts = statistics if isinstance(statistics, dict) else {None: statistics}
        unfitted = {key: running for key, running in parts.items() if running.count < enough}
        for running in unfitted.values():
            _forget(running)
        for block in dataset.blocks() if unfitted else ():
            for key, running in unfitted.items():
                _add(running, block["observations"] if key is None else block["observations"][key])
    if vec_normalize.norm_reward and vec_normalize.ret_rms.count < enough:
        _forget(vec_normalize.ret_rms)
        _add(vec_normalize.ret_rms, _discounted_returns(dataset, vec_normalize.gamma))
    vec_normalize.training = False


def _forget(running: RunningMeanStd) -> None:
    # SB3's pseudo-count stands for a sample of mean 0: enough to spoil the variance of values far from 0.
    running.mean, running.var, running.count = np.zeros_like(running.mean), np.ones_like(running.var), 0.0


def _add(running: RunningMeanStd, values: np.ndarray) -> None:
    for start in range(0, len(values), _ROWS_AT_ONCE):
        part = values[start : start + _ROWS_AT_ONCE]
        running.update(part.reshape(-1, *running.mean.shape).astype(np.float64))


def _discounted_returns(dataset: OfflineReplayBuffer, gamma: float) -> np.ndarray:
    """VecNormalize's own statistic: the discounted sum of past rewards, restarted at every episode end."""
    returns = np.empty((dataset.size(), dataset.n_envs))
    running = np.zeros(dataset.n_envs)
    oldest = dataset.pos if dataset.full else 0
    for step in range(dataset.size()):
        row = (oldest + step) % dataset.buffer_size
        running = gamma * running + dataset.rewards[row]
        returns[step] = running
        running = running * (1.0 - dataset.dones[row])
    return returns.reshape(-1)


def vec_normalize_state(vec_normalize: VecNormalize) -> dict[str, Any]:
    """Its statistics and running returns, as numbers and arrays."""
    return {
        "statistics": {name: vars(running) for name, running in _running_statistics(vec_normalize).items()},
        "returns": vec_normalize.returns,
        "training": vec_normalize.training,
    }


def restore_vec_normalize(vec_normalize: VecNormalize, state: Mapping[str, Any]) -> None:
    """Restores what :func:`vec_normalize_state` gave.

    :raises ValueError: it normalises something else.
    """
    found = _running_statistics(vec_normalize)
    if found.keys() != state["statistics"].keys():
        raise ValueError(
            f"VecNormalize: normalises {sorted(found)}, expected {sorted(state['statistics'])} as in the saved run"
        )
    for name, running in found.items():
        vars(running).update(state["statistics"][name])
    vec_normalize.returns, vec_normalize.training = state["returns"], state["training"]


def _running_statistics(vec_normalize: VecNormalize) -> dict[str, RunningMeanStd]:
    named = {"returns": vec_normalize.ret_rms}
    if vec_normalize.norm_obs:
        running = vec_normalize.obs_rms
        by_key = running if isinstance(running, dict) else {"": running}
        named |= {f"observation {key}".rstrip(): one for key, one in by_key.items()}
    return named


class BatchNormalizer:
    """VecNormalize's arithmetic as tensors, for batches that never leave the device.

    :param vec_normalize: fitted statistics; copied, later changes are not seen.
    :param device: where the batches are.
    """

    def __init__(self, vec_normalize: VecNormalize, device: torch.device) -> None:
        def tensor(array: np.ndarray) -> Tensor:
            return torch.as_tensor(array, dtype=torch.float32, device=device)

        self.observation = {
            key: (tensor(statistics.mean), tensor(statistics.std), statistics.clip)
            for key, statistics in observation_statistics(vec_normalize).items()
        }
        self.clip_reward = vec_normalize.clip_reward
        self.reward_scale: Tensor | None = None
        if vec_normalize.norm_reward:
            self.reward_scale = tensor(np.sqrt(vec_normalize.ret_rms.var + vec_normalize.epsilon))

    def __call__(self, batch: Batch) -> Batch:
        rewards = batch.rewards
        if self.reward_scale is not None:
            rewards = (rewards / self.reward_scale).clamp(-self.clip_reward, self.clip_reward)
        return batch._replace(
            observations=self.normalize(batch.observations),
            rewards=rewards,
            next_observations=self.normalize(batch.next_observations),
        )

    def normalize(self, observations: ObservationTensors) -> ObservationTensors:
        """(x − mean) / std, clipped; keys of a Dict without statistics pass unchanged."""
        if isinstance(observations, dict):
            return {key: self._scale(value, key) for key, value in observations.items()}
        return self._scale(observations, None)

    def _scale(self, value: Tensor, key: str | None) -> Tensor:
        if key not in self.observation:
            return value
        mean, std, clip = self.observation[key]
        return ((value - mean) / std).clamp(-clip, clip)
