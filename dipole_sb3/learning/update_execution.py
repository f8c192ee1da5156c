"""How updates are run: as they are written, compiled, or several of them as one CUDA graph.

Small networks and a sampler of many steps make an update hundreds of small kernels, which a GPU finishes faster than
Python can launch them. A CUDA graph is launched as one. It repeats the same kernels on the same memory, so everything
that changes comes in through tensors that stay where they are: which transitions, the noise, the learning rate. Random
numbers are drawn outside it, in the order in which uncaptured updates draw them: a captured run sees the same batches.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.common.observations import mapped, merged
from dipole_sb3.common.profiler_sections import section
from dipole_sb3.learning.update_rule import LossFunction, Outcome, UpdateRule

Acceleration = Literal["auto", "eager", "compiled", "captured"]

UPDATES_PER_REPLAY = 10
"""Updates in a CUDA graph. A launch costs about as much as one kernel, of which an update has a hundred and more: ten
make it disappear, while callbacks are never more than nine updates behind the networks."""

_WARM_UP = 3
"""Updates before a capture: they compile, allocate the optimiser's state and let libraries choose their kernels."""


class Inputs(NamedTuple):
    """What changes from one update to the next.

    :param indices: of the transitions, where the update itself gathers them on the device; else None.
    :param batch: the transitions, where the host gathers them; else None.
    :param noise: a named tuple of tensors, as the update rule draws it.
    """

    indices: Tensor | None
    batch: Batch | None
    noise: Any


class Learner(Protocol):
    """One run, or several stacked ones, as this module sees them."""

    @property
    def update_rule(self) -> UpdateRule: ...

    @property
    def device(self) -> torch.device: ...

    def draw_inputs(self, batch_size: int) -> Inputs:
        """Everything random of one update."""
        ...

    def update(self, inputs: Inputs, losses: LossFunction) -> Outcome:
        """One update: work on the device that never waits for it."""
        ...

    def constants(self) -> tuple[Any, ...]:
        """All that a recording of :meth:`update` would keep as it is now: addresses of tensors, numbers."""
        ...

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Whose learning rate a recording must read from the device."""
        ...

    def take_note(self, outcome: Outcome, updates: int) -> None:
        """Statistics of so many updates; the outcome is the last one's but for ``losses``, which is their sum."""
        ...


def chosen(acceleration: Acceleration, device: torch.device) -> Acceleration:
    """What ``acceleration`` means on a device.

    :raises ValueError: an unknown name, or a CUDA graph without CUDA.
    """
    if acceleration not in get_args(Acceleration):
        raise ValueError(f"acceleration is {acceleration!r}, expected one of {', '.join(get_args(Acceleration))}")
    if acceleration == "captured" and device.type != "cuda":
        raise ValueError(f"acceleration is 'captured' on the device {device}, expected a CUDA device: use 'compiled'")
    if acceleration == "auto":
        return "captured" if device.type == "cuda" else "eager"
    return acceleration


@functools.cache
def compiled(losses: LossFunction) -> LossFunction:
    """A loss function compiled with its backward pass, once for all learners of the process."""
    return torch.compile(losses, dynamic=False)


class PlainUpdates:
    """Updates of a learner one by one.

    :param learner: on any device.
    :param losses: eager or compiled.
    """

    per_replay = 1

    def __init__(self, learner: Learner, losses: LossFunction) -> None:
        self._learner, self._losses = learner, losses

    def run(self, updates: int, batch_size: int) -> None:
        """So many updates on fresh batches."""
        for _ in range(updates):
            with section("batch"):
                inputs = self._learner.draw_inputs(batch_size)
            with section("update"):
                outcome = self._learner.update(inputs, self._losses)
            with section("logging"):
                self._learner.take_note(outcome, 1)


class CapturedUpdates:
    """Updates of a learner as CUDA graphs, recorded anew whenever something has changed that a recording keeps.

    That is the case after ``load``, ``set_parameters``, ``set_dataset``, with another batch size or another value of a
    hyperparameter; not with another learning rate.

    :param learner: on a CUDA device.
    :param losses: eager or compiled.
    :param record: makes a replayable recording of a function: :func:`cuda_graph`.
    """

    per_replay = UPDATES_PER_REPLAY

    def __init__(
        self, learner: Learner, losses: LossFunction, record: Callable[[Callable[[], Any]], Callable[[], Any]]
    ) -> None:
        self._learner, self._losses, self._record = learner, losses, record
        self._plain = PlainUpdates(learner, losses)
        self._recordings: dict[int, _Recording] = {}
        self._constants: tuple[Any, ...] | None = None
        self._warm = 0
        self._is_warm = False

    def run(self, updates: int, batch_size: int) -> None:
        """As :meth:`PlainUpdates.run`, on the same batches and noise."""
        while updates:
            constants = (batch_size, *self._learner.constants())
            if constants != self._constants:
                # The optimiser's state appears with the first update: not until it stays is there something to record.
                self._recordings, self._constants, self._warm = {}, constants, 0
            if self._warm < _WARM_UP:
                for optimizer in self._learner.optimizers():
                    keep_on_device(optimizer, self._learner.device)
                with beside(self._learner.device):
                    self._plain.run(1, batch_size)
                self._warm, self._is_warm = self._warm + 1, True
                self._constants = (batch_size, *self._learner.constants())
                updates -= 1
                continue
            size = self.per_replay if updates >= self.per_replay else 1
            if size not in self._recordings and not self._is_warm:
                # What has changed since the last one that compilation depends on must not be met while recording.
                self._warm = _WARM_UP - 1
                continue
            with section("batch"):
                drawn = [self._learner.draw_inputs(batch_size) for _ in range(size)]
            if size not in self._recordings:
                self._recordings[size] = _Recording(self._learner, self._losses, drawn, self._record)
            with section("update"):
                outcome = self._recordings[size].replay(drawn)
            self._is_warm = False
            with section("logging"):
                self._learner.take_note(outcome, size)
            updates -= size


class _Recording:
    """So many updates on inputs that are copied to where the recording reads them."""

    def __init__(
        self,
        learner: Learner,
        losses: LossFunction,
        drawn: list[Inputs],
        record: Callable[[Callable[[], Any]], Callable[[], Any]],
    ) -> None:
        self._inputs = [_copy(inputs) for inputs in drawn]

        def run() -> Outcome:
            outcomes = [learner.update(inputs, losses) for inputs in self._inputs]
            return outcomes[-1]._replace(losses=torch.stack([outcome.losses for outcome in outcomes]).sum(0))

        self._replay = record(run)

    def replay(self, drawn: list[Inputs]) -> Outcome:
        """The outcome is overwritten by the next replay."""
        targets = [tensor for inputs in self._inputs for tensor in _tensors(inputs)]
        torch._foreach_copy_(targets, [tensor for inputs in drawn for tensor in _tensors(inputs)])
        outcome: Outcome = self._replay()
        return outcome


def cuda_graph(device: torch.device, function: Callable[[], Outcome]) -> Callable[[], Outcome]:
    """A function's kernels as a CUDA graph: calling the result launches them and returns the same tensors each time."""
    graph = torch.cuda.CUDAGraph()
    # Torch's own stream for captures belongs to whichever device was the first.
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.device(device), torch.cuda.graph(graph, stream=stream):
        outcome = function()

    def replay() -> Outcome:
        graph.replay()
        return outcome

    return replay


@contextmanager
def beside(device: torch.device) -> Iterator[None]:
    """On a CUDA stream of its own, as what is to be recorded must have run before; elsewhere nothing is different."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    current = torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)


def keep_on_device(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Lets a CUDA graph read the optimiser's learning rate and count of steps from the device."""
    for group in optimizer.param_groups:
        if not isinstance(group["lr"], Tensor):
            group["lr"] = torch.tensor(float(group["lr"]), dtype=torch.float32, device=device)
        if "capturable" in group:
            group["capturable"] = True
    for state in optimizer.state.values():
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].to(device)


def can_be_captured(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimiser's step never asks the device for its learning rate or count of steps."""
    return all(group.get("fused") or "capturable" in group for group in optimizer.param_groups)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """A number, or the tensor that is there, so that a recording sees it."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate


def without_device(optimizer_state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's state as any device can load it: what :func:`keep_on_device` changed is as it was."""
    groups = [
        {**group, "lr": float(group["lr"]), **({"capturable": False} if "capturable" in group else {})}
        for group in optimizer_state["param_groups"]
    ]
    return {**optimizer_state, "param_groups": groups}


def addresses(tensors: Iterator[Tensor]) -> tuple[int, ...]:
    """Where tensors lie, for :meth:`Learner.constants`."""
    return tuple(tensor.data_ptr() for tensor in tensors)


def _tensors(inputs: Inputs) -> list[Tensor]:
    found: list[Tensor] = []
    for part in (inputs.indices, *(inputs.batch or ()), *inputs.noise):
        if part is not None:
            mapped(found.append, part)
    return found


def _copy(inputs: Inputs) -> Inputs:
    indices, batch, noise = inputs
    return Inputs(
        None if indices is None else indices.clone(),
        None if batch is None else merged(torch.clone, batch),
        merged(torch.clone, noise),
    )
