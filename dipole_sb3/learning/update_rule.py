"""What an update is, for every algorithm: a description that can be run in several ways.

An update runs eagerly, compiled or captured in a CUDA graph, for one run or for several. This works because it is a
function of (networks, batch, noise, objective) with static shapes: no value leaves the device, and no Python branch
depends on a tensor's value. Shapes are written [..., batch]: no leading axis for one run, [runs] for several stacked
runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.common.checks import require_whole_number
from dipole_sb3.common.profiler_sections import section
from dipole_sb3.learning.extracted_once import extracted_once

SelfObjective = TypeVar("SelfObjective", bound="Objective")


PER_RUN: Mapping[str, bool] = {"per_run": True}
"""Metadata of an objective's field that may differ between stacked runs: ``field(default=…, metadata=PER_RUN)``."""


@dataclass(frozen=True)
class Objective:
    """The hyperparameters that an update depends on; a model has an attribute for each of them.

    Fields with the metadata :data:`PER_RUN` may differ between stacked runs; they are then tensors of shape [runs, 1].
    """

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all fields."""
        return tuple(each.name for each in fields(cls))

    @classmethod
    def per_run_names(cls) -> tuple[str, ...]:
        """Names of the fields that may differ between stacked runs."""
        return tuple(each.name for each in fields(cls) if "per_run" in each.metadata)

    @classmethod
    def of(cls: type[SelfObjective], values: Mapping[str, Any]) -> SelfObjective:
        """From named values, of which those of other names are left alone; missing ones keep their defaults.

        :raises ValueError: a value is out of range, or no number where one is expected.
        """
        return cls(**{name: cls._checked(name, values[name]) for name in cls.names() if name in values})

    @classmethod
    def _checked(cls, name: str, value: Any) -> Any:
        """A value for a field, which has the type of the field's default.

        :raises ValueError: it is no number where one is expected, or no whole number.
        """
        default = next(each.default for each in fields(cls) if each.name == name)
        if type(default) is int:
            require_whole_number(name, value)
        elif type(default) is float and (isinstance(value, bool) or not isinstance(value, Real)):
            raise ValueError(f"{name} is {value!r}, expected a number")
        return value

    @classmethod
    def stacked(cls: type[SelfObjective], objectives: Sequence[SelfObjective], device: torch.device) -> SelfObjective:
        """The objective of several runs at once; fields that are equal in all runs stay numbers.

        :param objectives: one for each run; they differ only in the fields of :meth:`per_run_names`.
        """
        numbers: dict[str, Any] = {}
        for name in cls.per_run_names():
            values = [getattr(each, name) for each in objectives]
            if len(set(values)) > 1:
                numbers[name] = torch.tensor(values, device=device).unsqueeze(1)
        return replace(objectives[0], **numbers)

    def require(self, conditions: Mapping[str, tuple[Any, str]]) -> None:
        """Refuses numbers out of range.

        :param conditions: field → (whether it holds, a tensor for several runs; what is expected).
        :raises ValueError: naming the field, what was found and what was expected.
        """
        for name, (holds, expected) in conditions.items():
            if not (holds.all() if isinstance(holds, Tensor) else holds):
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected {expected}")


class Outcome(NamedTuple):
    """The result of one evaluation of the losses; detached tensors are for the log only.

    =======  =====================================================================================
    total    sum of all losses, of all runs, with gradient
    losses   [..., losses], in the order of the rule's ``loss_names``; 0 where a loss does not count
    counts   likewise 1 where a loss counts in this update, else 0
    details  what the log describes: name → tensor with leading axes [...], of the last update
    =======  =====================================================================================
    """

    total: Tensor
    losses: Tensor
    counts: Tensor
    details: dict[str, Tensor]

    @classmethod
    def of(cls, losses: Sequence[Tensor], gates: Sequence[Tensor | None] | None = None, **details: Tensor) -> Outcome:
        """From losses of shape [...], which are added up; only their sum keeps its gradient.

        :param gates: for each loss 1, or 0 where it does not count in this update, [...]; None: it counts.
        """
        stacked = torch.stack(list(losses), dim=-1)
        counts = torch.ones_like(stacked)
        if gates is not None:
            each = [torch.ones_like(losses[0]) if gate is None else gate for gate in gates]
            counts = torch.stack(each, dim=-1)
            stacked = counts * stacked
        detached = {name: value.detach() for name, value in details.items()}
        return cls(stacked.sum(), stacked.detach(), counts, detached)

    @classmethod
    def of_all(cls, outcomes: Sequence[Outcome]) -> Outcome:
        """The outcome of several updates: sums of losses and counts; each detail is of the last update that has it."""
        losses, counts = (torch.stack(each).sum(0) for each in zip(*(one[1:3] for one in outcomes), strict=True))
        details = {name: value for outcome in outcomes for name, value in outcome.details.items()}
        return cls(outcomes[-1].total, losses, counts, details)

    def of_run(self, run: int) -> Outcome:
        """One run's part of several runs' outcome; ``total`` stays that of all."""
        details = {name: value[run] for name, value in self.details.items()}
        return Outcome(self.total, self.losses[run], self.counts[run], details)


def of_losses(number: float | Tensor) -> float | Tensor:
    """A field of an objective as a factor of losses of shape [...]: per run, [runs, 1] → [runs]."""
    return number.squeeze(-1) if isinstance(number, Tensor) else number


LossFunction = Callable[[Any, Batch, Any, Any], Outcome]
"""(networks, batch, noise, objective) → outcome; plain or compiled."""


@dataclass(frozen=True)
class UpdateRule:
    """How an algorithm learns from one batch.

    :param objective: the class of the numbers that the losses depend on.
    :param loss_names: names of the losses in the log.
    :param draw_noise: (policy, batch size, generator, number of the update from 1) → a named tuple of tensors on the
        generator's device: all that differs between two updates besides the batch: randomness [batch, …], and gates
        [] of what happens in some updates only: 1, or None where it does not and need not be computed. Among stacked
        runs a gate that is open for some only is 0 for the others. In update 0, which stands for all, all are open.
    :param losses: (networks, batch, noise, objective) → outcome; ``networks`` are a policy's, or a stack of several
        policies': each has ``features(observations)`` and ``head``.
    :param after_step: (policy, objective, noise): what follows the optimiser's step: Polyak steps of targets.
    :param statistics: (means of the losses by name, details of the last update) → further numbers for the log; a loss
        that has not counted since the last row is missing.
    :param needs_next_actions: whether batches have ``next_actions`` and ``continues``.
    """

    objective: type[Objective]
    loss_names: tuple[str, ...]
    draw_noise: Callable[[Any, int, torch.Generator, int], Any]
    losses: LossFunction
    after_step: Callable[[Any, Any, Any], None]
    statistics: Callable[[Mapping[str, float], Mapping[str, Tensor]], dict[str, float]]
    needs_next_actions: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "losses", extracted_once(self.losses))


def apply_update(
    rule: UpdateRule,
    policy: Any,
    batch: Batch,
    noise: Any,
    objective: Objective,
    losses: LossFunction | None = None,
) -> Outcome:
    """One gradient step on all networks, then what follows it.

    :param policy: its ``optimizer`` makes the step.
    :param losses: the rule's losses, compiled; None: not compiled.
    :return: the losses before the step.
    """
    outcome = (losses or rule.losses)(policy, batch, noise, objective)
    with section("backward"):
        policy.optimizer.zero_grad(set_to_none=True)
        outcome.total.backward()  # type: ignore[no-untyped-call]
    step(rule, policy, objective, noise)
    return outcome._replace(total=outcome.total.detach())


def step(rule: UpdateRule, policy: Any, objective: Objective, noise: Any) -> None:
    """The optimiser's step with the current gradients, and what follows it.

    What a closed gate left out has a gradient of 0, so that the optimiser's momentum goes on moving it.
    """
    with section("optimiser"):
        if any(part is None for part in noise):
            for parameter in policy.trained_parameters():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        policy.optimizer.step()
    with section("target step"), torch.no_grad():
        rule.after_step(policy, objective, noise)
