"""The diffusion's schedule, noise and sampler against published numbers and closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from dipole_sb3.networks.diffusion import Schedule, noised, sample_actions
from dipole_sb3.networks.residual import NoisePredictor


def test_the_schedule_of_five_steps() -> None:
    schedule = Schedule.variance_preserving(5)
    assert schedule.betas == pytest.approx((0.195875, 0.458818, 0.635781, 0.754878, 0.835031), abs=1e-6)
    assert schedule.kept == pytest.approx((0.804125, 0.435178, 0.158500, 0.038852, 0.006409), abs=1e-6)


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_all_schedules_end_in_the_same_noise(steps: int) -> None:
    # Σ(0.1/T + ½·9.9·(2t − 1)/T²) = 0.1 + ½·9.9.
    assert Schedule.variance_preserving(steps).kept[-1] == pytest.approx(math.exp(-5.05))


def test_noised_actions_keep_their_share_of_the_variance() -> None:
    schedule = Schedule((0.36, 0.5))
    actions, noise = torch.tensor([[1.0], [1.0]]), torch.tensor([[2.0], [2.0]])
    found = noised(schedule, actions, noise, torch.tensor([[1.0], [2.0]]))
    # ᾱ = 0.64, 0.32.
    expected = torch.tensor([[0.8 * 1 + 0.6 * 2], [math.sqrt(0.32) + math.sqrt(0.68) * 2]])
    torch.testing.assert_close(found, expected)


def test_the_exact_predictor_of_one_action_gives_that_action_for_any_noise() -> None:
    schedule, action = Schedule.variance_preserving(5), torch.tensor([0.3, -0.7])

    def predictor(x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        kept = torch.tensor(schedule.kept)[step.long() - 1]
        return (x - kept.sqrt() * action) / (1 - kept).sqrt()

    found = sample_actions(predictor, schedule, 3 * torch.randn(50, 5 * 2))
    torch.testing.assert_close(found, action.expand(50, 2), atol=1e-5, rtol=0)


def test_each_step_uses_noise_of_its_own_and_the_last_none_and_all_are_clipped() -> None:
    schedule, seen = Schedule((0.36, 0.36, 0.36)), []

    def predictor(x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        seen.append((x.clone(), step[0].item()))
        return torch.zeros_like(x)

    found = sample_actions(predictor, schedule, torch.tensor([[0.4, 0.1, 9.0]]))
    # x ← x/0.8 + 0.6·z: 0.5 + 0.06 = 0.56, then 0.7 + 5.4 is clipped to 1, then 1.25 is.
    assert [step for _, step in seen] == [3, 2, 1]
    assert [x.item() for x, _ in seen] == pytest.approx([0.4, 0.56, 1.0])
    assert found.item() == 1.0


class TestNoisePredictor:
    def predictor(self) -> NoisePredictor:
        torch.manual_seed(0)
        return NoisePredictor(3, 2, width=8, blocks=2)

    def test_by_plain_layers(self) -> None:
        """The same network of torch's own layers."""
        predictor = self.predictor()
        features, x, step = torch.randn(5, 3), torch.randn(5, 2), torch.randint(1, 6, (5, 1)).float()
        masks = (torch.rand(5, 16) < 0.9) / 0.9

        def linear(layer: torch.nn.Module, value: torch.Tensor) -> torch.Tensor:
            return value @ layer.weight[0] + layer.bias[0]

        mish = torch.nn.functional.mish
        angles = 2 * math.pi * step @ predictor.frequencies.weight[0]
        code = linear(predictor.time[1], mish(linear(predictor.time[0], torch.cat([angles.cos(), angles.sin()], 1))))
        h = linear(predictor.input, torch.cat([features, x, code], 1))
        for block in range(2):
            inner = h * masks[:, 8 * block : 8 * (block + 1)]
            norm = predictor.norms[block]
            inner = torch.nn.functional.layer_norm(inner, (8,), norm.weight[0, 0], norm.bias[0, 0], eps=1e-6)
            h = h + linear(predictor.narrow[block], mish(linear(predictor.wide[block], inner)))
        expected = linear(predictor.output, mish(h))
        torch.testing.assert_close(predictor(features, x, step, masks), expected, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(predictor(features, x, step), expected)

    def test_wide_layers_are_four_times_as_wide(self) -> None:
        assert self.predictor().wide[0].weight.shape == (1, 8, 32)
