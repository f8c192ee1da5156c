"""The stacked perceptrons against layer-by-layer arithmetic and against separate ``nn.Linear`` networks."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from closed_forms import as_numpy, gelu_tanh, perceptron, randomize
from torch import Tensor, nn

from dipole_sb3.networks.heads import QEnsemble, StateValue
from dipole_sb3.networks.stacked_mlp import ACTIVATIONS, StackedLinear, StackedMLP, make_activation
from dipole_sb3.networks.velocities import VelocityPair, time_embedding


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def separate_network(stack: StackedMLP, member: int) -> nn.Sequential:
    """The same network from torch's own layers, with one member's weights copied into it."""
    layers: list[nn.Module] = []
    for depth, hidden in enumerate(stack.hidden):
        layers += [nn.Linear(*hidden.weight.shape[1:]), nn.GELU(approximate="tanh")]
        if stack.norms:
            layers.append(nn.LayerNorm(hidden.weight.shape[2], eps=1e-6))
            with torch.no_grad():
                layers[-1].weight.copy_(stack.norms[depth].weight[member, 0])
                layers[-1].bias.copy_(stack.norms[depth].bias[member, 0])
    layers.append(nn.Linear(*stack.output.weight.shape[1:]))
    linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for linear, source in zip(linears, [*stack.hidden, stack.output], strict=True):
            linear.weight.copy_(source.weight[member].T)
            linear.bias.copy_(source.bias[member, 0])
    return nn.Sequential(*layers)


class TestActivations:
    x = np.linspace(-4, 4, 33)

    @pytest.mark.parametrize(
        ("name", "formula"),
        [
            ("gelu-tanh", gelu_tanh),
            ("gelu", lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))),
            ("tanh", np.tanh),
            ("mish", lambda x: x * np.tanh(np.log1p(np.exp(x)))),
            ("relu", lambda x: np.maximum(x, 0)),
            ("silu", lambda x: x / (1 + np.exp(-x))),
        ],
    )
    def test_formula(self, name: str, formula: object) -> None:
        found = make_activation(name)(torch.from_numpy(self.x)).numpy()
        np.testing.assert_allclose(found, formula(self.x), atol=1e-12)  # type: ignore[operator]

    def test_the_two_gelus_differ(self) -> None:
        x = torch.tensor(2.0)
        assert make_activation("gelu-tanh")(x).item() != make_activation("gelu")(x).item()

    def test_torch_module_class(self) -> None:
        assert make_activation(nn.ELU)(torch.tensor(-1.0)).item() == pytest.approx(math.exp(-1) - 1)

    def test_unknown_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"unknown activation_fn 'geluu': expected one of \['gelu', 'gelu-tanh'"):
            make_activation("geluu")


class TestInitialization:
    def test_xavier_uniform_kernels_and_zero_biases(self) -> None:
        torch.manual_seed(0)
        stack = StackedMLP(2, 30, 7, [200, 100], "tanh", layer_norm=True)
        layers = {(30, 200): stack.hidden[0], (200, 100): stack.hidden[1], (100, 7): stack.output}
        for (fan_in, fan_out), layer in layers.items():
            bound = math.sqrt(6 / (fan_in + fan_out))
            for weight in layer.weight:
                assert weight.shape == (fan_in, fan_out)
                assert weight.abs().max().item() <= bound
                # A uniform law fills its interval; its standard deviation is the bound over √3.
                assert weight.max().item() > 0.98 * bound
                assert weight.min().item() < -0.98 * bound
                assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.06)
            assert not layer.bias.any()
        assert len(stack.norms) == 2
        for norm in stack.norms:
            assert bool((norm.weight == 1).all())
            assert not norm.bias.any()

    def test_members_start_apart(self) -> None:
        weight = StackedLinear(2, 50, 50).weight
        correlation = np.corrcoef(weight[0].detach().flatten(), weight[1].detach().flatten())[0, 1]
        assert abs(correlation) < 0.1


class TestCompiledActivations:
    @pytest.mark.parametrize("name", ["gelu-tanh", "mish"])
    def test_what_compilers_are_given_is_the_same_function(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        x = torch.linspace(-40, 90, 13001, dtype=torch.float64, requires_grad=True)
        values, gradients = [], []
        for compiling in (False, True):
            monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
            values.append(ACTIVATIONS[name](x))
            gradients += torch.autograd.grad(values[-1].sum(), x)
        torch.testing.assert_close(*values, rtol=0, atol=1e-13)
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-13)
        assert torch.isfinite(ACTIVATIONS[name](x.detach().float())).all()


class TestStackedMLP:
    @pytest.mark.parametrize("layer_norm", [False, True])
    @pytest.mark.parametrize("net_arch", [[5], [6, 4, 3]])
    def test_layer_by_layer(self, layer_norm: bool, net_arch: list[int]) -> None:
        stack = StackedMLP(3, 4, 2, net_arch, "gelu-tanh", layer_norm)
        randomize(stack, generator())
        x = torch.randn(6, 4, generator=generator(1))
        expected = np.stack([perceptron(as_numpy(stack), x.double().numpy(), member) for member in range(3)])
        np.testing.assert_allclose(stack(x).detach(), expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("layer_norm", [False, True])
    def test_equals_separate_networks_and_their_gradients(self, layer_norm: bool) -> None:
        stack = StackedMLP(2, 4, 2, [6, 5], "gelu-tanh", layer_norm)
        randomize(stack, generator())
        x, target = torch.randn(7, 4, generator=generator(1)), torch.randn(2, 7, 2, generator=generator(2))
        (stack(x) - target).square().sum().backward()
        for member in range(2):
            alone = separate_network(stack, member)
            torch.testing.assert_close(stack(x)[member], alone(x), rtol=1e-5, atol=1e-5)
            (alone(x) - target[member]).square().sum().backward()
            for linear, source in zip(
                [layer for layer in alone if isinstance(layer, nn.Linear)], [*stack.hidden, stack.output], strict=True
            ):
                torch.testing.assert_close(source.weight.grad[member], linear.weight.grad.T, rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(source.bias.grad[member, 0], linear.bias.grad, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("layer_norm", [False, True])
    def test_fixed_columns_and_chosen_members_give_their_part_of_the_stack(self, layer_norm: bool) -> None:
        stack = StackedMLP(2, 4, 2, [6, 5], "mish", layer_norm)
        randomize(stack, generator())
        x = torch.randn(7, 4, generator=generator(1))
        for columns in range(4):
            for member in (0, 1, None):
                continued = stack.with_fixed(x[:, :columns], member)
                expected = stack(x) if member is None else stack(x)[member]
                torch.testing.assert_close(continued(x[:, columns:]), expected, rtol=1e-5, atol=1e-6)

    def test_gradient_stays_with_its_member(self) -> None:
        stack = StackedMLP(2, 4, 2, [6, 5], "gelu-tanh", layer_norm=True)
        stack(torch.randn(7, 4))[1].square().sum().backward()
        for name, parameter in stack.named_parameters():
            assert parameter.grad is not None
            assert not parameter.grad[0].any(), name
            assert parameter.grad[1].any(), name

    def test_output_is_not_squashed(self) -> None:
        stack = StackedMLP(1, 1, 1, [8], "tanh", layer_norm=False)
        with torch.no_grad():
            stack.output.bias.fill_(100.0)
        assert stack(torch.zeros(1, 1)).item() == pytest.approx(100.0)


class TestLayerNorm:
    def test_epsilon(self) -> None:
        # Hidden units {0, 2e-3}: mean 1e-3, variance 1e-6, so ±1e-3/√(1e-6 + 1e-6) = ±1/√2. With ε = 1e-5: ±0.30.
        stack = StackedMLP(1, 2, 2, [2], "relu", layer_norm=True)
        with torch.no_grad():
            for layer in (stack.hidden[0], stack.output):
                layer.weight.copy_(torch.eye(2))
        expected = torch.tensor([[[-math.sqrt(0.5), math.sqrt(0.5)]]])
        torch.testing.assert_close(stack(torch.tensor([[0.0, 2e-3]])), expected, rtol=1e-4, atol=0)

    def test_follows_the_activation(self) -> None:
        # The last hidden layer is normalised after its activation: a constant output layer of ones reads a sum of 0.
        stack = StackedMLP(1, 3, 1, [16], "relu", layer_norm=True)
        with torch.no_grad():
            stack.output.weight.fill_(1.0)
        torch.testing.assert_close(stack(torch.randn(5, 3)), torch.zeros(1, 5, 1), rtol=0, atol=1e-4)

    def test_before_the_activation(self) -> None:
        # Hidden units {0, 2e-3} become ±1/√2, then the negative one is cut off.
        stack = StackedMLP(1, 2, 2, [2], "relu", layer_norm=True, norm_order="before")
        with torch.no_grad():
            for layer in (stack.hidden[0], stack.output):
                layer.weight.copy_(torch.eye(2))
        expected = torch.tensor([[[0.0, math.sqrt(0.5)]]])
        torch.testing.assert_close(stack(torch.tensor([[0.0, 2e-3]])), expected, rtol=1e-4, atol=0)

    def test_of_the_first_layers_alone(self) -> None:
        stack = StackedMLP(2, 3, 1, [6, 5, 4], "mish", layer_norm=2)
        assert [norm.weight.shape[-1] for norm in stack.norms] == [6, 5]
        randomize(stack, generator())
        x = torch.randn(7, 3)
        for member, found in enumerate(stack(x)):
            expected = perceptron(as_numpy(stack), x.double().numpy(), member, mish)
            np.testing.assert_allclose(found.detach(), expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"layer_norm": 3}, "layer_norm is 3, expected True, False or a number of layers of at most 2"),
            ({"layer_norm": True, "norm_order": "first"}, "norm_order is 'first', expected one of"),
            ({"layer_norm": False, "output_init": "zero"}, "output_init is 'zero', expected one of"),
        ],
    )
    def test_what_is_unknown_is_refused(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            StackedMLP(1, 3, 1, [4, 4], "relu", **arguments)


def mish(x: np.ndarray) -> np.ndarray:
    return x * np.tanh(np.logaddexp(0, x))


def test_a_normal_last_layer_has_variance_one_over_its_inputs_and_is_cut_off_at_two_deviations() -> None:
    torch.manual_seed(0)
    weight = StackedMLP(3, 4, 100, [400], "relu", layer_norm=False, output_init="lecun").output.weight.detach()
    assert weight.std().item() == pytest.approx(1 / math.sqrt(400), rel=0.02)
    assert weight.abs().max().item() <= 2 / math.sqrt(400) / 0.8796 + 1e-6


def test_frozen_parameters_get_no_gradient_and_inputs_do() -> None:
    critics = QEnsemble(3, 2, [8, 6], "gelu-tanh")
    features, actions = torch.randn(5, 3, requires_grad=True), torch.randn(5, 2, requires_grad=True)
    torch.testing.assert_close(critics(features, actions, frozen=True), critics(features, actions))
    critics(features, actions, frozen=True).sum().backward()
    assert all(parameter.grad is None for parameter in critics.parameters())
    frozen = actions.grad.clone()
    actions.grad = None
    critics(features, actions).sum().backward()
    torch.testing.assert_close(actions.grad, frozen)


class TestTimeEmbedding:
    def test_raw(self) -> None:
        time = torch.rand(5, 1)
        assert torch.equal(time_embedding(time, 1), time)

    def test_frequencies_from_one_to_a_thousand(self) -> None:
        time = torch.tensor([[0.3], [1.0]], dtype=torch.float64)
        angles = time.numpy() * np.array([1.0, 10.0, 100.0, 1000.0])
        expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
        np.testing.assert_allclose(time_embedding(time, 8), expected, atol=1e-9)

    def test_frequencies_of_the_published_networks(self) -> None:
        # 10000·10000^(−i/8), i = 0 … 7: what configs/tuned/exorl_networks.yaml asks for, from the lowest.
        time = torch.tensor([[0.3], [1.0]], dtype=torch.float64)
        angles = time.numpy() * 10_000.0 * 10_000.0 ** (-np.arange(8)[::-1] / 8)
        expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
        np.testing.assert_allclose(time_embedding(time, 16, 3.1622776601683795, 10_000.0), expected, atol=1e-9)


class TestVelocityPair:
    def pair(self, time_features: int = 1, layer_norm: bool = False) -> VelocityPair:
        pair = VelocityPair(3, 2, [8, 6], "gelu-tanh", layer_norm, time_features)
        randomize(pair, generator())
        return pair

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        source = generator(1)
        return (
            torch.randn(5, 3, generator=source),
            torch.randn(5, 2, generator=source),
            torch.rand(5, 1, generator=source),
        )

    @pytest.mark.parametrize("layer_norm", [False, True])
    def test_reads_features_point_and_time(self, layer_norm: bool) -> None:
        pair, (features, x, time) = self.pair(layer_norm=layer_norm), self.inputs()
        joined = np.concatenate([features.numpy(), x.numpy(), time.numpy()], axis=1).astype(np.float64)
        for member, velocity in enumerate(pair(features, x, time)):
            expected = perceptron(as_numpy(pair.mlp), joined, member)
            np.testing.assert_allclose(velocity.detach(), expected, rtol=1e-5, atol=1e-5)

    def test_reads_sinusoidal_time(self) -> None:
        pair, (features, x, time) = self.pair(time_features=4), self.inputs()
        angles = time.double().numpy() * np.array([1.0, 1000.0])
        joined = np.concatenate([features.numpy(), x.numpy(), np.sin(angles), np.cos(angles)], axis=1)
        for member, velocity in enumerate(pair(features, x, time)):
            # The sine of 1000·t in single precision carries an error of about 1e-4.
            np.testing.assert_allclose(
                velocity.detach(), perceptron(as_numpy(pair.mlp), joined, member), rtol=1e-2, atol=2e-3
            )

    @pytest.mark.parametrize("time_features", [1, 4])
    def test_scalar_time_is_one_time_for_all_rows(self, time_features: int) -> None:
        pair, (features, x, _) = self.pair(time_features), self.inputs()
        for scalar, column in zip(
            pair(features, x, torch.tensor(0.3)), pair(features, x, torch.full((5, 1), 0.3)), strict=True
        ):
            assert torch.equal(scalar, column)

    def test_each_field_alone(self) -> None:
        pair, inputs = self.pair(), self.inputs()
        positive, negative = pair(*inputs)
        features, x, time = inputs
        torch.testing.assert_close(pair.positive_field(features)(x, time), positive, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(pair.negative_field(features)(x, time), negative, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(positive, negative)

    @pytest.mark.parametrize("time_features", [0, -2, 3])
    def test_odd_time_features_are_refused(self, time_features: int) -> None:
        with pytest.raises(ValueError, match=f"1 or an even number, found {time_features}"):
            self.pair(time_features)


class TestValues:
    def test_critics_read_features_and_actions(self) -> None:
        critics = QEnsemble(3, 2, [8, 6], "gelu-tanh")
        randomize(critics, generator())
        features, actions = torch.randn(5, 3), torch.randn(5, 2)
        values = critics(features, actions)
        assert values.shape == (2, 5)
        joined = np.concatenate([features.numpy(), actions.numpy()], axis=1).astype(np.float64)
        for member in range(2):
            expected = perceptron(as_numpy(critics.mlp), joined, member)[:, 0]
            np.testing.assert_allclose(values[member].detach(), expected, rtol=1e-5, atol=1e-5)

    def test_state_value(self) -> None:
        value = StateValue(3, [8, 6], "gelu-tanh")
        randomize(value, generator())
        features = torch.randn(5, 3)
        found = value(features)
        assert found.shape == (5,)
        expected = perceptron(as_numpy(value.mlp), features.double().numpy(), 0)[:, 0]
        np.testing.assert_allclose(found.detach(), expected, rtol=1e-5, atol=1e-5)

    def test_values_are_always_layer_normalized(self) -> None:
        assert len(QEnsemble(3, 2, [8, 6], "tanh").mlp.norms) == 2
        assert len(StateValue(3, [8, 6], "tanh").mlp.norms) == 2
