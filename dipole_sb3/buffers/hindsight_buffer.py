"""Hindsight experience replay (Andrychowicz et al. 2017, arXiv:1707.01495) on recorded and gathered episodes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.her.goal_selection_strategy import GoalSelectionStrategy
from torch import Tensor

from dipole_sb3.buffers import goals
from dipole_sb3.buffers.episode_bounds import EpisodeBounds, RingEpisodes, find_bounds, without_desired_goal
from dipole_sb3.buffers.mixed_buffer import MixedReplayBuffer
from dipole_sb3.buffers.n_step_windows import differ, follow_each_other
from dipole_sb3.buffers.offline_buffer import Batch, OfflineReplayBuffer
from dipole_sb3.buffers.stored_infos import infos_from_bytes, infos_to_bytes
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.observations import mapped, together


class HindsightReplayBuffer(MixedReplayBuffer):
    """Recorded and gathered episodes, part of whose transitions are drawn with a goal that their episode achieved.

    In every batch the share ``n_sampled_goal / (n_sampled_goal + 1)``, rounded down, of the transitions is relabelled:
    the desired goal becomes a goal that was achieved in the same episode, and the reward becomes that of the new goal.
    ``dones`` stay as they were recorded, as in Stable-Baselines3: in most tasks with goals only time ends episodes.

    Drawn from are whole episodes: all recorded ones, and those in the ring that are over and that newer transitions do
    not yet overwrite. Where the next observation does not go on from the last one (a reset before the end, a
    recording that was cut), an episode is over, too. n-step returns of relabelled transitions have the new goal's
    rewards throughout.

    :param buffer_size: as in MixedReplayBuffer, as all up to ``recorded``.
    :param observation_space: Dict with ``achieved_goal`` and ``desired_goal`` of one shape, beside anything else.
    :param n_sampled_goal: relabelled transitions for each that is not, ≥ 0.
    :param goal_selection_strategy: which goal of the episode: ``"future"``, one achieved by this transition or later;
        ``"final"``, the last; ``"episode"``, any; or SB3's GoalSelectionStrategy.
    :param copy_info_dict: hand the infos of gathered transitions to ``compute_reward`` (recorded ones have none).
        Checkpoints keep them where they are numbers, strings, arrays, and lists, tuples or dicts of them.
    :param env: its first environment's ``compute_reward(achieved_goal, desired_goal, info)`` rewards new goals, many at
        a time. The algorithm hands its own.
    :param compute_reward: the same as a function, for data without an environment.
    :raises ValueError: another observation space, or values out of range.
    :raises DatasetError: recorded transitions that are not in the order of their episodes.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        recorded: OfflineReplayBuffer | None = None,
        n_sampled_goal: int = 4,
        goal_selection_strategy: GoalSelectionStrategy | str = "future",
        copy_info_dict: bool = False,
        env: VecEnv | None = None,
        compute_reward: goals.ComputeReward | None = None,
    ) -> None:
        goals.require_goals(observation_space)
        self.n_sampled_goal = goals.require_count(n_sampled_goal)
        self.goal_selection_strategy = goals.strategy(goal_selection_strategy)
        self.her_ratio = 1 - 1.0 / (n_sampled_goal + 1)
        self.copy_info_dict, self.env, self.compute_reward = copy_info_dict, env, compute_reward
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            n_envs,
            optimize_memory_usage,
            handle_timeout_termination,
            recorded,
        )
        self._episodes = RingEpisodes(self.buffer_size, n_envs)
        self._finished: Tensor | None = None
        self._infos: dict[int, list[dict[str, Any]]] = {}
        self._recorded_bounds = None if recorded is None else _recorded_bounds(recorded)

    def set_env(self, env: VecEnv | None) -> None:
        """Rewards new goals by this environment from now on."""
        self.env = env

    # Episodes of the ring

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        row = self.pos
        self._end_episodes(self._were_left(obs))
        if self._episodes.begin_row(row):
            self._finished = None
        if self.copy_info_dict:
            self._infos[row] = copy.deepcopy(infos)
        super().add(obs, next_obs, action, reward, done, infos)
        self._end_episodes(np.asarray(done, bool))

    add.__doc__ = OfflineReplayBuffer.add.__doc__

    def _were_left(self, obs: Any) -> np.ndarray:
        """Where the running episode, if there is one, does not go on with these observations, [n_envs]."""
        left: np.ndarray = np.zeros(self.n_envs, bool)
        for last, now in together(without_desired_goal(self.next_observations), without_desired_goal(obs)):
            # Compared as it is stored: float64 observations are rounded.
            left |= differ(last[[self.pos - 1]], np.asarray(now).astype(last.dtype).reshape(1, *last.shape[1:]))[0]
        left &= self._episodes.running_since != self.pos
        return left

    def _end_episodes(self, ended: np.ndarray) -> None:
        """Those that ended with the newest row, [n_envs]."""
        if self._episodes.end(ended, self.pos):
            self._finished = None

    def truncate_last_trajectory(self) -> None:
        """Ends the running episodes where they are, as a time limit would."""
        running = self._episodes.running_since != self.pos
        self.dones[self.pos - 1, running] = 1
        if self.handle_timeout_termination:
            self.timeouts[self.pos - 1, running] = 1
        self._end_episodes(running)
        self._mirror = self._breaks = self._checksum = None

    def _finished_indices(self) -> Tensor:
        """Flat indices of the ring's transitions whose episodes are whole."""
        if self._finished is None or self._finished.device.type != self.device.type:
            self._finished = torch.from_numpy(np.flatnonzero(self._episodes.bounds.lengths)).to(self.device)
        return self._finished

    # Training's face

    @property
    def resident(self) -> bool:
        return False

    def draw(self, batch_size: int, generator: torch.Generator, n_steps: int = 1, next_actions: bool = False) -> Batch:
        """A batch with replacement from whole episodes, part of it with new goals.

        :param batch_size: transitions to draw, ≥ 1.
        :param generator: on the buffer's device; the only source of randomness.
        :param n_steps: as in :meth:`take`.
        :param next_actions: as in :meth:`take`.
        :raises DatasetError: no episode is over yet.
        """
        indices = self.draw_indices(batch_size, generator)
        relabelled = torch.from_numpy(self._relabelled_places(batch_size)).to(self.device)
        sources = self._draw_goals(indices[relabelled], generator)
        batch = self.take(indices, n_steps, next_actions)
        return self._with_goals(batch, relabelled, indices[relabelled], sources, n_steps)

    def draw_indices(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """The flat indices of a batch of transitions from whole episodes, as recorded, for :meth:`take`.

        :raises DatasetError: no episode is over yet.
        """
        finished, recorded = self._finished_indices(), self.n_recorded
        if not recorded and not len(finished):
            raise DatasetError(
                f"{self.source}: no episode is over yet, and goals are those of whole episodes; expected "
                "learning_starts to be more than the steps of an episode (of all environments)"
            )

        def drawn(count: int, available: int) -> Tensor:
            return torch.randint(available, (count,), generator=generator, device=self.device)

        if self.offline_ratio is None or not recorded or not len(finished):
            places = drawn(batch_size, recorded + len(finished))
            return self._flat_indices(places, finished)
        share = self._next_share(batch_size)
        online = drawn(batch_size - share, len(finished)) + recorded
        return self._flat_indices(torch.cat([drawn(share, recorded), online]), finished)

    def _flat_indices(self, places: Tensor, finished: Tensor) -> Tensor:
        """Of places among the recorded transitions and, after them, the finished ones."""
        recorded = self.n_recorded
        if not len(finished):
            return places
        online = finished[(places - recorded).clamp(min=0)] + recorded
        return torch.where(places < recorded, places, online)

    def _relabelled_places(self, batch_size: int) -> np.ndarray:
        """As many places of a batch as in SB3, evenly spread, so that recorded data have their share."""
        whole = np.floor(np.arange(batch_size + 1) * self.her_ratio)
        return np.flatnonzero(np.diff(whole))

    def _draw_goals(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """Flat indices of the transitions that achieved the new goals."""
        starts, lengths, steps = (tensor.to(self.device) for tensor in self._places_in_episodes(indices))
        if self.goal_selection_strategy == GoalSelectionStrategy.FINAL:
            goal_steps = lengths - 1
        else:
            first = steps if self.goal_selection_strategy == GoalSelectionStrategy.FUTURE else torch.zeros_like(steps)
            uniform = torch.rand(len(indices), generator=generator, device=self.device, dtype=torch.float64)
            goal_steps = (first + (uniform * (lengths - first)).long()).clamp(max=lengths - 1)
        return self._steps_on(indices, starts, goal_steps)

    def _places_in_episodes(self, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """First row and length of the episodes of transitions, and the transitions' steps in them."""
        places = indices.cpu().numpy()
        found = np.zeros((3, len(places)), np.int64)
        for part, bounds, n_envs, rows in self._parts(places):
            row, column = np.divmod(places[part] - (0 if bounds is self._recorded_bounds else self.n_recorded), n_envs)
            starts = bounds.starts[row, column]
            found[:, part] = starts, bounds.lengths[row, column], (row - starts) % rows
        starts, lengths, steps = torch.from_numpy(found)
        return starts, lengths, steps

    def _steps_on(self, indices: Tensor, starts: Tensor, steps: Tensor) -> Tensor:
        """Flat indices of the transitions so many steps after the first of an episode.

        :param indices: [n] of any transition of the episode.
        :param starts: [n], its first row.
        :param steps: [n].
        """
        recorded = self.n_recorded
        n_recording = 1 if self.recorded is None else self.recorded.n_envs
        of_recorded = (starts + steps) * n_recording + indices % n_recording
        of_ring = (starts + steps) % self.buffer_size * self.n_envs + (indices - recorded) % self.n_envs + recorded
        return torch.where(indices < recorded, of_recorded, of_ring)

    def _parts(self, places: np.ndarray) -> list[tuple[np.ndarray, EpisodeBounds, int, int]]:
        """Recorded and gathered transitions: where they are among flat indices, their episodes, n_envs and rows."""
        recorded = places < self.n_recorded
        parts = [(~recorded, self._episodes.bounds, self.n_envs, self.buffer_size)]
        if self.recorded is not None and self._recorded_bounds is not None:
            parts.append((recorded, self._recorded_bounds, self.recorded.n_envs, len(self._recorded_bounds.starts)))
        return parts

    def _with_goals(self, batch: Batch, relabelled: Tensor, indices: Tensor, sources: Tensor, n_steps: int) -> Batch:
        """The batch with other goals, and their rewards, at some places.

        :param relabelled: [n], the places.
        :param indices: [n], flat indices of the transitions there.
        :param sources: [n], flat indices of the transitions that achieved the goals.
        """
        if len(indices) == 0:
            return batch
        starts, _, steps = (tensor.to(self.device) for tensor in self._places_in_episodes(indices))
        ahead = torch.arange(n_steps, device=self.device)
        counted = torch.ones_like(steps) if batch.steps is None else batch.steps[relabelled]
        # Steps that do not count are repetitions of the first: their rewards are not used.
        of_window = steps[:, None] + torch.where(ahead < counted[:, None], ahead, 0)
        window = self._steps_on(
            indices.repeat_interleave(n_steps), starts.repeat_interleave(n_steps), of_window.flatten()
        )
        new_goals = self._achieved(sources)
        rewards = self._rewards(self._achieved(window), np.repeat(new_goals, n_steps, axis=0), window)
        new_rewards = torch.from_numpy(rewards).to(self.device).reshape(-1, n_steps) * (ahead < counted[:, None])
        assert isinstance(batch.observations, dict)
        assert isinstance(batch.next_observations, dict)
        tensor = torch.from_numpy(new_goals).to(self.device)
        for observations in (batch.observations, batch.next_observations):
            observations[goals.DESIRED][relabelled] = tensor.to(observations[goals.DESIRED].dtype)
        batch.rewards[relabelled] = new_rewards if n_steps > 1 else new_rewards[:, 0]
        return batch

    def _achieved(self, indices: Tensor) -> np.ndarray:
        """Goals that transitions achieved, [n, *goal]."""
        places = indices.cpu().numpy()
        recorded = places < self.n_recorded
        ring: Any = self.next_observations
        row, column = np.divmod(places[~recorded] - self.n_recorded, self.n_envs)
        online = ring[goals.ACHIEVED][row, column]
        if self.recorded is None or not recorded.any():
            return np.asarray(online)
        data: Any = self.recorded.next_observations
        row, column = np.divmod(places[recorded], self.recorded.n_envs)
        found = np.empty((len(places), *online.shape[1:]), online.dtype)
        found[recorded], found[~recorded] = data[goals.ACHIEVED][row, column], online
        return found

    def _rewards(self, achieved: np.ndarray, desired: np.ndarray, indices: Tensor) -> np.ndarray:
        infos = self._infos_of(indices) if self.copy_info_dict else [{} for _ in range(len(achieved))]
        return goals.rewards(self.compute_reward, self.env, achieved, desired, infos)

    def _infos_of(self, indices: Tensor) -> list[dict[str, Any]]:
        places = (indices - self.n_recorded).tolist()
        return [
            copy.deepcopy(self._infos[place // self.n_envs][place % self.n_envs]) if place >= 0 else {}
            for place in places
        ]

    # SB3's face

    def sample(  # type: ignore[override]
        self, batch_size: int, env: VecNormalize | None = None
    ) -> DictReplayBufferSamples:
        """As in SB3, from both parts; NumPy's global generator decides.

        :param batch_size: transitions to draw with replacement.
        :param env: normalises observations and rewards.
        """
        generator = torch.Generator(self.device).manual_seed(int(np.random.randint(2**31)))
        batch = self.draw(batch_size, generator)
        observations, following = (
            self._normalize_obs(mapped(lambda tensor: tensor.cpu().numpy(), value), env)
            for value in (batch.observations, batch.next_observations)
        )
        rewards = self._normalize_reward(batch.rewards.cpu().numpy().reshape(-1, 1), env)
        return DictReplayBufferSamples(
            mapped(self.to_torch, observations),
            batch.actions,
            mapped(self.to_torch, following),
            (1 - batch.masks).reshape(-1, 1),
            self.to_torch(rewards),
        )

    # Saving

    def online_state(self) -> dict[str, np.ndarray]:
        """As of a MixedReplayBuffer; also ``running_since``, and with ``copy_info_dict`` the ``infos``, uint8 [bytes].

        :raises ValueError: an info holds something that checkpoints cannot.
        """
        state = {**super().online_state(), "running_since": self._episodes.running_since}
        if self.copy_info_dict:
            state["infos"] = infos_to_bytes([self._infos[row] for row in range(self._filled_rows())])
        return state

    def restore_online(self, state: dict[str, np.ndarray]) -> None:
        running = state.get("running_since")
        if running is None or running.shape != self._episodes.running_since.shape:
            raise ValueError("online state: running_since is missing, or of another number of environments")
        infos = self._infos_in(state) if self.copy_info_dict else {}
        own = {"running_since", "infos"} if self.copy_info_dict else {"running_since"}
        super().restore_online({name: array for name, array in state.items() if name not in own})
        self._infos = infos
        self._episodes.running_since, self._finished = np.array(running), None
        self._episodes.bounds.lengths[self._filled_rows() :] = 0

    restore_online.__doc__ = MixedReplayBuffer.restore_online.__doc__

    def _infos_in(self, state: dict[str, np.ndarray]) -> dict[int, list[dict[str, Any]]]:
        """By row of the ring."""
        if "infos" not in state:
            raise ValueError(
                "online state: infos are missing, expected those of every transition (copy_info_dict=True)"
            )
        infos, rows = infos_from_bytes(state["infos"]), len(state["rewards"])
        if len(infos) != rows or any(len(of_row) != self.n_envs for of_row in infos):
            raise ValueError(
                f"online state: found infos of {len(infos)} rows, expected those of {rows} rows of {self.n_envs} "
                "environments"
            )
        return dict(enumerate(infos))

    def _arrays(self) -> dict[str, np.ndarray]:
        return {
            **super()._arrays(),
            "episode_starts": self._episodes.bounds.starts,
            "episode_lengths": self._episodes.bounds.lengths,
        }

    def with_environments(self, n_envs: int) -> HindsightReplayBuffer:
        other = super().with_environments(n_envs)
        other._episodes, other._finished = RingEpisodes(other.buffer_size, n_envs), None
        rows = other._filled_rows()
        if rows:
            states, following = _rows_of(other.observations, rows), _rows_of(other.next_observations, rows)
            for target, found in zip(
                other._episodes.bounds, find_bounds(states, following, other.dones[:rows]), strict=True
            ):
                target[:rows] = found
        other._episodes.running_since[:] = other.pos
        if self.copy_info_dict:
            infos = [self._infos[row][column] for row, column in zip(*self._shares(n_envs), strict=True)]
            other._infos = {row: infos[row * n_envs : (row + 1) * n_envs] for row in range(rows)}
        return other

    with_environments.__doc__ = MixedReplayBuffer.with_environments.__doc__

    def __getstate__(self) -> dict[str, Any]:
        # Environments cannot be pickled in general; the algorithm hands in its own.
        return {**super().__getstate__(), "env": None, "_finished": None}

    def __copy__(self) -> HindsightReplayBuffer:
        # By default copies are made of what is pickled.
        other = type(self).__new__(type(self))
        other.__setstate__(self.__getstate__())
        other.env = self.env
        return other


def options_of(buffer: HerReplayBuffer) -> dict[str, Any]:
    """Arguments by which a HindsightReplayBuffer draws from recorded episodes as SB3's buffer does.

    :raises DatasetError: its rewards depend on infos, which recorded transitions do not have here.
    """
    if buffer.copy_info_dict:
        raise DatasetError(
            "replay buffer: a HerReplayBuffer with copy_info_dict=True, whose infos recorded transitions do not have "
            "here; expected copy_info_dict=False"
        )
    return {
        "n_sampled_goal": buffer.n_sampled_goal,
        "goal_selection_strategy": buffer.goal_selection_strategy.name.lower(),
    }


def _recorded_bounds(recorded: OfflineReplayBuffer) -> EpisodeBounds:
    """The episodes of recorded data; those at their end count as over."""
    rows = recorded.size()
    if isinstance(recorded, MixedReplayBuffer):
        raise DatasetError(
            f"{recorded.source}: holds gathered transitions beside recorded ones; expected recorded data alone"
        )
    if recorded.full and recorded.pos:
        raise DatasetError(
            f"{recorded.source}: is a ring whose oldest transition is in row {recorded.pos}; expected rows in the "
            "order of time"
        )
    states, following = (_rows_of(value, rows) for value in (recorded.observations, recorded.next_observations))
    bounds = find_bounds(states, following, recorded.dones[:rows], recorded.ends_of_recordings())
    open_ended = int(np.count_nonzero(recorded.dones[:rows] == 0)) - recorded.n_envs
    # Each row of an episode but its last is continued by the next.
    continued = rows * recorded.n_envs - round(float((1 / bounds.lengths).sum()))
    if not follow_each_other(continued, open_ended):
        raise DatasetError(
            f"{recorded.source}: goals achieved later in an episode need transitions in the order in which they were "
            f"recorded: found {continued or 'no'} rows whose next observation is the observation of the row after "
            f"them, among {open_ended} that end neither an episode nor the data"
        )
    return bounds


def _rows_of(value: Any, rows: int) -> Any:
    """The filled rows; data in files are read where they are indexed, and are full."""
    return mapped(lambda array: array if len(array) == rows else array[:rows], value)
