"""The randomness of flows: its laws, and times on a grid."""

from __future__ import annotations

import pytest
import torch

from dipole_sb3.learning.flow_noise import draw_flow_noise


class Policy:
    """What drawing noise asks of a policy."""

    action_dim = 2

    def __init__(self, time_grid: int | None) -> None:
        self.time_grid = time_grid


@pytest.mark.parametrize("steps", [1, 4, 32])
def test_times_on_a_grid_are_uniform_over_all_its_values(steps: int) -> None:
    drawn = draw_flow_noise(Policy(steps), 200_000, torch.Generator().manual_seed(0), 1).time
    values, counts = drawn.unique(return_counts=True)
    torch.testing.assert_close(values, torch.arange(steps + 1) / steps)
    torch.testing.assert_close(counts / 200_000, torch.full((steps + 1,), 1 / (steps + 1)), atol=0.003, rtol=0)


def test_without_a_grid_times_are_uniform() -> None:
    noise = draw_flow_noise(Policy(None), 20_000, torch.Generator().manual_seed(0), 1)
    assert noise.time.shape == (20_000, 1)
    assert noise.time.unique().numel() > 19_000
    assert noise.time.mean().item() == pytest.approx(0.5, abs=0.01)
    assert noise.start.shape == (20_000, 2)
    assert noise.start.std().item() == pytest.approx(1.0, abs=0.02)


def test_a_grid_of_policy_kwargs_reaches_the_noise() -> None:
    from dipole_sb3 import DIPOLE

    model = DIPOLE("MlpPolicy", dataset="demo/reacher-tqc-10k", policy_kwargs={"net_arch": [4], "time_grid": 2})
    noise = model.update_rule.draw_noise(model.policy, 64, torch.Generator().manual_seed(0), 1)
    assert set(noise.time.flatten().tolist()) == {0.0, 0.5, 1.0}
    with pytest.raises(ValueError, match="time_grid is 0, expected a whole number of at least 1"):
        DIPOLE("MlpPolicy", dataset="demo/reacher-tqc-10k", policy_kwargs={"time_grid": 0})
