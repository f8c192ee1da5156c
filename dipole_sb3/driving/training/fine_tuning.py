"""Fine-tuning: rollouts of one epoch, training on them for nine, and again; the encoder and the decoder are frozen.

Methods: ``dipole``, the dichotomy on two adapters; ``awr``, exp(A)-weighted regression of one; ``dppo``, clipped policy
gradients of one through the steps of denoising. All see the same scenes and the same number of scored plans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from dipole_sb3.algorithms.dipole.dichotomy import dichotomous_weights
from dipole_sb3.common.checks import require_whole_number
from dipole_sb3.driving.model.adapters import ADAPTERS, train_only
from dipole_sb3.driving.model.diffusion import times
from dipole_sb3.driving.training.checks import require_number, require_omega, require_positive
from dipole_sb3.driving.training.interfaces import Scorer
from dipole_sb3.driving.training.job import Job, Trainee, optimizer_state, restore_optimizer
from dipole_sb3.driving.training.losses import ClippedRatio, WeightedRegression
from dipole_sb3.driving.training.rollouts import Replay, SceneTokens, roll_out

Method = Literal["dipole", "awr", "dppo"]

EPOCHS_OF_TRAINING = 9
"""On the plans of one epoch of rollouts."""
ROLLOUTS_IN_VAIN = 3
"""Epochs of rollouts without a scene to learn from, one after the other, after which fine-tuning gives up."""
LARGEST_WEIGHT = 20.0
"""Of advantage-weighted regression, whose weights exp(βA) have no bound of their own."""


@dataclass(frozen=True)
class FineTuningArguments:
    """See :meth:`~dipole_sb3.driving.agent.DPVLA.finetune`.

    :raises ValueError: a wrong argument.
    """

    steps: int
    method: Method
    beta: float
    k: float
    rollout_omega: float
    group_size: int
    batch_size: int
    learning_rate: float

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            require_whole_number(name, getattr(self, name), 1)
        require_whole_number("group_size", self.group_size, 2)
        require_positive("learning_rate", self.learning_rate)
        require_positive("beta", self.beta)
        require_omega("rollout_omega", self.rollout_omega)
        require_number("k", self.k)
        if self.method not in get_args(Method):
            raise ValueError(f"method is {self.method!r}, expected one of {', '.join(get_args(Method))}")


def adapters_of(method: Method | None) -> tuple[str, ...]:
    """The adapters that a method trains; before fine-tuning the pair, which changes nothing yet."""
    return ADAPTERS if method in (None, "dipole") else ADAPTERS[:1]


class FineTuning(Job):
    """
    :param arguments: what was asked for.
    :param scorer: scores the plans of rollouts.
    """

    kind = "fine_tuning"

    def __init__(self, agent: Trainee, arguments: FineTuningArguments, scorer: Scorer) -> None:
        super().__init__(agent)
        self._arguments, self._scorer = arguments, scorer
        self._adapters = adapters_of(arguments.method)
        if arguments.method == "dppo":
            # Rounding to bfloat16 is as large as the spread of the steps: ratios of likelihoods would be noise.
            self.products = "fp32"
        agent.planner.encoder.requires_grad_(False)
        self._optimizer = torch.optim.AdamW(
            train_only(agent.planner.decoder, self._adapters), lr=arguments.learning_rate, fused=True
        )
        self._loss = self.prepared(self._loss_of_method())
        self._tokens = SceneTokens(agent)
        self._replay = self._empty_replay()
        self.scored_plans = 0
        # Scenes rolled out, and batches learned from, since the replay was cleared; the order of the present epoch.
        self._rolled_out = self._learned = self._in_vain = 0
        self._order = torch.empty(0, dtype=torch.int64)

    @property
    def total(self) -> int:
        return self._arguments.steps

    def step(self) -> dict[str, Tensor | float]:
        return self._roll_out() if self._rolled_out < len(self.agent.training_scenes) else self._learn()

    def _roll_out(self) -> dict[str, Tensor | float]:
        asked, scenes = self._arguments, len(self.agent.training_scenes)
        end = self._rolled_out + asked.batch_size
        # Every process needs a scene.
        indices = torch.arange(self._rolled_out, end if end + self.workers.num_processes <= scenes else scenes)
        rows, values = roll_out(
            self,
            self._tokens,
            self._scorer,
            indices,
            asked.group_size,
            asked.rollout_omega,
            self._adapters,
            with_chains=asked.method == "dppo",
        )
        self._replay.put(indices, rows)
        self._rolled_out += len(indices)
        self.scored_plans += len(indices) * asked.group_size
        return {**values, "rollout/scored_plans": float(self.scored_plans)}

    def _learn(self) -> dict[str, Tensor | float]:
        usable = self._replay.usable()
        bounds = self.batch_bounds(len(usable), self._arguments.batch_size)
        if not bounds:
            return self._after_rollouts_in_vain()
        self._in_vain = 0
        place = self._learned % len(bounds)
        if place == 0:
            self._order = usable[self.order(len(usable))]
        start, end = bounds[place]
        values = self.update(self._loss, self._optimizer, end - start, *self._inputs(self._order[start:end]))
        self.done += 1
        self._learned += 1
        if self._learned == EPOCHS_OF_TRAINING * len(bounds):
            self._rolled_out = self._learned = 0
            self._replay = self._empty_replay()
        return {**values, "rollout/usable_scenes": float(len(usable))}

    def _after_rollouts_in_vain(self) -> dict[str, Tensor | float]:
        """Other noise may tell plans apart that scored alike, so a few more rollouts are made before it is an error."""
        self._in_vain += 1
        if self._in_vain == ROLLOUTS_IN_VAIN:
            raise ValueError(
                f"fine-tuning found nothing to learn: in {ROLLOUTS_IN_VAIN} rollouts in a row all plans of a "
                "scene score alike; expected scenes that the plans drive differently well, or a larger group_size"
            )
        self._rolled_out = self._learned = 0
        self._replay = self._empty_replay()
        return {"rollout/usable_scenes": 0.0}

    def _inputs(self, indices: Tensor) -> Sequence[Tensor]:
        """Of the loss, for this process's share of the scenes."""
        asked, mine = self._arguments, self.mine(indices)
        rows = {name: values[mine].to(self.agent.device) for name, values in self._replay.tensors.items()}
        scene = self._tokens.of(mine.tolist())
        if asked.method == "dppo":
            return *scene, rows["chains"], rows["densities"], rows["advantages"]
        shape = (len(indices), asked.group_size)
        noise, time = (self.mine(each).to(self.agent.device) for each in (self.noise(*shape, 8, 4), self.times(*shape)))
        return *scene, rows["plans"], noise, time, self._weights(rows["advantages"])

    def _weights(self, advantages: Tensor) -> Tensor:
        """[A, S, g]."""
        asked = self._arguments
        if asked.method == "awr":
            return (asked.beta * advantages).exp().clamp(max=LARGEST_WEIGHT)[None]
        return torch.stack(dichotomous_weights(advantages, asked.beta, asked.k))

    def _loss_of_method(self) -> nn.Module:
        planner = self.agent.planner
        if self._arguments.method == "dppo":
            return ClippedRatio(planner, self._adapters[0], times(planner.configuration.rollout_steps))
        return WeightedRegression(planner, self._adapters)

    def _empty_replay(self) -> Replay:
        steps = self.agent.planner.configuration.rollout_steps if self._arguments.method == "dppo" else 0
        return Replay(len(self.agent.training_scenes), self._arguments.group_size, steps)

    def arguments(self) -> dict[str, Any]:
        return asdict(self._arguments)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        replay = {f"replay/{name}": values for name, values in self._replay.tensors.items()}
        counts = {"done": self.done, "rolled_out": self._rolled_out, "learned": self._learned}
        counts["in_vain"] = self._in_vain
        tensors = {"order": self._order, **replay, **optimizer_state(self._optimizer)}
        return tensors, {**counts, "scored_plans": self.scored_plans}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        self.done, self.scored_plans = values["done"], values["scored_plans"]
        self._rolled_out, self._learned = values["rolled_out"], values["learned"]
        self._in_vain = values["in_vain"]
        self._order = tensors["order"]
        self._replay.tensors = {name: tensors[f"replay/{name}"].clone() for name in self._replay.tensors}
        restore_optimizer(self._optimizer, tensors)
