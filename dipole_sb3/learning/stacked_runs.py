"""One run or several stacked runs, as learners of :mod:`~dipole_sb3.learning.update_execution`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, ClassVar, Protocol

import torch
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from dipole_sb3.buffers.mixed_buffer import MixedReplayBuffer
from dipole_sb3.buffers.normalization import BatchNormalizer
from dipole_sb3.buffers.offline_buffer import Batch, OfflineReplayBuffer
from dipole_sb3.common.observations import mapped, merged
from dipole_sb3.common.profiler_sections import section
from dipole_sb3.learning.augmentation import augmented, draw_shifts
from dipole_sb3.learning.offline_policy import OfflinePolicy
from dipole_sb3.learning.training_data import offline_ratio_at
from dipole_sb3.learning.training_monitor import TrainingMonitor
from dipole_sb3.learning.update_execution import Inputs, addresses
from dipole_sb3.learning.update_rule import LossFunction, Objective, Outcome, UpdateRule, apply_update, step
from dipole_sb3.networks.network_stack import PolicyStack

_VALIDATION_SEED = 0
_VALIDATION_TRANSITIONS = 1024


class Trainable(Protocol):
    """What updates need from a model; see :class:`~dipole_sb3.learning.offline_algorithm.OfflineAlgorithm`."""

    update_rule: ClassVar[UpdateRule]
    policy: OfflinePolicy
    device: torch.device
    replay_buffer: OfflineReplayBuffer | None
    training_generator: torch.Generator
    n_steps: int
    offline_ratio: float | Schedule | None
    observation_space: spaces.Space[Any]
    random_crop: float
    learned_normalized_observations: bool
    _current_progress_remaining: float

    @property
    def training_monitor(self) -> TrainingMonitor: ...

    def filled_buffer(self) -> OfflineReplayBuffer: ...

    def get_vec_normalize_env(self) -> VecNormalize | None: ...

    def objective(self) -> Objective: ...

    def next_update(self) -> int: ...


class OneRun:
    """The updates of one model.

    :param model: a model with a data set or a replay buffer.
    """

    def __init__(self, model: Trainable) -> None:
        self._model = model
        self._normalizer: BatchNormalizer | None = None

    @property
    def update_rule(self) -> UpdateRule:
        return self._model.update_rule

    @property
    def device(self) -> torch.device:
        return self._model.device

    def draw_inputs(self, batch_size: int) -> Inputs:
        model, generator = self._model, self._model.training_generator
        buffer = self._resident_buffer()
        indices = None if buffer is None else buffer.draw_indices(batch_size, generator)
        batch = self._draw_batch(batch_size) if buffer is None else None
        noise = model.update_rule.draw_noise(model.policy, batch_size, generator, model.next_update())
        shifts = draw_shifts(model.observation_space, batch_size, model.random_crop, generator)
        return Inputs(indices, batch, noise, shifts)

    def _draw_batch(self, batch_size: int) -> Batch:
        model, buffer = self._model, self._model.filled_buffer()
        if isinstance(buffer, MixedReplayBuffer):
            buffer.offline_ratio = offline_ratio_at(model.offline_ratio, model._current_progress_remaining)
        return self.normalized(buffer.draw(batch_size, model.training_generator, *self._what_to_take()))

    def _what_to_take(self) -> tuple[Any, ...]:
        """The buffer's arguments after the batch; a user's sub-class may know no others than before."""
        model = self._model
        return (model.n_steps, True) if model.update_rule.needs_next_actions else (model.n_steps,)

    def _resident_buffer(self) -> OfflineReplayBuffer | None:
        """The buffer, if the device can gather batches from it; None if the host has to."""
        model, buffer = self._model, self._model.filled_buffer()
        normalized = model.get_vec_normalize_env() is not None or model.learned_normalized_observations
        # A user's sub-class may draw batches in another way.
        uniform = type(buffer).draw in (OfflineReplayBuffer.draw, MixedReplayBuffer.draw)
        return buffer if buffer.resident and uniform and not normalized else None

    def normalized(self, batch: Batch) -> Batch:
        """The batch as the networks see it: normalised if the environment is."""
        model, statistics = self._model, self._model.get_vec_normalize_env()
        if statistics is None:
            if model.learned_normalized_observations:
                raise without_vec_normalize(type(model).__name__)
            return batch
        model.learned_normalized_observations = True
        if self._normalizer is None or statistics.training:
            self._normalizer = BatchNormalizer(statistics, model.device)
        return self._normalizer(batch)

    def forget_normalizer(self) -> None:
        """Call it when the environment or its statistics may have changed."""
        self._normalizer = None

    def gathered(self, inputs: Inputs) -> Batch:
        """The batch of one run, or of several that share their data (the indices then have a leading axis)."""
        if inputs.batch is not None:
            return inputs.batch
        indices = inputs.indices
        assert indices is not None
        with section("batch"):
            batch = self._model.filled_buffer().take(indices.flatten(), *self._what_to_take())
            if indices.dim() == 1:
                return batch
            return merged(lambda tensor: tensor.reshape(*indices.shape, *tensor.shape[1:]), batch)

    def update(self, inputs: Inputs, losses: LossFunction) -> Outcome:
        model = self._model
        batch = augmented(self.gathered(inputs), inputs.shifts)
        return apply_update(model.update_rule, model.policy, batch, inputs.noise, model.objective(), losses)

    def constants(self) -> tuple[Any, ...]:
        model = self._model
        optimizer = model.policy.optimizer
        states = (value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))
        rates = (group["lr"] for group in optimizer.param_groups if isinstance(group["lr"], Tensor))
        tensors: Iterator[Tensor] = chain(model.policy.parameters(), states, rates)
        buffer = self._resident_buffer()
        data = [] if buffer is None else [_Same(tensor) for tensor in buffer.tensors_to_take(*self._what_to_take())]
        precision = torch.get_float32_matmul_precision()
        return (model.objective(), model.n_steps, precision, len(data), *data, *addresses(tensors))

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [self._model.policy.optimizer]

    def take_note(self, outcome: Outcome, updates: int) -> None:
        self._model.training_monitor.add(outcome, updates)

    def record_validation(self, logger: Logger) -> None:
        """Logs losses on the data set's validation split; transitions and noise stay the same, so curves compare."""
        model, rule = self._model, self._model.update_rule
        validation = None if model.replay_buffer is None else model.replay_buffer.validation
        if validation is None:
            return
        generator = torch.Generator(model.device).manual_seed(_VALIDATION_SEED)
        batch = self.normalized(validation.draw(_VALIDATION_TRANSITIONS, generator, *self._what_to_take()))
        model.policy.set_training_mode(False)
        noise = rule.draw_noise(model.policy, _VALIDATION_TRANSITIONS, generator, 0)
        with torch.no_grad():
            outcome = rule.losses(model.policy, batch, noise, model.objective())
        for name, loss in zip(rule.loss_names, outcome.losses.tolist(), strict=True):
            logger.record(f"validation/{name}", loss)


class ManyRuns:
    """The updates of several models, made as one.

    :param models: see :func:`dipole_sb3.learning.learn_together.require_stackable`.
    """

    def __init__(self, models: Sequence[Trainable]) -> None:
        self._models = list(models)
        self._runs = [OneRun(model) for model in models]
        self._stack = PolicyStack([model.policy for model in models])
        self._objectives: list[Objective] = []

    @property
    def update_rule(self) -> UpdateRule:
        return self._models[0].update_rule

    @property
    def device(self) -> torch.device:
        return self._models[0].device

    def draw_inputs(self, batch_size: int) -> Inputs:
        drawn = [run.draw_inputs(batch_size) for run in self._runs]
        indices = [inputs.indices for inputs in drawn if inputs.indices is not None]
        noise = merged(_stack, *_with_gates_alike([inputs.noise for inputs in drawn]))
        shifts = None if drawn[0].shifts is None else mapped(_stack, *(inputs.shifts for inputs in drawn))
        if len(indices) == len(drawn) and self._share_data():
            return Inputs(torch.stack(indices), None, noise, shifts)
        batches = [run.gathered(inputs) for run, inputs in zip(self._runs, drawn, strict=True)]
        return Inputs(None, merged(_stack, *batches), noise, shifts)

    def _share_data(self) -> bool:
        return all(model.replay_buffer is self._models[0].replay_buffer for model in self._models)

    def update(self, inputs: Inputs, losses: LossFunction) -> Outcome:
        batch = augmented(self._runs[0].gathered(inputs), inputs.shifts)
        outcome = losses(self._stack, batch, inputs.noise, self._objective())
        with section("backward"):
            for model in self._models:
                model.policy.optimizer.zero_grad(set_to_none=True)
            outcome.total.backward()  # type: ignore[no-untyped-call]
            self._stack.hand_out_gradients()
        for index, (model, objective) in enumerate(zip(self._models, self._objectives, strict=True)):
            noise = merged(lambda tensor, index=index: tensor[index], inputs.noise)
            step(model.update_rule, model.policy, objective, noise)
        return outcome._replace(total=outcome.total.detach())

    def _objective(self) -> Objective:
        """The objective of all runs. Made only when it changes: its copies from the host cannot be recorded."""
        objectives = [model.objective() for model in self._models]
        if objectives != self._objectives:
            self._objectives = objectives
            self._stacked = type(objectives[0]).stacked(objectives, self.device)
        return self._stacked

    def constants(self) -> tuple[Any, ...]:
        return tuple(chain.from_iterable(run.constants() for run in self._runs))

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [model.policy.optimizer for model in self._models]

    def take_note(self, outcome: Outcome, updates: int) -> None:
        for index, run in enumerate(self._runs):
            run.take_note(outcome.of_run(index), updates)

    def release(self) -> None:
        """Gives every model's networks their own memory again."""
        self._stack.release()


def without_vec_normalize(model: str) -> ValueError:
    """The error for a model that has learned with VecNormalize and finds none."""
    return ValueError(
        f"{model} has learned from normalised observations: found no VecNormalize, expected env= to be an environment "
        "in VecNormalize.load(...) with the statistics of that run"
    )


def _with_gates_alike(noises: Sequence[Any]) -> list[Any]:
    """The noise of several runs, where a gate that is closed (None) for some runs only is 0 for these."""
    fields = []
    for parts in zip(*noises, strict=True):
        opened = next((part for part in parts if part is not None), None)
        fields.append([torch.zeros_like(opened) if part is None and opened is not None else part for part in parts])
    return [type(noise)(*(parts[run] for parts in fields)) for run, noise in enumerate(noises)]


def _stack(*tensors: Tensor) -> Tensor:
    return torch.stack(tensors)


class _Same:
    """Equal only for the same tensor object, which it keeps alive, so that no other tensor gets its address."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._tensor is other._tensor

    __hash__ = None  # type: ignore[assignment]
