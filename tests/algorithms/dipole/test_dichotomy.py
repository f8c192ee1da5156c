"""Weights, pair losses and group advantages against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dipole_sb3.algorithms.dipole.dichotomy import (
    dichotomous_weights,
    group_advantage,
)
from dipole_sb3.networks.flow import flow_loss

examples = settings(max_examples=100, deadline=None)
advantages = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20).map(torch.tensor)
betas = st.floats(1e-3, 1e3)
shifts = st.floats(-20.0, 20.0)


class TestWeights:
    def test_sigmoid_of_scaled_and_shifted_advantage(self) -> None:
        # β·G + k = 2·G − 1 hits ln 3, 0 and −ln 3, where σ is 3/4, 1/2 and 1/4.
        logits = torch.tensor([math.log(3), 0.0, -math.log(3)])
        positive, negative = dichotomous_weights((logits + 1.0) / 2.0, beta=2.0, shift=-1.0)
        torch.testing.assert_close(positive, torch.tensor([0.75, 0.5, 0.25]))
        torch.testing.assert_close(negative, torch.tensor([0.25, 0.5, 0.75]))

    def test_shift_is_zero_by_default(self) -> None:
        positive, negative = dichotomous_weights(torch.zeros(3), beta=5.0)
        assert positive.tolist() == negative.tolist() == [0.5] * 3

    @examples
    @given(advantages, betas, shifts)
    def test_bounded_and_sum_to_one(self, advantage: torch.Tensor, beta: float, shift: float) -> None:
        positive, negative = dichotomous_weights(advantage, beta, shift)
        assert positive.shape == negative.shape == advantage.shape
        for weight in (positive, negative):
            assert bool(((weight >= 0) & (weight <= 1)).all())
        torch.testing.assert_close(positive + negative, torch.ones_like(advantage), rtol=0, atol=2e-7)

    @examples
    @given(advantages, betas, shifts)
    def test_monotone_in_the_advantage(self, advantage: torch.Tensor, beta: float, shift: float) -> None:
        positive, negative = dichotomous_weights(advantage.sort().values, beta, shift)
        assert bool((positive.diff() >= 0).all())
        assert bool((negative.diff() <= 0).all())

    @examples
    @given(st.floats(-15.0, 15.0), betas, shifts)
    def test_odds_are_the_exponential_weight(self, logit: float, beta: float, shift: float) -> None:
        # w⁺/w⁻ = exp(βG + k): the identity that makes guidance by ω equal to reweighting by exp(ωβG).
        advantage = torch.tensor((logit - shift) / beta, dtype=torch.float64)
        positive, negative = dichotomous_weights(advantage, beta, shift)
        assert math.log(positive.item() / negative.item()) == pytest.approx(logit, abs=1e-9)

    @pytest.mark.parametrize(("logit", "expected"), [(1e30, (1.0, 0.0)), (-1e30, (0.0, 1.0)), (math.inf, (1.0, 0.0))])
    def test_extreme_logits_saturate(self, logit: float, expected: tuple[float, float]) -> None:
        positive, negative = dichotomous_weights(torch.tensor(logit), beta=1.0)
        assert (positive.item(), negative.item()) == expected

    def test_small_weight_keeps_its_digits(self) -> None:
        # 1 − σ(30) computed by subtraction is 0 in single precision; it is e⁻³⁰ to seven digits.
        _, negative = dichotomous_weights(torch.tensor(30.0), beta=1.0)
        assert negative.item() == pytest.approx(math.exp(-30.0), rel=1e-5, abs=0)

    def test_no_gradient(self) -> None:
        advantage = torch.tensor([0.3, -2.0], requires_grad=True)
        for weight in dichotomous_weights(advantage, beta=1.0, shift=0.5):
            assert not weight.requires_grad


class TestWeightedFlowLoss:
    velocity = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    target = torch.tensor([[0.0, 4.0], [3.0, -1.0]])

    def test_by_hand(self) -> None:
        # Rows: (1² + 2²)/2 = 2.5 and (3² + 0²)/2 = 4.5; weighted 0.2·2.5 + 0.8·4.5 = 4.1; batch mean 2.05.
        loss = flow_loss(self.velocity, self.target, torch.tensor([0.2, 0.8]))
        assert loss.shape == ()
        assert loss.item() == pytest.approx(2.05)

    def test_gradient_by_hand(self) -> None:
        # ∂/∂v = w · 2(v − u) / (dimensions · batch).
        velocity = self.velocity.clone().requires_grad_()
        flow_loss(velocity, self.target, torch.tensor([0.2, 0.8])).backward()
        expected = torch.tensor([[0.2 * 1.0, 0.2 * -2.0], [0.8 * -3.0, 0.0]]) * 2 / 4
        torch.testing.assert_close(velocity.grad, expected)

    def test_leading_dimensions_are_kept(self) -> None:
        loss = flow_loss(torch.stack([self.velocity, self.target]), self.target, torch.tensor([[0.2, 0.8], [1.0, 1.0]]))
        torch.testing.assert_close(loss, torch.tensor([2.05, 0.0]))

    def test_pair_shares_the_unweighted_loss(self) -> None:
        # With v⁺ = v⁻ the two losses add up to plain flow matching, whatever the advantage.
        velocity, target = torch.randn(7, 3), torch.randn(7, 3)
        weights = dichotomous_weights(torch.randn(7) * 10, beta=2.0, shift=-1.0)
        total = sum(flow_loss(velocity, target, weight).item() for weight in weights)
        assert total == pytest.approx(np.square(velocity.numpy() - target.numpy()).mean(), rel=1e-5)


class TestGroupAdvantage:
    def test_by_hand(self) -> None:
        # {1, 3}: mean 2, standard deviation 1. {0, 0, 3, 3} has 1.5 and 1.5.
        torch.testing.assert_close(group_advantage(torch.tensor([1.0, 3.0])), torch.tensor([-1.0, 1.0]))
        torch.testing.assert_close(
            group_advantage(torch.tensor([0.0, 0.0, 3.0, 3.0])), torch.tensor([-1.0, -1.0, 1.0, 1.0])
        )

    def test_groups_do_not_mix(self) -> None:
        rewards = torch.tensor([[1.0, 3.0], [100.0, 300.0]])
        torch.testing.assert_close(group_advantage(rewards), torch.tensor([[-1.0, 1.0], [-1.0, 1.0]]))

    def test_equal_rewards_give_zeros(self) -> None:
        assert group_advantage(torch.full((2, 4), 7.0)).tolist() == [[0.0] * 4] * 2

    @examples
    @given(
        st.lists(st.integers(-100, 100), min_size=2, max_size=12).filter(lambda values: len(set(values)) > 1),
        st.floats(0.1, 10.0),
        st.floats(-100.0, 100.0),
    )
    def test_mean_zero_unit_spread_and_blind_to_scale(self, values: list[int], scale: float, offset: float) -> None:
        rewards = torch.tensor(values, dtype=torch.float64)
        advantage = group_advantage(rewards)
        assert advantage.mean().item() == pytest.approx(0.0, abs=1e-9)
        assert advantage.square().mean().item() == pytest.approx(1.0, rel=1e-4)
        torch.testing.assert_close(group_advantage(scale * rewards + offset), advantage, rtol=1e-3, atol=1e-4)

    def test_single_rollout_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least two rollouts, found 1"):
            group_advantage(torch.tensor([[1.0], [2.0]]))
