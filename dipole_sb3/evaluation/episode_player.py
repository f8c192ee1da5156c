"""Episodes of several models played at once: environments step together, and all models act in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dipole_sb3.common.random_state import TorchSequence
from dipole_sb3.evaluation.batched_acting import Acting, ActingModel, stack_observations
from dipole_sb3.evaluation.environment_pool import LocalEnvironments, ProcessEnvironments, Step


class Player:
    """One model's episodes, one per seed; whichever of its slots is free takes the next one.

    What it plays does not depend on other players: the seeds, the slots and the noise are its own.

    :param model: that acts.
    :param slots: names of its environments in the pool.
    :param seeds: of the episodes.
    :param noise_seed: of the policy's noise.
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
        """Free slots that take an episode now, with its seed."""
        # In their order, whatever that of the answers was: the rows of the policy's noise follow it.
        started = dict(zip(sorted(self._free), self._unplayed, strict=False))
        self._episode_in.update(started)
        self._free = []
        return {slot: self._seeds[episode] for slot, episode in started.items()}

    @property
    def playing(self) -> list[int]:
        """Slots with a running episode; none: all have been played."""
        return sorted(self._episode_in)

    def see(self, slot: int, observation: Any) -> None:
        """Takes what a slot shows now."""
        self._observations[slot] = observation

    def observations(self) -> Any:
        """What the playing slots show, as one batch."""
        return stack_observations([self._observations[slot] for slot in self.playing])

    def take(self, slot: int, answer: Step) -> None:
        """Takes what a slot answered to a step."""
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

    :param pool: has the slots of all of them.
    :param make_acting: for the models that still play.
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
            # A model that has played all of its episodes costs nothing any more.
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
