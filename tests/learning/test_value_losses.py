"""Expectile regression, ensembles, bootstrapped returns and target networks against numbers worked out by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.learning.value_losses import aggregate, bootstrapped_returns, expectile_loss, polyak_step

examples = settings(max_examples=100, deadline=None)


class TestExpectileLoss:
    def test_by_hand(self) -> None:
        # Under-estimates (u > 0) weigh τ, over-estimates 1 − τ: (0.9·2² + 0.1·1² + 0.9·0²)/3.
        loss = expectile_loss(torch.tensor([2.0, -1.0, 0.0]), 0.9)
        assert loss.shape == ()
        assert loss.item() == pytest.approx((0.9 * 4 + 0.1 * 1) / 3)

    def test_one_half_is_half_the_squared_error(self) -> None:
        error = torch.randn(50)
        assert expectile_loss(error, 0.5).item() == pytest.approx(0.5 * error.square().mean().item(), rel=1e-5)

    @examples
    @given(
        st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=10),
        st.floats(0.05, 0.95),
        st.floats(-5, 5),
    )
    def test_gradient_is_the_expectile_condition(self, values: list[float], tau: float, guess: float) -> None:
        # The τ-expectile m solves τ·Σ(y − m)₊ = (1 − τ)·Σ(m − y)₊ (Newey and Powell 1987): minus twice the difference
        # of the two sides, over n, is the derivative of the loss at any m.
        targets = torch.tensor(values, dtype=torch.float64)
        m = torch.tensor(guess, dtype=torch.float64, requires_grad=True)
        expectile_loss(targets - m, tau).backward()
        above = sum(max(y - guess, 0.0) for y in values)
        below = sum(max(guess - y, 0.0) for y in values)
        assert m.grad is not None
        assert m.grad.item() == pytest.approx(-2 * (tau * above - (1 - tau) * below) / len(values), rel=1e-6, abs=1e-6)

    def test_expectile_of_two_points(self) -> None:
        # Of {0, 1} the τ-expectile is τ itself.
        grid = torch.linspace(0, 1, 1001, dtype=torch.float64)
        losses = [expectile_loss(torch.tensor([0.0, 1.0], dtype=torch.float64) - m, 0.7).item() for m in grid]
        assert grid[int(np.argmin(losses))].item() == pytest.approx(0.7)


class TestAggregate:
    values = torch.tensor([[1.0, 5.0, -3.0], [2.0, 3.0, -5.0]])

    def test_min(self) -> None:
        assert aggregate(self.values, "min").tolist() == [1.0, 3.0, -5.0]

    def test_mean(self) -> None:
        assert aggregate(self.values, "mean").tolist() == [1.5, 4.0, -4.0]

    def test_unknown_is_refused(self) -> None:
        with pytest.raises(ValueError, match="unknown aggregation 'max': expected 'min' or 'mean'"):
            aggregate(self.values, "max")  # type: ignore[arg-type]


class TestBootstrappedReturns:
    rewards = torch.tensor([[1.0, 2.0, 4.0], [8.0, 0.0, 0.0]])
    masks, value = torch.tensor([1.0, 0.0]), torch.tensor([16.0, 32.0])

    def test_one_step(self) -> None:
        nothing = torch.zeros(2, 1)
        batch = Batch(nothing, nothing, self.rewards[:, 0], nothing, self.masks)
        assert bootstrapped_returns(batch, 0.5, self.value).tolist() == [1 + 8.0, 8.0]

    @pytest.mark.parametrize("gamma", [0.5, torch.tensor([[0.5]])])
    def test_several_steps(self, gamma: float) -> None:
        # 1 + 2/2 + 4/4 + 16/8; the second ends after one step.
        nothing = torch.zeros(2, 1)
        batch = Batch(nothing, nothing, self.rewards, nothing, self.masks, torch.tensor([3.0, 1.0]))
        assert bootstrapped_returns(batch, gamma, self.value).flatten().tolist() == [5.0, 8.0]


def test_a_polyak_step_moves_the_target_by_the_rate_and_copies_statistics() -> None:
    target, source = (torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)) for _ in range(2))
    source(torch.randn(5, 2))
    before = [parameter.clone() for parameter in target.parameters()]
    with torch.no_grad():
        polyak_step(target, source, 0.25)
    for old, new, online in zip(before, target.parameters(), source.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * online)
    assert torch.equal(target[1].running_mean, source[1].running_mean)
