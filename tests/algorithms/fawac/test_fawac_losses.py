"""FAWAC's losses against numbers worked out by hand, and problems with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fixed_networks import Fixed, FixedFlow, chain, samples, small_model, two_modes, values_of_chain

from dipole_sb3 import FAWAC, learn_together
from dipole_sb3.algorithms.fawac.losses import FAWACObjective, compute_losses
from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.learning.flow_noise import SampledFlowNoise


class CriticsOfTwoPlaces:
    """Target critics that give the same numbers at s and others at s'."""

    def features(self, observations: torch.Tensor) -> torch.Tensor:
        return observations

    def head(self, features: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        at_next = torch.tensor([[2.0, 5.0], [4.0, 5.0]])
        return at_next if features[0, 0] == 1 else torch.tensor([[3.0, 0.0], [2.0, 1.0]])


class FixedNetworks:
    actor = FixedFlow([[0.5, 0.0], [0.0, 0.0]])
    critic = Fixed([[1.0, 4.0], [2.0, 3.0]])
    critic_target = CriticsOfTwoPlaces()
    value = Fixed([0.5, 2.0])


def test_by_hand() -> None:
    batch = Batch(
        torch.zeros(2, 1), torch.tensor([[0.5, 0.0], [-0.5, 1.0]]), torch.tensor([1.0, 2.0]), torch.ones(2, 1),
        torch.tensor([1.0, 0.0]),
    )  # fmt: skip
    noise = SampledFlowNoise(torch.zeros(2, 2), torch.zeros(2, 1), torch.zeros(2, 2))
    outcome = compute_losses(FixedNetworks(), batch, noise, FAWACObjective(alpha=math.log(2), gamma=0.5))
    # mean Q̄(s, a) = 2.5, 0.5. y = 1 + 0.5·3 and 2. A = mean Q − V = 1, 1.5: weights 2 and 2^1.5.
    value_loss = (2.0**2 + 1.5**2) / 2
    critic_loss = ((1 - 2.5) ** 2 + (2 - 2.5) ** 2 + (4 - 2) ** 2 + (3 - 2) ** 2) / 4
    flow_loss = (2 * 0.0 + 2**1.5 * (0.25 + 1.0) / 2) / 2
    assert outcome.losses.tolist() == pytest.approx([flow_loss, critic_loss, value_loss])
    assert outcome.details["weight"].tolist() == pytest.approx([2.0, 2**1.5])


def test_alpha_decides_how_much_better_counts_more() -> None:
    data = two_modes()
    good = data["actions"][:, 0] > 0
    alphas = (0.0, 3.0)
    models = learn_together([small_model(FAWAC, data, alpha=alpha, gamma=0.0) for alpha in alphas], 2000)
    for model, alpha in zip(models, alphas, strict=True):
        # A is the reward but for V, which cancels out.
        weight = np.exp(alpha * data["rewards"])
        assert (samples(model) > 0).mean() == pytest.approx((weight * good).sum() / weight.sum(), abs=0.1)


def test_values_of_a_chain() -> None:
    model = small_model(FAWAC, chain(), gamma=0.5).learn(600)
    assert values_of_chain(model) == pytest.approx((0.5, 1.0), abs=0.05)


@pytest.mark.parametrize(("name", "value"), [("alpha", -1.0), ("flow_steps", 0)])
def test_numbers_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}, expected"):
        FAWACObjective(**{name: value})
