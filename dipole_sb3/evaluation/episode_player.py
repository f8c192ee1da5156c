"""Plays episodes of several models at once: environments step together, and all models act in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dipole_sb3.common.random_state import TorchSequence
from dipole_sb3.evaluation.batched_acting import Acting, ActingModel, stack_observations
from dipole_sb3.evaluation.environment_pool import LocalEnvironments, ProcessEnvironments, Step


class Player:
    """One model's episodes, one per seed; each slot that becomes free takes the next one.

    The result does not depend on other players: each player has its own seeds, slots and noise.

    :param model: acts in these episodes.
    :param slots: indices of its environments in the pool.
    :param seeds: one seed per episode.
    :param noise_seed: seed of the policy's noise.
    """

    def __init__(self, model: ActingModel, slots: Sequence[int], seeds: Sequence[int], noise_seed: int) -> None:
        self.model, self.slots = model, slots
        self.sequence = TorchSequence(noise_seed, model.policy.device)
        self.returns = np.zeros(len(seeds))
        self.successes: list[bool | None] = [None] * len(seeds)
        self._seeds = seeds
        self._unplayed = iter(range(len(seeds)))
        self._free = list(slots)
        self._episode_in: dict[int, int] = {}
        self._observations: dict[int, Any] = {}

    def starts(self) -> dict[int, int]:
        """Free slots that start an episode now, with its seed."""
        # Sorted, because the rows of the policy's noise follow this order; the order in which slots became free may
        # vary.
        started = dict(zip(sorted(self._free), self._unplayed, strict=False))
        self._episode_in.update(started)
        self._free = []
        return {slot: self._seeds[episode] for slot, episode in started.items()}

    @property
    def playing(self) -> list[int]:
        """Slots with a running episode; empty when all episodes have been played."""
        return sorted(self._episode_in)

    def see(self, slot: int, observation: Any) -> None:
        """Stores the latest observation of a slot."""
        self._observations[slot] = observation

    def observations(self) -> Any:
        """The latest observations of the playing slots, as one batch."""
        return stack_observations([self._observations[slot] for slot in self.playing])

    def take(self, slot: int, answer: Step) -> None:
        """Stores a slot's answer to a step."""
        self.see(slot, answer.observation)
        self.returns[self._episode_in[slot]] += answer.reward
        if answer.done:
            self.successes[self._episode_in.pop(slot)] = answer.success
            self._free.append(slot)


def play(
    pool: LocalEnvironments | ProcessEnvironments,
    players: Sequence[Player],
    make_acting: Callable[[Sequence[ActingModel]], Acting],
    bar: Any,
) -> None:
    """Plays all episodes of all players.

    :param pool: contains the slots of all players.
    :param make_acting: called with the models that are still playing, whenever there are fewer of them.
    :param bar: progress bar over episodes.
    """
    player_of = {slot: player for player in players for slot in player.slots}
    active: list[Player] = []
    while True:
        seeds = {slot: seed for player in players for slot, seed in player.starts().items()}
        for slot, observation in pool.reset(seeds).items():
            player_of[slot].see(slot, observation)
        playing = [player for player in players if player.playing]
        if not playing:
            return
        if playing != active:
            # A model that has played all its episodes costs nothing more.
            active, acting = playing, make_acting([player.model for player in playing])
        actions = acting([player.observations() for player in active], [player.sequence for player in active])
        chosen = {
            slot: action
            for player, own in zip(active, actions, strict=True)
            for slot, action in zip(player.playing, own, strict=True)
        }
        answers = pool.step(chosen)
        for slot, answer in answers.items():
            player_of[slot].take(slot, answer)
        bar.update(sum(answer.done for answer in answers.values()))
