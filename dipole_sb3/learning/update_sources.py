"""One run, or several stacked ones, as :mod:`dipole_sb3.learning.update_execution` sees them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dipole_sb3.algorithms.dipole.losses import (
    LossFunction,
    Objective,
    Outcome,
    apply_update,
    compute_losses,
    draw_noise,
    step,
)
from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.common.observations import merged
from dipole_sb3.common.profiler_sections import section
from dipole_sb3.learning.update_execution import (
    Acceleration,
    CapturedUpdates,
    Inputs,
    Learner,
    PlainUpdates,
    addresses,
    can_be_captured,
    chosen,
    compiled_losses,
    cuda_graph,
)
from dipole_sb3.networks.network_stack import PolicyStack

if TYPE_CHECKING:
    from dipole_sb3.algorithms.dipole.algorithm import DIPOLE


def updates_of(learner: Learner, acceleration: Acceleration) -> PlainUpdates | CapturedUpdates:
    """How a learner's updates are run.

    :raises ValueError: see :func:`~dipole_sb3.learning.update_execution.chosen`.
    """
    how = chosen(acceleration, learner.device)
    if how == "captured" and not all(map(can_be_captured, learner.optimizers())):
        if acceleration != "auto":
            raise ValueError(
                "acceleration is 'captured' with an optimiser whose step waits for the device, expected one with the "
                "argument fused or capturable, such as torch.optim.Adam: use 'compiled'"
            )
        how = "eager"
    if how == "captured":
        record = functools.partial(cuda_graph, learner.device)
        return CapturedUpdates(learner, compiled_losses() if _can_compile() else compute_losses, record)
    return PlainUpdates(learner, compiled_losses() if how == "compiled" else compute_losses)


def _can_compile() -> bool:
    """Compilation for a GPU needs Triton, which is not on every platform; a graph of eager kernels needs nothing."""
    from torch.utils._triton import has_triton

    return bool(has_triton())


class OneRun:
    """A model's updates.

    :param model: with a data set or a replay buffer.
    """

    def __init__(self, model: DIPOLE) -> None:
        self._model = model

    @property
    def device(self) -> torch.device:
        return self._model.device

    def draw_inputs(self, batch_size: int) -> Inputs:
        model, generator = self._model, self._model._generator
        buffer = model._resident_buffer()
        indices = None if buffer is None else buffer.draw_indices(batch_size, generator)
        batch = model._draw(batch_size) if buffer is None else None
        return Inputs(indices, batch, draw_noise(batch_size, model.policy.action_dim, generator))

    def update(self, inputs: Inputs, losses: LossFunction) -> Outcome:
        model = self._model
        batch = _gathered(model, inputs)
        return apply_update(model.policy, model.policy.optimizer, batch, inputs.noise, model._objective(), losses)

    def constants(self) -> tuple[Any, ...]:
        return _constants(self._model)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [self._model.policy.optimizer]

    def take_note(self, outcome: Outcome, updates: int) -> None:
        self._model._monitor.add(outcome, updates)


class ManyRuns:
    """The updates of several models as one.

    :param models: see :func:`dipole_sb3.learning.learn_together.require_stackable`.
    """

    def __init__(self, models: Sequence[DIPOLE]) -> None:
        self._models = list(models)
        self._runs = [OneRun(model) for model in models]
        self._stack = PolicyStack([model.policy for model in models])
        self._objectives: list[Objective] = []

    @property
    def device(self) -> torch.device:
        return self._models[0].device

    def draw_inputs(self, batch_size: int) -> Inputs:
        drawn = [run.draw_inputs(batch_size) for run in self._runs]
        indices = [inputs.indices for inputs in drawn if inputs.indices is not None]
        noise = merged(_stack, *(inputs.noise for inputs in drawn))
        if len(indices) == len(drawn) and self._share_data():
            return Inputs(torch.stack(indices), None, noise)
        batches = [_gathered(model, inputs) for model, inputs in zip(self._models, drawn, strict=True)]
        return Inputs(None, merged(_stack, *batches), noise)

    def _share_data(self) -> bool:
        return all(model.replay_buffer is self._models[0].replay_buffer for model in self._models)

    def update(self, inputs: Inputs, losses: LossFunction) -> Outcome:
        batch = _gathered(self._models[0], inputs)
        outcome = losses(self._stack, batch, inputs.noise, self._objective())
        with section("backward"):
            for model in self._models:
                model.policy.optimizer.zero_grad(set_to_none=True)
            outcome.total.backward()  # type: ignore[no-untyped-call]
            self._stack.hand_out_gradients()
        for model in self._models:
            step(model.policy, model.policy.optimizer, model.tau)
        return outcome._replace(total=outcome.total.detach())

    def _objective(self) -> Objective:
        """That of all runs; made only when it changes: its tensors come from the host, for which no recording waits."""
        objectives = [model._objective() for model in self._models]
        if objectives != self._objectives:
            self._objectives, self._stacked = objectives, Objective.stacked(objectives, self.device)
        return self._stacked

    def constants(self) -> tuple[Any, ...]:
        return tuple(chain.from_iterable(_constants(model) for model in self._models))

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [model.policy.optimizer for model in self._models]

    def take_note(self, outcome: Outcome, updates: int) -> None:
        for run, learner in enumerate(self._runs):
            learner.take_note(outcome.of_run(run), updates)

    def release(self) -> None:
        """Gives every model's networks memory of their own again."""
        self._stack.release()


def _gathered(model: DIPOLE, inputs: Inputs) -> Batch:
    """The batch of one run or of many, whose indices have a leading axis."""
    if inputs.batch is not None:
        return inputs.batch
    indices = inputs.indices
    assert indices is not None
    with section("batch"):
        batch = model._buffer().take(indices.flatten(), model.n_steps)
        if indices.dim() == 1:
            return batch
        return merged(lambda tensor: tensor.reshape(*indices.shape, *tensor.shape[1:]), batch)


def _stack(*tensors: Tensor) -> Tensor:
    return torch.stack(tensors)


def _constants(model: DIPOLE) -> tuple[Any, ...]:
    policy = model.policy
    states = (
        value for state in policy.optimizer.state.values() for value in state.values() if isinstance(value, Tensor)
    )
    rates = (group["lr"] for group in policy.optimizer.param_groups if isinstance(group["lr"], Tensor))
    tensors: Iterator[Tensor] = chain(policy.parameters(), states, rates)
    buffer = model._resident_buffer()
    data = [] if buffer is None else [_Same(tensor) for tensor in buffer.tensors_to_take(model.n_steps)]
    precision = torch.get_float32_matmul_precision()
    return (model._objective(), model.n_steps, precision, len(data), *data, *addresses(tensors))


class _Same:
    """Equal for one and the same tensor; while it is kept, no other tensor can come to lie where this one does."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._tensor is other._tensor

    __hash__ = None  # type: ignore[assignment]
