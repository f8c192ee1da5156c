"""Runs updates eagerly, compiled, or several at a time as one CUDA graph.

With small networks and a sampler of many steps, an update consists of hundreds of small kernels, which a GPU finishes
faster than Python can launch them. A CUDA graph is launched as a whole. It repeats the same kernels on the same memory,
so everything that changes (indices of transitions, noise, learning rate) is passed in tensors at fixed addresses.
Random numbers are drawn outside the graph, in the same order as without it, so a captured run sees the same batches.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.common.observations import mapped, merged
from dipole_sb3.common.profiler_sections import section
from dipole_sb3.learning.augmentation import Shifts
from dipole_sb3.learning.compilation import compiled, compiled_or_eager, why_not
from dipole_sb3.learning.cuda_graphs import beside, can_be_captured, cuda_graph, keep_on_device
from dipole_sb3.learning.precision import ProductType, with_products_in
from dipole_sb3.learning.update_rule import LossFunction, Outcome, UpdateRule

Acceleration = Literal["auto", "eager", "compiled", "captured"]

UPDATES_PER_REPLAY = 10
"""Updates in a CUDA graph. A launch costs about as much as one kernel, and an update has more than a hundred: with ten
updates the launch costs almost nothing, while callbacks are at most nine updates behind the networks."""

_WARM_UP = 3
"""Updates before a capture: they compile, allocate the optimiser's state and let libraries choose their kernels."""


class Inputs(NamedTuple):
    """What changes from one update to the next.

    :param indices: of the transitions, if the update itself gathers them on the device; else None.
    :param batch: the transitions, if the host gathers them; else None.
    :param noise: a named tuple of tensors, as the update rule draws it.
    :param shifts: by which the images of the batch move; None: they stay.
    """

    indices: Tensor | None
    batch: Batch | None
    noise: Any
    shifts: Shifts | None = None


class Learner(Protocol):
    """What this module needs from one run or from several stacked runs."""

    @property
    def update_rule(self) -> UpdateRule: ...

    @property
    def device(self) -> torch.device: ...

    def draw_inputs(self, batch_size: int) -> Inputs:
        """Draws everything that is random in one update."""
        ...

    def update(self, inputs: Inputs, losses: LossFunction) -> Outcome:
        """Makes one update on the device, without ever waiting for the device."""
        ...

    def constants(self) -> tuple[Any, ...]:
        """Everything that a recording of :meth:`update` fixes at its current value: addresses of tensors, numbers."""
        ...

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimisers whose learning rate a recording must read from the device."""
        ...

    def take_note(self, outcome: Outcome, updates: int) -> None:
        """Adds updates to the statistics; the outcome is theirs together."""
        ...


def chosen(acceleration: Acceleration, device: torch.device) -> Acceleration:
    """Resolves ``"auto"`` for a device, and checks the other names.

    On a CPU ``"auto"`` is eager here; whether a run compiles depends on its length
    (:func:`~dipole_sb3.learning.compilation.way_on_cpu`).

    :raises ValueError: the name is unknown, or ``"captured"`` without CUDA.
    """
    if acceleration not in get_args(Acceleration):
        raise ValueError(f"acceleration is {acceleration!r}, expected one of {', '.join(get_args(Acceleration))}")
    if acceleration == "captured" and device.type != "cuda":
        raise ValueError(f"acceleration is 'captured' on the device {device}, expected a CUDA device: use 'compiled'")
    if acceleration == "auto":
        return "captured" if device.type == "cuda" else "eager"
    return acceleration


class PlainUpdates:
    """Runs a learner's updates one by one.

    :param learner: on any device.
    :param losses: eager or compiled.
    """

    per_replay = 1

    def __init__(self, learner: Learner, losses: LossFunction) -> None:
        self._learner, self._losses = learner, losses

    def run(self, updates: int, batch_size: int) -> None:
        """Makes ``updates`` updates on fresh batches."""
        for _ in range(updates):
            with section("batch"):
                inputs = self._learner.draw_inputs(batch_size)
            with section("update"):
                outcome = self._learner.update(inputs, self._losses)
            with section("logging"):
                self._learner.take_note(outcome, 1)


class CapturedUpdates:
    """Runs a learner's updates as CUDA graphs, recorded again whenever something that a recording fixes has changed.

    That happens after ``load``, ``set_parameters`` and ``set_dataset``, and with another batch size or another value of
    a hyperparameter, but not with another learning rate.

    :param learner: on a CUDA device.
    :param losses: eager or compiled.
    :param record: makes a replayable recording of a function: :func:`cuda_graph`.
    """

    per_replay = UPDATES_PER_REPLAY

    def __init__(
        self, learner: Learner, losses: LossFunction, record: Callable[[Callable[[], Any]], Callable[[], Any]]
    ) -> None:
        self._learner, self._losses, self._record = learner, losses, record
        self._recordings: dict[tuple[_Kind, ...], _Recording] = {}
        self._constants: tuple[Any, ...] | None = None
        self._warm = 0
        self._warm_kinds: set[_Kind] = set()

    def run(self, updates: int, batch_size: int) -> None:
        """As :meth:`PlainUpdates.run`, on the same batches and noise."""
        while updates:
            constants = (batch_size, *self._learner.constants())
            if constants != self._constants:
                # The first update creates the optimiser's state; a recording is possible once the state stays in place.
                self._recordings, self._constants, self._warm = {}, constants, 0
                self._warm_kinds.clear()
            is_warm = self._warm >= _WARM_UP
            size = self.per_replay if is_warm and updates >= self.per_replay else 1
            with section("batch"):
                drawn = [self._learner.draw_inputs(batch_size) for _ in range(size)]
            kinds = tuple(map(_kind, drawn))
            with section("update"):
                if is_warm and (kinds in self._recordings or self._warm_kinds.issuperset(kinds)):
                    outcome = self._replay(kinds, drawn)
                else:
                    # What is recorded must not compile then: each kind of update is made first, just before.
                    outcome = self._warmed_up(kinds, drawn)
                    self._constants = (batch_size, *self._learner.constants())
            with section("logging"):
                self._learner.take_note(outcome, size)
            updates -= size

    def _replay(self, kinds: tuple[_Kind, ...], drawn: list[Inputs]) -> Outcome:
        if kinds not in self._recordings:
            self._recordings[kinds] = _Recording(self._learner, self._losses, drawn, self._record)
        self._warm_kinds.clear()
        return self._recordings[kinds].replay(drawn)

    def _warmed_up(self, kinds: tuple[_Kind, ...], drawn: list[Inputs]) -> Outcome:
        for optimizer in self._learner.optimizers():
            keep_on_device(optimizer, self._learner.device)
        with beside(self._learner.device):
            outcomes = [self._learner.update(inputs, self._losses) for inputs in drawn]
        if self._warm >= _WARM_UP:
            # At once, for the next updates may be of another order, which is recorded already and leaves nothing warm.
            self._recordings[kinds] = _Recording(self._learner, self._losses, drawn, self._record)
        self._warm += 1
        self._warm_kinds.update(kinds)
        return Outcome.of_all(outcomes)


class _Recording:
    """A recording of several updates; new inputs are copied to where the recording reads them."""

    def __init__(
        self,
        learner: Learner,
        losses: LossFunction,
        drawn: list[Inputs],
        record: Callable[[Callable[[], Any]], Callable[[], Any]],
    ) -> None:
        self._inputs = [_copy(inputs) for inputs in drawn]

        def run() -> Outcome:
            return Outcome.of_all([learner.update(inputs, losses) for inputs in self._inputs])

        self._replay = record(run)

    def replay(self, drawn: list[Inputs]) -> Outcome:
        """Repeats the updates on new inputs; the next replay overwrites the outcome."""
        targets = [tensor for inputs in self._inputs for tensor in _tensors(inputs)]
        torch._foreach_copy_(targets, [tensor for inputs in drawn for tensor in _tensors(inputs)])
        outcome: Outcome = self._replay()
        return outcome


def updates_of(
    learner: Learner, acceleration: Acceleration, products: ProductType, must_compile: bool
) -> PlainUpdates | CapturedUpdates:
    """The object that runs a learner's updates.

    :param must_compile: whether a failure of torch.compile is an error; otherwise updates go on eagerly.
    :raises ValueError: see :func:`~dipole_sb3.learning.update_execution.chosen`; or ``"captured"`` with an optimiser
        that a CUDA graph cannot contain.
    """
    how = chosen(acceleration, learner.device)
    if how == "captured" and not all(map(can_be_captured, learner.optimizers())):
        if acceleration != "auto":
            raise ValueError(
                "acceleration is 'captured' with an optimiser whose step waits for the device, expected one with the "
                "argument fused or capturable, such as torch.optim.Adam: use 'compiled'"
            )
        how = "eager"
    losses = learner.update_rule.losses
    if how == "compiled" or (how == "captured" and why_not("cuda") is None):
        losses = compiled(losses) if must_compile else compiled_or_eager(losses)
    losses = with_products_in(products, learner.device, losses)
    if how == "captured":
        return CapturedUpdates(learner, losses, functools.partial(cuda_graph, learner.device))
    return PlainUpdates(learner, losses)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rates: Sequence[float]) -> None:
    """Sets the learning rate of each group of parameters; a tensor in place, so that a recording sees the change."""
    for group, learning_rate in zip(optimizer.param_groups, learning_rates, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate


def without_device(optimizer_state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's state in a form that any device can load: undoes what :func:`keep_on_device` changed."""
    groups = [
        {**group, "lr": float(group["lr"]), **({"capturable": False} if "capturable" in group else {})}
        for group in optimizer_state["param_groups"]
    ]
    return {**optimizer_state, "param_groups": groups}


def addresses(tensors: Iterator[Tensor]) -> tuple[int, ...]:
    """Memory addresses of tensors, for :meth:`Learner.constants`."""
    return tuple(tensor.data_ptr() for tensor in tensors)


_Kind = tuple[bool, ...]


def _kind(inputs: Inputs) -> _Kind:
    """Which gates are closed: an update of another kind is another computation."""
    return tuple(part is None for part in inputs.noise)


def _tensors(inputs: Inputs) -> list[Tensor]:
    found: list[Tensor] = []
    for part in (inputs.indices, *(inputs.batch or ()), *inputs.noise, inputs.shifts):
        if part is not None:
            mapped(found.append, part)
    return found


def _copy(inputs: Inputs) -> Inputs:
    indices, batch, noise, shifts = inputs
    return Inputs(
        None if indices is None else indices.clone(),
        None if batch is None else merged(torch.clone, batch),
        merged(torch.clone, noise),
        None if shifts is None else mapped(torch.clone, shifts),
    )
