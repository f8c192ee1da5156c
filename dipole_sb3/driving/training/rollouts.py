"""Plans of the policy as it is now, their scores, and the replay that holds them until the next rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor

from dipole_sb3.algorithms.dipole.dichotomy import group_advantage
from dipole_sb3.driving.model.diffusion import times
from dipole_sb3.driving.scene import Scores
from dipole_sb3.driving.training.chains import drawn_chain
from dipole_sb3.driving.training.interfaces import Scorer
from dipole_sb3.driving.training.job import Job, Trainee
from dipole_sb3.learning.precision import products_in

CACHE_BYTES = 4 << 30
"""How much memory the encoder's tokens may take; scenes beyond it are encoded again each time."""


class SceneTokens:
    """What the frozen encoder makes of scenes, kept for those that fit into memory.

    On a CPU every scene is encoded by itself: what comes out must not depend on which others are encoded with it, or a
    run that goes on after a kill, whose cache is empty, would differ in the last bits.
    """

    def __init__(self, agent: Trainee, room: int = CACHE_BYTES) -> None:
        self._agent, self._room = agent, room
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def of(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Tokens [indices, tokens, width] and histories [indices, 4, 3], on the device."""
        missing = [index for index in indices if index not in self._kept]
        size = 1 if self._agent.device.type == "cpu" else max(len(missing), 1)
        found = {index: self._kept[index] for index in indices if index in self._kept}
        for start in range(0, len(missing), size):
            some = missing[start : start + size]
            for index, *made in zip(some, *self._encoded(some), strict=True):
                found[index] = (made[0], made[1])
                needed = made[0].nbytes + made[1].nbytes
                if needed <= self._room:
                    self._room -= needed
                    self._kept[index] = found[index]
        parts = [found[index] for index in indices]
        tokens, histories = (torch.stack(each).to(self._agent.device) for each in zip(*parts, strict=True))
        return tokens, histories

    @torch.no_grad()
    def _encoded(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        cameras, text, history = self._agent.tensors_of(self._agent.training_scenes.observations(indices))
        with products_in(self._agent.products, self._agent.device):
            tokens = self._agent.planner.encoder(cameras, text)
        return tokens.cpu(), history.cpu()


class Replay:
    """Plans of all scenes of one rollout.

    :param scenes: how many scenes.
    :param group: g, plans of each.
    :param steps: K of the chains that are kept for likelihoods; 0: only the plans are kept.
    """

    def __init__(self, scenes: int, group: int, steps: int = 0) -> None:
        self.tensors = {
            "plans": torch.zeros(scenes, group, 8, 4),
            "scores": torch.zeros(scenes, group, dtype=torch.float64),
            "advantages": torch.zeros(scenes, group),
        }
        if steps:
            self.tensors["chains"] = torch.zeros(scenes, group, steps + 1, 8, 4)
            self.tensors["densities"] = torch.zeros(scenes, group, steps)

    def put(self, indices: Tensor, rows: Mapping[str, Tensor]) -> None:
        """:param rows: all but the advantages, of the scenes of these indices."""
        for name, values in rows.items():
            self.tensors[name][indices] = values.to(self.tensors[name].dtype)
        self.tensors["advantages"][indices] = group_advantage(rows["scores"]).float()

    def usable(self) -> Tensor:
        """Indices of the scenes whose plans do not all score alike."""
        scores = self.tensors["scores"]
        return (scores.amax(dim=1) - scores.amin(dim=1) > 1e-6).nonzero().flatten()


@torch.no_grad()
def roll_out(
    job: Job,
    cache: SceneTokens,
    scorer: Scorer,
    indices: Tensor,
    group: int,
    omega: float,
    adapters: Sequence[str],
    with_chains: bool,
) -> tuple[dict[str, Tensor], dict[str, Tensor | float]]:
    """Plans of scenes by the current policy, scored.

    :param indices: the scenes of the whole batch; this process plans and scores its share of them.
    :return: rows for :meth:`Replay.put`, and the scores' means for the log.
    """
    agent, planner, steps = job.agent, job.agent.planner, job.agent.planner.configuration.rollout_steps
    count = len(indices)
    start = job.noise(count, group, 8, 4)
    fresh = [job.noise(count, group, 8, 4) for _ in range(steps)] if with_chains else []
    mine = job.mine(indices).tolist()
    tokens, history = cache.of(mine)
    noise = job.mine(start).to(agent.device)
    with products_in(job.products, agent.device):
        if with_chains:
            memory, past = planner.decoder.remember(tokens, adapters), planner.normalised_history(history)
            chains, densities = drawn_chain(
                lambda x, time: planner.decoder(x[None], time[None, None], past, memory, adapters)[0],
                noise,
                [job.mine(each).to(agent.device) for each in fresh],
                times(steps),
            )
            rows = {"plans": chains[:, :, -1], "chains": chains, "densities": densities}
        else:
            rows = {"plans": planner.sample(tokens, history, noise, omega, adapters, steps)}
    plans = planner.poses(rows["plans"].float()).cpu().numpy()
    scores = scorer.score_plans([agent.training_scenes[index].surroundings for index in mine], plans)
    rows = {name: values.cpu() for name, values in rows.items()}
    rows["scores"] = torch.as_tensor(np.asarray(scores.pdms, np.float64))
    rows = {name: job.together(values, count) for name, values in rows.items()}
    return rows, {**means_of(scores), "rollout/pdms_best": rows["scores"].amax(dim=1).mean()}


def means_of(scores: Scores) -> dict[str, Tensor | float]:
    """Means of the score and its parts, for the log."""
    return {f"rollout/{field.name}": float(np.mean(getattr(scores, field.name))) for field in fields(Scores)}
