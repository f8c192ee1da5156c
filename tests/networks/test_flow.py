"""The path, the guided combination and the Euler sampler against fields with a known solution."""

import math

import pytest
import torch
from closed_forms import convergence_order
from torch import Tensor

from dipole_sb3.networks.flow import guide, guided, integrate_euler, interpolate, sample_actions, uniform_schedule

STEPS = (8, 16, 32, 64, 128, 256)


class TestPath:
    def test_by_hand(self) -> None:
        noise, action = torch.tensor([[0.0, 2.0], [1.0, 1.0]]), torch.tensor([[1.0, -2.0], [0.0, 1.0]])
        x, velocity = interpolate(noise, action, torch.tensor([[0.25], [0.5]]))
        assert x.tolist() == [[0.25, 1.0], [0.5, 1.0]]
        assert velocity.tolist() == [[1.0, -4.0], [-1.0, 0.0]]

    def test_noise_at_zero_and_action_at_one(self) -> None:
        noise, action = torch.randn(5, 3), torch.randn(5, 3)
        assert torch.equal(interpolate(noise, action, torch.zeros(5, 1))[0], noise)
        torch.testing.assert_close(interpolate(noise, action, torch.ones(5, 1))[0], action)

    def test_velocity_carries_any_point_to_the_action(self) -> None:
        noise, action, time = torch.randn(5, 3), torch.randn(5, 3), torch.rand(5, 1)
        x, velocity = interpolate(noise, action, time)
        torch.testing.assert_close(x + (1 - time) * velocity, action)
        torch.testing.assert_close(x - time * velocity, noise)


class TestGuide:
    def test_by_hand(self) -> None:
        # 3·v⁺ − 2·v⁻ at ω = 2.
        velocity = guide(torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5, 2.0]]), 2.0)
        assert velocity.tolist() == [[2.0, -7.0]]

    @pytest.mark.parametrize("as_tensor", [False, True])
    def test_zero_is_the_positive_field_to_the_bit(self, as_tensor: bool) -> None:
        positive, negative = torch.randn(64, 3), 1e3 * torch.randn(64, 3)
        assert torch.equal(guide(positive, negative, torch.zeros(64, 1) if as_tensor else 0.0), positive)

    @pytest.mark.parametrize("as_tensor", [False, True])
    def test_minus_one_is_the_negative_field_to_the_bit(self, as_tensor: bool) -> None:
        positive, negative = 1e3 * torch.randn(64, 3), torch.randn(64, 3)
        assert torch.equal(guide(positive, negative, -torch.ones(64, 1) if as_tensor else -1.0), negative)

    def test_equal_fields_are_left_alone(self) -> None:
        field = torch.randn(64, 3)
        torch.testing.assert_close(guide(field, field, 7.0), field)

    def test_one_omega_per_row(self) -> None:
        positive, negative = torch.randn(4, 3), torch.randn(4, 3)
        omegas = [-1.0, 0.0, 0.5, 4.0]
        rows = guide(positive, negative, torch.tensor(omegas).unsqueeze(1))
        for row, omega in enumerate(omegas):
            assert torch.equal(rows[row], guide(positive[row], negative[row], omega))

    def test_any_pair_of_callables(self) -> None:
        field = guided(lambda x, time: x + time, lambda x, time: -x, 0.5)
        # 1.5·(2 + 0.25) − 0.5·(−2)
        assert field(torch.tensor([2.0]), torch.tensor(0.25)).item() == pytest.approx(4.375)


class TestSchedule:
    def test_equal_steps_from_zero_to_one(self) -> None:
        assert uniform_schedule(4) == [0.0, 0.25, 0.5, 0.75, 1.0]
        assert uniform_schedule(1) == [0.0, 1.0]

    @pytest.mark.parametrize("steps", [0, -1])
    def test_no_steps_are_refused(self, steps: int) -> None:
        with pytest.raises(ValueError, match=f"at least 1, found {steps}"):
            uniform_schedule(steps)


class TestEuler:
    def test_two_steps_by_hand(self) -> None:
        # dx/dt = x + t from 1 with steps 0.5: 1 + 0.5·(1 + 0) = 1.5, then 1.5 + 0.5·(1.5 + 0.5) = 2.5.
        assert integrate_euler(lambda x, time: x + time, torch.ones(1), uniform_schedule(2)).item() == 2.5

    def test_field_is_read_at_the_left_ends(self) -> None:
        seen: list[float] = []

        def velocity(x: Tensor, time: Tensor) -> Tensor:
            assert time.shape == ()
            assert time.dtype == x.dtype
            seen.append(time.item())
            return torch.zeros_like(x)

        integrate_euler(velocity, torch.zeros(2, 1, dtype=torch.float64), uniform_schedule(5))
        assert seen == [0.0, 0.2, 0.4, 0.6, 0.8]

    def test_uneven_schedule(self) -> None:
        # The step sizes are the schedule's differences: dx/dt = t over 0 → 0.5 → 2 gives 0·0.5 + 0.5·1.5.
        assert integrate_euler(lambda x, time: time.expand_as(x), torch.zeros(1), [0.0, 0.5, 2.0]).item() == 0.75

    @pytest.mark.parametrize("steps", [1, 2, 8])
    def test_straight_field_is_exact(self, steps: int) -> None:
        start, shift = torch.tensor([[0.5, -1.0]]), torch.tensor([[0.25, 2.0]])
        # Binary fractions: no rounding hides an error.
        assert torch.equal(integrate_euler(lambda x, time: shift, start, uniform_schedule(steps)), start + shift)

    def test_linear_field_converges_with_order_one(self) -> None:
        # dx/dt = a·x + b + c·t has x(1) = (x₀ + b/a + c/a²)·eᵃ − (b + c)/a − c/a².
        a, b, c = -1.3, 0.7, 2.0
        start = torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(1)
        exact = (start + b / a + c / a**2) * math.exp(a) - (b + c) / a - c / a**2

        def velocity(x: Tensor, time: Tensor) -> Tensor:
            return a * x + b + c * time

        errors = {
            steps: (integrate_euler(velocity, start, uniform_schedule(steps)) - exact).abs().max().item()
            for steps in STEPS
        }
        assert 0.9 < convergence_order(errors) < 1.1
        assert errors[256] < 0.01

    def test_rotation_couples_the_dimensions(self) -> None:
        # dx/dt = (−θ·y, θ·x) turns by θ in unit time.
        theta = 1.0
        start = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
        turn = torch.tensor([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]]).double()

        def velocity(x: Tensor, time: Tensor) -> Tensor:
            return theta * torch.stack([-x[:, 1], x[:, 0]], dim=1)

        errors = {
            steps: (integrate_euler(velocity, start, uniform_schedule(steps)) - start @ turn.T).abs().max().item()
            for steps in STEPS
        }
        assert 0.9 < convergence_order(errors) < 1.1
        assert errors[256] < 0.01


class TestClipping:
    def test_ends_are_clipped(self) -> None:
        start = torch.tensor([[-3.0, 0.25, 3.0]])
        assert sample_actions(lambda x, time: torch.zeros_like(x), start, 4).tolist() == [[-1.0, 0.25, 1.0]]

    def test_paths_may_leave_the_box_on_the_way(self) -> None:
        # Two steps from 0: +3·0.5 = 1.5, outside; then −2·0.5 back to 0.5. Clipped on the way it would end in 0.
        def velocity(x: Tensor, time: Tensor) -> Tensor:
            return torch.where(time < 0.5, 3.0, -2.0).expand_as(x)

        assert sample_actions(velocity, torch.zeros(1, 1), 2).item() == 0.5

    def test_noise_outside_the_box_is_not_clipped_first(self) -> None:
        assert sample_actions(lambda x, time: torch.full_like(x, -1.5), torch.tensor([[2.0]]), 1).item() == 0.5

    def test_integrator_alone_does_not_clip(self) -> None:
        end = integrate_euler(lambda x, time: torch.full_like(x, 5.0), torch.zeros(1), uniform_schedule(10))
        assert end.item() == pytest.approx(5.0)
