"""Recorded data and what is gathered online, drawn from as one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from dipole_sb3.buffers.assembled_rows import AssembledRows
from dipole_sb3.buffers.offline_buffer import TRANSITION_ARRAYS, Batch, OfflineReplayBuffer
from dipole_sb3.common.checks import ObservationArrays
from dipole_sb3.common.observations import mapped, merged

SelfMixedReplayBuffer = TypeVar("SelfMixedReplayBuffer", bound="MixedReplayBuffer")


class MixedReplayBuffer(OfflineReplayBuffer):
    """A ring of online transitions beside recorded data, which are neither copied nor overwritten.

    The paper preloads one ring with the data set, and online data overwrite it once it is full. Here online data only
    overwrite online data. Until the ring is full, both draw alike.

    SB3's face is that of the ring: its arrays, ``pos``, ``full``, ``buffer_size`` and :meth:`add`. :meth:`size`,
    :meth:`sample`, :meth:`draw` and :meth:`take` are of both parts together; flat indices count the recorded
    transitions first.

    :param buffer_size: capacity of the ring in transitions (over all environments).
    :param observation_space: as in OfflineReplayBuffer.
    :param action_space: Box.
    :param device: where batches are drawn; the recorded data draw there, too.
    :param n_envs: environments that write at a time.
    :param optimize_memory_usage: as in OfflineReplayBuffer; of the ring.
    :param handle_timeout_termination: as in SB3.
    :param recorded: recorded data with the same spaces, in memory or memory-mapped; None: there are none.
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
    ) -> None:
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            n_envs,
            optimize_memory_usage,
            handle_timeout_termination,
        )
        self.recorded = recorded
        self.offline_ratio: float | None = None
        """Share of every batch in [0, 1] that is recorded data; None: uniform over all transitions."""
        self._owed = 0.0
        if recorded is not None:
            self.source, self.metadata, self.validation = recorded.source, recorded.metadata, recorded.validation
            self.to(self.device)

    # SB3's face

    def size(self) -> int:
        """Rows (each of ``n_envs`` transitions) of the ring that are filled, and that the recorded data would fill."""
        return self._filled_rows() + -(-self.n_recorded // self.n_envs)

    @property
    def n_recorded(self) -> int:
        """Recorded transitions."""
        return 0 if self.recorded is None else self.recorded.n_transitions

    @property
    def n_online(self) -> int:
        """Online transitions in the ring, over all environments."""
        return self._filled_rows() * self.n_envs

    @property
    def n_transitions(self) -> int:
        return self.n_recorded + self.n_online

    def sample(  # type: ignore[override]
        self, batch_size: int, env: VecNormalize | None = None
    ) -> ReplayBufferSamples | DictReplayBufferSamples:
        """As in SB3, from both parts: recorded transitions come first in the batch.

        :param batch_size: transitions to draw with replacement.
        :param env: normalises observations and rewards.
        """
        if self.recorded is None or self.n_recorded == 0:
            return super().sample(batch_size, env)
        if self.n_online == 0:
            return self.recorded.sample(batch_size, env)
        if self.offline_ratio is None:
            share = np.random.binomial(batch_size, self.n_recorded / self.n_transitions)
        else:
            share = self._next_share(batch_size)
        return _joined(self.recorded.sample(share, env), super().sample(batch_size - share, env))

    def blocks(self, rows: int | None = None) -> Iterator[dict[str, Any]]:
        if self.recorded is not None:
            yield from self.recorded.blocks(rows)
        yield from super().blocks(rows)

    blocks.__doc__ = OfflineReplayBuffer.blocks.__doc__

    def recordings(self, rows: int | None = None) -> Iterator[Iterator[dict[str, Any]]]:
        if self.recorded is not None:
            yield from self.recorded.recordings(rows)
        yield from super().recordings(rows)

    recordings.__doc__ = OfflineReplayBuffer.recordings.__doc__

    # Training's face

    @property
    def resident(self) -> bool:
        return self.recorded is not None and self.recorded.resident and self.n_online == 0

    def draw(self, batch_size: int, generator: torch.Generator, n_steps: int = 1, next_actions: bool = False) -> Batch:
        """A batch with replacement: uniform over all transitions, or with ``offline_ratio`` recorded ones.

        With a ratio, the recorded transitions come first. Where ratio · batch_size is no whole number, what is rounded
        off is carried over to the next batch, so that after any number of batches the recorded ones are the exact
        share, less than one transition short. As long as one part is empty, the other gives the whole batch.

        :param batch_size: transitions to draw, ≥ 1.
        :param generator: on the buffer's device; the only source of randomness.
        :param n_steps: as in :meth:`take`.
        :param next_actions: as in :meth:`take`.
        :raises DatasetError: when both parts are empty.
        """
        if self.recorded is None or self.offline_ratio is None or not self.n_recorded or not self.n_online:
            return super().draw(batch_size, generator, n_steps, next_actions)
        share = self._next_share(batch_size)
        indices = torch.randint(self.n_online, (batch_size - share,), generator=generator, device=self.device)
        online = super().take(indices, n_steps, next_actions)
        return _joined(self.recorded.draw(share, generator, n_steps, next_actions), online)

    def _next_share(self, batch_size: int) -> int:
        assert self.offline_ratio is not None
        self._owed += self.offline_ratio * batch_size
        # 0.1 is not exact in binary: sums of it may fall just short of a whole number.
        share = min(int(self._owed + 1e-9), batch_size)
        self._owed -= share
        return share

    def take(self, indices: Tensor, n_steps: int = 1, next_actions: bool = False) -> Batch:
        """The transitions at flat indices: recorded ones first, then row · n_envs + environment of the ring."""
        recorded = self.n_recorded
        if self.recorded is None or recorded == 0:
            return super().take(indices, n_steps, next_actions)
        if self.n_online == 0:
            return self.recorded.take(indices, n_steps, next_actions)
        # Both parts are read at every place, and a fixed row where the other part is wanted: only the device knows
        # which is which, and asking it would make the host wait.
        old = self.recorded.take(indices.clamp(max=recorded - 1), n_steps, next_actions)
        new = super().take((indices - recorded).clamp(min=0), n_steps, next_actions)
        return _chosen(indices < recorded, old, new)

    def tensors_to_take(self, n_steps: int = 1, next_actions: bool = False) -> list[Tensor]:
        if self.recorded is not None and self.n_online == 0:
            return self.recorded.tensors_to_take(n_steps, next_actions)
        return super().tensors_to_take(n_steps, next_actions)

    tensors_to_take.__doc__ = OfflineReplayBuffer.tensors_to_take.__doc__

    def to(self, device: torch.device | str) -> OfflineReplayBuffer:
        if self.recorded is not None:
            self.recorded.to(device)
        return super().to(device)

    # The online part alone

    def online_state(self) -> dict[str, np.ndarray]:
        """The online part alone, for :meth:`restore_online`: views of the ring's arrays, not copies.

        :return: the filled rows [rows, n_envs, ...] of the ring under SB3's names, Dict observations under
            ``observations/key``; ``pos`` and ``full`` of the ring; ``owed``, what rounding carries over.
        """
        rows = self._filled_rows()
        state = {name: array[:rows] for name, array in self._arrays().items()}
        return {**state, "pos": np.array(self.pos), "full": np.array(self.full), "owed": np.array(self._owed)}

    def restore_online(self, state: dict[str, np.ndarray]) -> None:
        """Replaces the online part by one that :meth:`online_state` gave: draws then go on as they would have there.

        :param state: of a ring of the same capacity, spaces and number of environments; copied.
        :raises ValueError: it is of another ring; the buffer then keeps what it had.
        """
        arrays = self._arrays()
        expected = {*arrays, "pos", "full", "owed"}
        if set(state) != expected:
            raise ValueError(f"online state: found {sorted(state)}, expected {sorted(expected)}")
        pos, full = int(state["pos"]), bool(state["full"])
        rows = self.buffer_size if full else pos
        if not 0 <= pos < self.buffer_size:
            raise ValueError(f"online state: row {pos} is written next, expected one of a ring of {self.buffer_size}")
        for name, array in arrays.items():
            if state[name].shape != (rows, *array.shape[1:]) or state[name].dtype != array.dtype:
                raise ValueError(
                    f"online state: {name} is {state[name].dtype} {state[name].shape}, expected {array.dtype} "
                    f"{(rows, *array.shape[1:])}"
                )
        for name, array in arrays.items():
            if not isinstance(array, AssembledRows):
                array[:rows] = state[name]
        self.pos, self.full, self._owed = pos, full, float(state["owed"])
        if self._shared is not None:
            self._share_observations(_keyed_like(self.next_observations, "next_observations", state))
        self._mirror = self._breaks = self._checksum = None

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {}
        for name in TRANSITION_ARRAYS:
            value = getattr(self, name)
            by_key = (
                {f"{name}/{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
            )
            arrays.update(by_key)
        return arrays

    def with_environments(self: SelfMixedReplayBuffer, n_envs: int) -> SelfMixedReplayBuffer:
        """A buffer with these transitions for another number of environments; the recorded part is shared.

        The transitions of each environment keep their order. The new environments get equal shares of them; where they
        do not fill the last row, up to ``n_envs`` − 1 transitions are repeated.

        :param n_envs: environments that will write at a time.
        """
        old_rows, old_columns = self._shares(n_envs)
        rows = len(old_rows) // n_envs
        capacity = max(self.buffer_size * self.n_envs // n_envs, rows, 1)

        def divided(array: np.ndarray) -> np.ndarray:
            new = np.zeros((capacity, n_envs, *array.shape[2:]), array.dtype)
            new[:rows] = array[old_rows, old_columns].reshape(rows, n_envs, *array.shape[2:])
            return new

        other = copy.copy(self)
        for name in TRANSITION_ARRAYS:
            setattr(other, name, mapped(divided, getattr(self, name)))
        other.n_envs, other.buffer_size = n_envs, capacity
        other.pos, other.full = rows % capacity, rows == capacity
        if other._shared is not None:
            other._share_observations(mapped(lambda array: array[:rows], other.next_observations))
        return other

    def _shares(self, n_envs: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the transitions of :meth:`with_environments` are in this ring.

        :return: rows and columns here, int64 [rows · n_envs] each, in the order of flat indices there.
        """
        count, filled = self.n_online, self._filled_rows()
        oldest = self.pos if self.full else 0
        rows = -(-count // n_envs)
        # Places in a line of the environments' transitions, one environment after the other.
        places = np.arange(rows * n_envs).reshape(n_envs, rows).T.flatten() % max(count, 1)
        return (oldest + places % max(filled, 1)) % self.buffer_size, places // max(filled, 1)

    def _with_observation_space(self, space: spaces.Space[Any]) -> OfflineReplayBuffer:
        other = super()._with_observation_space(space)
        if other is not self and isinstance(other, MixedReplayBuffer) and self.recorded is not None:
            other.recorded = self.recorded._with_observation_space(space)
        return other

    def __getstate__(self) -> dict[str, Any]:
        # Only filled rows: an empty ring of a million transitions would take hundreds of megabytes on the disk.
        rows = self._filled_rows()
        filled = {name: mapped(lambda array: array[:rows], getattr(self, name)) for name in TRANSITION_ARRAYS}
        return {**super().__getstate__(), **filled, "_shared": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        shared = self.optimize_memory_usage
        for name in TRANSITION_ARRAYS:
            if not (shared and name == "next_observations"):
                setattr(self, name, mapped(self._with_room, getattr(self, name)))
        if shared:
            self._share_observations(self.next_observations)

    def _with_room(self, filled: np.ndarray) -> np.ndarray:
        if len(filled) == self.buffer_size:
            return filled
        whole = np.zeros((self.buffer_size, *filled.shape[1:]), filled.dtype)
        whole[: len(filled)] = filled
        return whole


def _keyed_like(value: Any, name: str, state: dict[str, np.ndarray]) -> ObservationArrays:
    """Observations out of a state that names them ``name``, or ``name/key``."""
    return {key: state[f"{name}/{key}"] for key in value} if isinstance(value, dict) else state[name]


def recorded_part(buffer: OfflineReplayBuffer) -> OfflineReplayBuffer:
    """The recorded part of a buffer; the buffer itself where it has none."""
    recorded = buffer.recorded if isinstance(buffer, MixedReplayBuffer) else None
    return buffer if recorded is None else recorded


Fields = TypeVar("Fields", bound=NamedTuple)


def _joined(first: Fields, second: Fields) -> Fields:
    """Two batches, one after the other."""
    return merged(lambda one, other: torch.cat([one, other]), first, second)


def _chosen(first_where: Tensor, first: Batch, second: Batch) -> Batch:
    """From one batch where ``first_where`` [batch] holds, else from the other."""

    def choose(one: Tensor, other: Tensor) -> Tensor:
        return torch.where(first_where.view(-1, *[1] * (one.ndim - 1)), one, other)

    return merged(choose, first, second)
