"""``precision``: which products of an update are made in bfloat16, what stays in single precision, what "auto" does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from algorithms import parameters_of, same_parameters, small
from sampled_environments import dict_env, image_env
from stable_baselines3.common.torch_layers import NatureCNN
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dipole_sb3 import DIPOLE, IDQL, OfflineReplayBuffer, learn_together
from dipole_sb3.learning import precision, updating_algorithm
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm
from dipole_sb3.learning.precision import products_in
from dipole_sb3.learning.update_execution import compiled
from dipole_sb3.networks.stacked_mlp import StackedMLP

Algorithm = type[OfflineAlgorithm]

WIDTH, OBSERVATION, ACTION = 48, 5, 3
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset() -> OfflineReplayBuffer:
    random = np.random.default_rng(0)
    seen = random.normal(size=(201, OBSERVATION)).astype(np.float32)
    return OfflineReplayBuffer.from_arrays(
        {
            "observations": seen[:-1],
            "next_observations": seen[1:],
            "actions": random.uniform(-1, 1, (200, ACTION)).astype(np.float32),
            "rewards": random.normal(size=200),
            "masks": np.ones(200),
        }
    )


@pytest.fixture
def make(algorithm: Algorithm, dataset: OfflineReplayBuffer) -> Callable[..., Any]:
    def made(**arguments: Any) -> Any:
        policy_kwargs = {"net_arch": [WIDTH] * 3}
        return small(algorithm, dataset=dataset, **{"policy_kwargs": policy_kwargs, "learning_rate": 1e-3, **arguments})

    return made


class Products(TorchDispatchMode):
    """Notes the types and shapes of matrix products, and how many tensors are cast to bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[torch.dtype, tuple[int, ...], tuple[int, ...]]] = []
        self.cast_weights = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name in ("bmm", "baddbmm"):
            left, right = arguments[-2:]
            assert left.dtype == right.dtype
            self.seen.append((left.dtype, tuple(left.shape), tuple(right.shape)))
        if name == "_to_copy" and kwargs.get("dtype") == torch.bfloat16:
            self.cast_weights += tuple(arguments[0].shape[-2:]) == (WIDTH, WIDTH)
        return function(*arguments, **(kwargs or {}))


def products_of(model: Any) -> Products:
    model.train(1, 32)
    with Products() as products:
        model.train(1, 32)
    return products


def drawn(model: Any) -> tuple[Any, ...]:
    """What one evaluation of the losses takes."""
    inputs = model._run.draw_inputs(32)
    return model.policy, model._run.gathered(inputs), inputs.noise, model.objective()


def test_products_between_hidden_layers_and_no_others(make: Callable[..., Any]) -> None:
    products = products_of(make(precision="bf16"))
    between = {torch.bfloat16: 0, torch.float32: 0}
    for dtype, left, right in products.seen:
        # In all passes, forward and backward, the two widths of a layer are among the sizes; a batch has 32 rows.
        # Residual blocks are four times as wide inside.
        narrow = all(size in (WIDTH, 4 * WIDTH, 32, 64) for size in (*left[1:], *right[1:]))
        assert dtype == (torch.bfloat16 if narrow else torch.float32), (left, right)
        between[dtype] += 1
    assert min(between.values()) > 5
    assert {dtype for dtype, _, _ in products_of(make(precision="fp32")).seen} == {torch.float32}


def test_weights_are_cast_once_and_not_per_flow_step(make: Callable[..., Any]) -> None:
    few = products_of(make(precision="bf16"))
    # A pass through each of at most five networks, or a second one; two layers, or four in residual blocks.
    assert 0 < few.cast_weights <= 2 * 8
    if hasattr(make(), "flow_steps"):
        many = products_of(make(precision="bf16", flow_steps=9))
        # More products where updates sample actions, and no more casts.
        samples = len(many.seen) > len(few.seen)
        assert samples == (type(make()).__name__ in ("DIPOLE", "FAWAC", "FQL"))
        assert many.cast_weights == few.cast_weights


def test_losses_values_and_gradients_are_those_of_single_precision_within_rounding(make: Callable[..., Any]) -> None:
    model = make().learn(50)
    if hasattr(model, "policy_delay"):
        drawn(model)  # an update in which the actor waits
    parameters = [each for each in model.policy.parameters() if each.requires_grad]

    def evaluated(products: Any, arguments: tuple[Any, ...]) -> tuple[Any, Tensor]:
        with products_in(products, CPU):
            outcome = model.update_rule.losses(*arguments)
        gradients = torch.autograd.grad(outcome.total, parameters, allow_unused=True)
        return outcome, torch.cat([each.flatten() for each in gradients if each is not None])

    for _ in range(20):
        arguments = drawn(model)
        (expected, exact), (found, near) = (evaluated(products, arguments) for products in ("fp32", "bf16"))
        better = [outcome.details.get("advantage", torch.zeros(1)) > 0 for outcome in (expected, found)]
        # An advantage that rounding moves past 0 changes CFGRL's loss by a whole transition.
        if torch.equal(*better):
            break
    assert not torch.equal(found.losses, expected.losses)
    torch.testing.assert_close(found.losses, expected.losses, rtol=0.02, atol=1e-4)
    for name, value in expected.details.items():
        assert found.details[name].dtype == torch.float32
        error = (found.details[name] - value).abs().max()
        assert error < 0.02 * value.abs().max(), name
    assert torch.cosine_similarity(near, exact, dim=0) > 0.999


def test_weights_targets_and_optimiser_stay_in_single_precision(make: Callable[..., Any]) -> None:
    model = make(precision="bf16").learn(3)
    tensors = [*model.policy.state_dict().values()]
    tensors += [each for state in model.policy.optimizer.state.values() for each in state.values()]
    assert {tensor.dtype for tensor in tensors if isinstance(tensor, Tensor)} == {torch.float32}


def test_small_differences_of_large_observations_are_seen(make: Callable[..., Any]) -> None:
    """A maze's positions: 36.0 and 36.1 are one number in bfloat16."""
    assert torch.tensor(36.0).bfloat16() == torch.tensor(36.1).bfloat16()
    critic = make().policy.critic
    observations = torch.full((2, OBSERVATION), 20.0)
    observations[:, 0] = torch.tensor([36.0, 36.1])
    with torch.no_grad(), products_in("bf16", CPU):
        there, beside = critic.head(observations, torch.zeros(2, ACTION)).unbind(-1)
    assert (there != beside).all()


def test_acting_stays_in_single_precision(make: Callable[..., Any]) -> None:
    model = make(precision="bf16")
    with Products() as products:
        model.predict(np.zeros((2, OBSERVATION), np.float32), deterministic=True)
    assert {dtype for dtype, _, _ in products.seen} == {torch.float32}


@pytest.mark.parametrize("kind", [DIPOLE, IDQL])
def test_compiled_losses_are_the_eager_ones(dataset: OfflineReplayBuffer, kind: Algorithm) -> None:
    """Of the two kinds of networks; in single precision, every algorithm's compiled updates are tested."""
    model = small(kind, dataset=dataset, policy_kwargs={"net_arch": [WIDTH] * 3})
    arguments = drawn(model)
    with products_in("bf16", CPU):
        eager = model.update_rule.losses(*arguments)
        fused = compiled(model.update_rule.losses)(*arguments)
    # A compiler leaves out some of the roundings between two operations.
    torch.testing.assert_close(fused.losses, eager.losses, rtol=0.02, atol=1e-4)


def test_runs_together_equal_runs_alone(make: Callable[..., Any]) -> None:
    alone = [make(seed=seed, precision="bf16").learn(6) for seed in (0, 1)]
    together = learn_together([make(seed=seed, precision="bf16") for seed in (0, 1)], 6)
    for one, other in zip(together, alone, strict=True):
        expected = parameters_of(other)
        for name, value in parameters_of(one).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-3, msg=name)


def test_runs_of_different_precisions_do_not_learn_together(make: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="precision"):
        learn_together([make(seed=0), make(seed=1, precision="bf16")], 2)


def test_unknown_name_is_refused(make: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="precision is 'fp16', expected one of auto, fp32, bf16"):
        make(precision="fp16")


def test_device_without_instructions(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda device: False)
    with pytest.warns(UserWarning, match="device cpu, which has no instructions"):
        make(precision="bf16")
    expected = parameters_of(make().learn(4))
    assert same_parameters(parameters_of(make(precision="auto").learn(4)), expected)


class TestAuto:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """What measuring finds is popped from here."""
        gains: list[float] = []
        # Both names of it: these tests say the same on processors with and without the instructions.
        monkeypatch.setattr(precision, "has_fast_bfloat16", lambda device: True)
        monkeypatch.setattr(updating_algorithm, "has_fast_bfloat16", lambda device: True)
        monkeypatch.setattr(precision, "measured_gain", lambda *_: gains.pop())
        return gains

    @pytest.mark.parametrize(("gain", "taken"), [(1.19, "fp32"), (1.21, "bf16")])
    def test_takes_what_is_faster(
        self,
        make: Callable[..., Any],
        asked: list[float],
        gain: float,
        taken: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        asked.append(gain)
        model = make(precision="auto", verbose=1).learn(4)
        assert model.product_type_found == taken
        line = f"Products of updates in {taken}: bfloat16 makes these networks {gain} times as fast"
        assert capsys.readouterr().out.count(line) == 1
        assert same_parameters(parameters_of(model), parameters_of(make(precision=taken).learn(4)))

    def test_measures_once_in_the_life_of_a_model(
        self, make: Callable[..., Any], asked: list[float], algorithm: Algorithm, tmp_path: Path
    ) -> None:
        asked += [1.5]
        make(precision="auto").learn(2).save(tmp_path / "model")
        loaded = algorithm.load(tmp_path / "model")
        assert (loaded.precision, loaded.product_type(32)) == ("auto", "bf16")

    def test_runs_together_measure_once_and_all_keep_the_answer(
        self, make: Callable[..., Any], asked: list[float]
    ) -> None:
        asked += [1.5]
        models = learn_together([make(seed=seed, precision="auto") for seed in (0, 1)], 2)
        assert [model.product_type_found for model in models] == ["bf16", "bf16"]


def test_measuring_leaves_nothing_behind(make: Callable[..., Any]) -> None:
    model = make()
    before, state = parameters_of(model), torch.get_rng_state()
    assert precision.measured_gain(precision.measured_parts(model.policy), 32, CPU) > 0
    assert same_parameters(parameters_of(model), before)
    assert all(parameter.grad is None for parameter in model.policy.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("env", "policy"), [(image_env(), "CnnPolicy"), (dict_env(), "MultiInputPolicy")])
def test_encoders_of_images_are_measured(env: Any, policy: str) -> None:
    """They take nearly all the time of an update."""
    model = small(DIPOLE, policy, env, policy_kwargs={"net_arch": [8], "features_extractor_class": "nature"})
    parts = precision.measured_parts(model.policy)
    encoders = [part for part in model.policy.modules() if isinstance(part, NatureCNN)]
    assert len(encoders) > 1
    assert [part for part in parts if not isinstance(part, StackedMLP)] == encoders
    assert precision.measured_gain(parts, 256, CPU) > 0
