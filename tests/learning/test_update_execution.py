"""Eager, compiled and captured updates on the same noise: the same learning, within rounding.

What a CUDA graph does, repeating an update on tensors that stay where they are, is played on the CPU by calling the
recorded function again: this tests everything but CUDA itself. The tests marked ``cuda`` run the graphs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recordings import record
from sampled_environments import image_env
from stable_baselines3.common.callbacks import BaseCallback
from test_learn_together import RUNS, assert_same, make_model, recorded
from torch.utils._python_dispatch import TorchDispatchMode

from dipole_sb3 import DIPOLE, OfflineReplayBuffer, stack_frames
from dipole_sb3.algorithms.dipole.losses import compute_losses
from dipole_sb3.common.observations import merged
from dipole_sb3.learning import update_execution
from dipole_sb3.learning.learn_together import Together, learn_together
from dipole_sb3.learning.stacked_runs import ManyRuns, OneRun
from dipole_sb3.learning.update_execution import CapturedUpdates
from dipole_sb3.learning.update_rule import Outcome

COMPILED_TOLERANCE = 1e-4
"""Of parameters after a few updates: compiled kernels add in another order, and write GELU with an exponential."""


CUDA_TOLERANCE = 1e-3
"""After forty updates, in which Adam makes much of rounding where gradients are small."""


class Recorder:
    """Stands for CUDA graphs: what is recorded is only run when it is replayed, on the tensors of the recording."""

    def __init__(self) -> None:
        self.recorded = 0
        self.replays = 0

    def __call__(self, function: Callable[[], Outcome]) -> Callable[[], Outcome]:
        self.recorded += 1
        kept: list[Outcome] = []

        def replay() -> Outcome:
            self.replays += 1
            outcome = function()
            if not kept:
                kept.append(merged(torch.clone, outcome))
            merged(lambda target, source: target.copy_(source), kept[0], outcome)  # a graph's outputs stay, too
            return kept[0]

        return replay


def captured(model: DIPOLE) -> tuple[CapturedUpdates, Recorder]:
    recorder = Recorder()
    updates = CapturedUpdates(OneRun(model), compute_losses, recorder)
    model._updates = updates
    return updates, recorder


def parameters(model: DIPOLE) -> torch.Tensor:
    """All of them, as one vector."""
    return torch.cat([parameter.detach().flatten().clone() for parameter in model.policy.parameters()])


class TestCompiled:
    def test_equals_eager(self) -> None:
        dataset = recorded()
        eager = make_model(dataset, seed=0, acceleration="eager", flow_steps=2).learn(6)
        compiled = make_model(dataset, seed=0, acceleration="compiled", flow_steps=2).learn(6)
        assert_same(compiled, eager, COMPILED_TOLERANCE)

    def test_several_runs_equal_eager(self) -> None:
        dataset = recorded()
        arguments: dict[str, Any] = {"flow_steps": 2, "critic_target": "value"}
        alone = [make_model(dataset, **run, **arguments).learn(4) for run in RUNS[:2]]
        models = [make_model(dataset, **run, **arguments, acceleration="compiled") for run in RUNS[:2]]
        for one, other in zip(learn_together(models, 4), alone, strict=True):
            assert_same(one, other, COMPILED_TOLERANCE)


class TestRecording:
    def test_equals_eager_whatever_the_number_of_updates(self) -> None:
        # Three updates warm up; four replays of ten; one more warms up for the recording of one, then six replays.
        model = make_model(recorded(), seed=3)
        _, recorder = captured(model)
        model.train(50, 16)
        other = make_model(recorded(), seed=3)
        other.train(50, 16)
        assert_same(model, other)
        assert (recorder.recorded, recorder.replays) == (2, 4 + 6)

    def test_learn_sees_every_timestep_and_ends_at_multiples(self) -> None:
        class See(BaseCallback):
            def __init__(self) -> None:
                super().__init__()
                self.seen: list[tuple[int, int]] = []
                self.ends: list[int] = []

            def _on_training_start(self) -> None:
                self.model.at_iteration_ends(self._end)  # type: ignore[attr-defined]

            def _end(self) -> bool:
                self.ends.append(self.num_timesteps)
                return True

            def _on_step(self) -> bool:
                self.seen.append((self.num_timesteps, self.model._n_updates))
                return True

        see, model = See(), make_model(recorded(), seed=3, offline_steps=100)
        captured(model)
        model.learn(25, see)
        assert [step for step, _ in see.seen] == list(range(1, 26))
        assert see.ends == [10, 20, 25]
        assert all(0 <= updates - step <= update_execution.UPDATES_PER_REPLAY - 1 for step, updates in see.seen)
        model.learn(20, see, reset_num_timesteps=False)
        assert see.ends == [10, 20, 25, 30, 40, 45]
        assert_same(model, make_model(recorded(), seed=3, offline_steps=100).learn(45))

    def test_log_means_are_over_all_updates(self) -> None:
        logged = []
        for with_recording in (True, False):
            model = make_model(recorded(), seed=3)
            if with_recording:
                captured(model)
            model.train(33, 16)
            model.record_training()
            logged.append({name: value for name, value in model.logger.name_to_value.items() if "time" not in name})
        assert logged[0] == pytest.approx(logged[1], rel=1e-4)
        assert logged[0]["train/n_updates"] == 33

    def test_learning_rate_moves_without_a_new_recording(self) -> None:
        def schedule(progress: float) -> float:
            return 1e-2 * progress

        models = [
            make_model(recorded(), seed=3, learning_rate=schedule, policy_kwargs={"optimizer_class": torch.optim.SGD})
            for _ in range(2)
        ]
        _, recorder = captured(models[0])
        for model in models:
            for progress in (1.0, 0.5, 0.1):
                model._current_progress_remaining = progress
                model.train(13, 16)
        assert_same(*models)
        assert recorder.recorded == 2
        assert isinstance(models[0].policy.optimizer.param_groups[0]["lr"], torch.Tensor)

    @pytest.mark.parametrize(
        "what", ["load_state", "state", "set_parameters", "set_dataset", "batch_size", "beta", "tau", "n_steps"]
    )
    def test_is_made_anew_where_it_would_be_wrong(self, what: str) -> None:
        # With the old recording the second half would go on with the old state, data or hyperparameters.
        models = [make_model(recorded(), seed=3) for _ in range(2)]
        source = make_model(recorded(), seed=8).learn(3)
        _, recorder = captured(models[0])
        for model in models:
            batch_size = 16
            model.train(23, batch_size)
            if what == "load_state":
                state = copy.deepcopy(source.policy.optimizer.state_dict())  # torch keeps the tensors it is given
                model.policy.optimizer.load_state_dict(state)
            elif what == "state":
                for state in model.policy.optimizer.state.values():
                    state["exp_avg"] = torch.zeros_like(state["exp_avg"])
            elif what == "set_parameters":
                model.set_parameters(source.get_parameters())
            elif what == "set_dataset":
                model.set_dataset(recorded(seed=5))
            elif what == "batch_size":
                batch_size = 8
            else:
                setattr(model, what, {"beta": 5.0, "tau": 0.5, "n_steps": 2}[what])
            model.train(20, batch_size)
        assert_same(*models)
        # Ten updates before, and after three that warm up ten and one; the old ones would have done for twenty.
        assert recorder.recorded == 3

    def test_loaded_weights_need_no_new_recording(self) -> None:
        # They are copied to where the old ones were.
        models = [make_model(recorded(), seed=3) for _ in range(2)]
        source = make_model(recorded(), seed=8)
        _, recorder = captured(models[0])
        for model in models:
            model.train(13, 16)
            model.policy.load_state_dict(source.policy.state_dict())
            model.train(10, 16)
        assert_same(*models)
        assert recorder.recorded == 1

    def test_several_runs(self) -> None:
        models = [make_model(recorded(), **run) for run in RUNS]
        shared = models[0].replay_buffer
        for model in models:
            model.replay_buffer = shared
        group = Together(models)
        group._updates = CapturedUpdates(group._runs, compute_losses, Recorder())
        group.train(25, 16)
        for run, model in zip(RUNS, models, strict=True):
            other = make_model(recorded(), **run)
            other.train(25, 16)
            other.num_timesteps = model.num_timesteps
            assert_same(model, other)

    def test_data_that_the_host_gathers(self) -> None:
        models = [make_model(recorded(), seed=3) for _ in range(2)]
        for model in models:
            model.replay_buffer = model._new_buffer(recorded=model.replay_buffer)
            for _ in range(3):
                model.replay_buffer.add(
                    np.ones((1, 4)), np.ones((1, 4)), np.zeros((1, 2)), np.ones(1), np.zeros(1), [{}]
                )
        captured(models[0])
        for model in models:
            model.train(15, 16)
        assert_same(*models)

    def test_what_is_saved_loads_anywhere(self) -> None:
        model = make_model(recorded(), seed=3)
        captured(model)
        model.train(13, 16)
        group = model.get_parameters()["policy.optimizer"]["param_groups"][0]
        assert type(group["lr"]) is float
        assert group["capturable"] is False


class Operators(TorchDispatchMode):
    """Names of all operators that ran in the block."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name().split(".")[0])
        return func(*args, **(kwargs or {}))


WAITS = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "equal",
    "is_nonzero",
    "unique",
    "lift_fresh",
    "lift_fresh_copy",
}
"""Operators that wait for the device, or bring something there from the host: a CUDA graph may hold neither."""


class TestNothingWaits:
    @pytest.mark.parametrize(
        "arguments",
        [
            {},
            {"critic_target": "value", "q_agg": "mean"},
            {"n_steps": 3},
            {"policy_kwargs": {"time_features": 4, "actor_layer_norm": True, "activation_fn": "mish"}},
            {"policy_kwargs": {"optimizer_class": torch.optim.SGD}},
        ],
        ids=["paper", "value", "n_steps", "exorl_networks", "sgd"],
    )
    def test_operators_of_an_update(self, arguments: dict[str, Any]) -> None:
        dataset = recorded()
        models = [make_model(dataset, **run, **arguments) for run in RUNS]
        for learner in (OneRun(models[0]), ManyRuns(models)):
            for optimizer in learner.optimizers():
                update_execution.keep_on_device(optimizer, torch.device("cpu"))
            for _ in range(2):  # what is made once is made in the first
                inputs = learner.draw_inputs(16)
                assert inputs.indices is not None
                with Operators() as operators:
                    learner.update(inputs, compute_losses)
            assert "aten::baddbmm" in operators.names
            assert not {name for name in operators.names if name.removeprefix("aten::") in WAITS}

    def test_operators_are_seen(self) -> None:
        with Operators() as operators:
            float(torch.tensor(1.0) + 1)
        assert {"aten::_local_scalar_dense", "aten::lift_fresh"} <= operators.names


class TestChoice:
    def test_optimisers_whose_step_waits_are_not_captured(self) -> None:
        waits = {"policy_kwargs": {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {"foreach": True}}}
        assert not update_execution.can_be_captured(make_model(recorded(), **waits).policy.optimizer)
        assert update_execution.can_be_captured(make_model(recorded()).policy.optimizer)

    def test_key_holds_what_is_read(self) -> None:
        model = make_model(recorded(), n_steps=2)
        buffer = model.replay_buffer
        read = {tensor.data_ptr() for tensor in buffer.tensors_to_take(2)}
        assert buffer._current_mirror().of("_breaks", buffer.breaks()).data_ptr() in read
        before = OneRun(model).constants()
        assert OneRun(model).constants() == before
        model.replay_buffer = model._new_buffer(recorded=buffer)
        assert OneRun(model).constants() == before  # nothing is online yet: the same tensors are read
        model.replay_buffer.recorded = recorded()
        assert OneRun(model).constants() != before

    def test_captured_needs_cuda(self) -> None:
        with pytest.raises(ValueError, match="acceleration is 'captured' on the device cpu, expected a CUDA device"):
            make_model(recorded(), acceleration="captured")

    def test_model_that_was_captured_acts_on_the_cpu(self, tmp_path: Path) -> None:
        model = make_model(recorded())
        model.acceleration = "captured"
        model.save(tmp_path / "model")
        loaded = DIPOLE.load(tmp_path / "model", dataset=recorded(), device="cpu")
        loaded.predict(np.zeros(4, np.float32))
        with pytest.raises(ValueError, match="acceleration is 'captured' on the device cpu, expected a CUDA device"):
            loaded.learn(2)
        DIPOLE.load(tmp_path / "model", dataset=recorded(), device="cpu", acceleration="eager").learn(2)

    def test_unknown_is_refused(self) -> None:
        with pytest.raises(ValueError, match="acceleration is 'fast', expected one of auto, eager, compiled, captured"):
            make_model(recorded(), acceleration="fast")

    def test_auto_is_eager_on_the_cpu(self) -> None:
        assert update_execution.chosen("auto", torch.device("cpu")) == "eager"
        assert update_execution.chosen("auto", torch.device("cuda")) == "captured"


@pytest.mark.cuda
class TestCuda:
    def models(self, **arguments: Any) -> list[DIPOLE]:
        return [
            make_model(recorded().to("cuda"), seed=3, device="cuda", acceleration=how, **arguments)
            for how in ("eager", "compiled", "captured")
        ]

    @pytest.mark.parametrize(
        "arguments", [{}, {"critic_target": "value"}, {"n_steps": 3}], ids=["policy", "value", "n"]
    )
    def test_eager_compiled_and_captured(self, arguments: dict[str, Any]) -> None:
        eager, compiled, graphs = (model.learn(40) for model in self.models(**arguments))
        assert_same(compiled, eager, CUDA_TOLERANCE)
        assert_same(graphs, eager, CUDA_TOLERANCE)

    def test_bfloat16_moves_the_networks_as_single_precision_does(self) -> None:
        start = parameters(make_model(recorded().to("cuda"), seed=3, device="cuda"))
        for single, half in zip(self.models(), self.models(precision="bf16"), strict=True):
            one, other = (parameters(model.learn(40)) - start for model in (single, half))
            assert torch.cosine_similarity(one, other, 0) > 0.99

    def test_recaptured_after_load_and_set_parameters(self, tmp_path: Any) -> None:
        ends = []
        for model in self.models():
            model.learn(25).save(tmp_path / "model")
            model.set_parameters(tmp_path / "model.zip")
            model.learn(25, reset_num_timesteps=False)
            ends.append(model)
            loaded = DIPOLE.load(tmp_path / "model", dataset=recorded(), device="cuda")
            loaded.learn(25, reset_num_timesteps=False)
            assert_same(loaded, model, CUDA_TOLERANCE)
        for model in ends[1:]:
            assert_same(model, ends[0], CUDA_TOLERANCE)

    def test_learning_rate_schedule(self) -> None:
        eager, _, graphs = (model.learn(40) for model in self.models(learning_rate=lambda progress: 1e-3 * progress))
        assert_same(graphs, eager, 1e-2)  # a replay of ten updates has one learning rate

    def test_several_runs(self) -> None:
        dataset = recorded().to("cuda")
        alone = [make_model(dataset, device="cuda", acceleration="eager", **run).learn(40) for run in RUNS[:2]]
        models = [make_model(dataset, device="cuda", acceleration="captured", **run) for run in RUNS[:2]]
        for one, other in zip(learn_together(models, 40), alone, strict=True):
            assert_same(one, other, CUDA_TOLERANCE)

    def test_pictures_in_stacks_and_crops(self) -> None:
        """Frames lie on the device, and the recording puts their stacks together there."""
        rows = record(image_env(12, 14, 3), 60)
        models = [
            DIPOLE(
                "CnnPolicy",
                dataset=stack_frames(OfflineReplayBuffer.from_arrays(rows, device="cuda"), 3),
                policy_kwargs={
                    "net_arch": [16],
                    "features_extractor_class": "impala-small",
                    "features_extractor_kwargs": {"features_dim": 8, "stack_sizes": (4,)},
                },
                random_crop=0.5,
                batch_size=16,
                seed=3,
                device="cuda",
                acceleration=how,
            ).learn(20)
            for how in ("eager", "captured")
        ]
        assert_same(models[1], models[0], CUDA_TOLERANCE)
