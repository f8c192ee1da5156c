"""The updates of an algorithm: how they run, with which random numbers, and what they tell the log."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from dipole_sb3.common.profiler_sections import section
from dipole_sb3.learning.advantage_weights import AdvantageWeights
from dipole_sb3.learning.compilation import OnCPU, way_on_cpu
from dipole_sb3.learning.knobs import Knob
from dipole_sb3.learning.precision import Precision, ProductType, faster_type, has_fast_bfloat16
from dipole_sb3.learning.recorded_data_algorithm import RecordedDataAlgorithm
from dipole_sb3.learning.training_monitor import TrainingMonitor
from dipole_sb3.learning.update_execution import (
    Acceleration,
    CapturedUpdates,
    Learner,
    PlainUpdates,
    set_learning_rate,
    updates_of,
)
from dipole_sb3.learning.update_rule import Objective, UpdateRule


class UpdatingAlgorithm(RecordedDataAlgorithm):
    """An algorithm that makes updates by its rule: eager, compiled or captured, alone or with other runs."""

    update_rule: ClassVar[UpdateRule]

    acceleration: Acceleration
    precision: Precision
    product_type_found: ProductType | None = None
    """What ``precision="auto"`` came to."""
    way_on_cpu_found: OnCPU | None = None
    """What ``acceleration="auto"`` came to on a CPU."""
    _updates: PlainUpdates | CapturedUpdates | None
    _updates_prepared: int = 0
    _monitor: TrainingMonitor

    def objective(self) -> Objective:
        """The update's hyperparameters, with their current values.

        :raises ValueError: a hyperparameter is out of range, or no number where one is expected.
        """
        objective = self.update_rule.objective
        return objective.of({name: getattr(self, name) for name in objective.names()})

    def hyperparameters(self) -> dict[str, Any]:
        """What the updates depend on, for the records that accompany a trained policy."""
        return {**vars(self.objective()), "batch_size": self.batch_size}

    def advantage_weights(self) -> AdvantageWeights | None:
        """How the losses weight recorded transitions by their advantage; None where they do not."""
        return None

    @classmethod
    def knobs(cls) -> tuple[Knob, ...]:
        """The knobs of a trained model: arguments of ``predict`` that are also attributes of the model."""
        kind: type[Any] = cls.policy_aliases["MlpPolicy"]
        knobs: tuple[Knob, ...] = kind.knobs
        return knobs

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seeds SB3's generators and the training generator.

        Training has its own generator, so that calling ``predict`` in between does not change what is learned.
        """
        super().set_random_seed(seed)
        self.training_generator = torch.Generator(self.device)
        if seed is None:
            self.training_generator.seed()
        else:
            self.training_generator.manual_seed(seed)

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Updates all networks on fresh batches of the replay buffer.

        :param gradient_steps: number of updates.
        :param batch_size: transitions per update.
        """
        self.begin_training()
        self._running_updates(batch_size).run(gradient_steps, batch_size)
        self.count_updates(gradient_steps)

    def begin_training(self) -> None:
        """Sets training mode and learning rate, before updates of this model or of a stack of several models."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        self._updates_prepared = self._n_updates

    def count_updates(self, gradient_steps: int) -> None:
        """Counts updates that were made by this model or by a stack of several models."""
        self._n_updates += gradient_steps

    def next_update(self) -> int:
        """The number, from 1, of the update whose batch and noise are drawn next; each call counts one."""
        self._updates_prepared += 1
        return self._updates_prepared

    def _running_updates(self, batch_size: int) -> PlainUpdates | CapturedUpdates:
        """What makes this model's updates, in the way that ``acceleration`` and ``precision`` say."""
        if self._updates is None:
            self._updates = self.updates_of(self._run, batch_size)
        return self._updates

    def updates_of(self, learner: Learner, batch_size: int) -> PlainUpdates | CapturedUpdates:
        """What makes the updates of this model, or of a stack of several that it stands for, in its way."""
        must_compile = self.acceleration != "auto"
        return updates_of(learner, self.way_of_updates, self.product_type(batch_size), must_compile)

    def choose_way(self, updates: int, begins: bool) -> None:
        """Decides whether a ``learn`` compiles its updates, where ``acceleration`` leaves that open.

        The answer stays with the model, in its file too, so that a resumed run continues as it began.

        :param updates: that it will make.
        :param begins: False: it continues an earlier one.
        """
        if self.acceleration == "auto" and self.device.type == "cpu":
            way, message = way_on_cpu(updates, None if begins else self.way_on_cpu_found)
            self.adopt_way(way)
            if self.verbose >= 1 and message:
                print(message)

    def adopt_way(self, way: OnCPU | None) -> None:
        """Runs updates on a CPU in this way where ``acceleration`` leaves it open."""
        before = self.way_of_updates
        self.way_on_cpu_found = way
        if self.way_of_updates != before:
            self._updates = None

    @property
    def way_of_updates(self) -> Acceleration:
        """How updates run: what ``acceleration`` says, and for ``"auto"`` on a CPU what the running ``learn`` chose."""
        if self.acceleration == "auto" and self.device.type == "cpu":
            return self.way_on_cpu_found or "eager"
        return self.acceleration

    def product_type(self, batch_size: int) -> ProductType:
        """The type in which updates multiply: what ``precision`` says.

        ``"auto"`` measures once; the answer stays with the model, in its file too, so that a resumed run continues as
        it began.

        :param batch_size: transitions per update.
        """
        if self.precision != "auto":
            return self.precision
        found = self.product_type_found
        if found is None or (found == "bf16" and not has_fast_bfloat16(self.device)):
            self.product_type_found, reason = faster_type(self.policy, batch_size, self.device)
            if self.verbose >= 1:
                print(f"Products of updates in {self.product_type_found}: {reason}")
        assert self.product_type_found is not None
        return self.product_type_found

    def _update_learning_rate(self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer) -> None:
        """As in SB3, but a learning rate that is a tensor stays one: a CUDA graph reads it."""
        learning_rate = self.lr_schedule(self._current_progress_remaining)
        self.logger.record("train/learning_rate", learning_rate)
        factors = self.policy.learning_rate_factors(self._n_updates)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            set_learning_rate(optimizer, [learning_rate * factor for factor in factors])

    @property
    def training_monitor(self) -> TrainingMonitor:
        """Collects the statistics of updates for the log."""
        return self._monitor

    def dump_logs(self) -> None:
        """Writes the statistics since the last call to all of the logger's outputs."""
        with section("logging"):
            self.record_training()
            super().dump_logs()

    def record_training(self) -> None:
        """Gives the logger the statistics of the updates since the last call, and the losses on validation data."""
        self._monitor.record(self.logger, self._n_updates)
        self._run.record_validation(self.logger)
