"""A diffusion policy drives: each candidate has the noise of all its steps, and there is no ω to turn."""

from __future__ import annotations

from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: see the extra 'ros' or your ROS distribution")

from graph import action, driving, wait  # noqa: E402

pytestmark = pytest.mark.usefixtures("ros")


def test_it_drives_and_says_what_it_is(diffusion_bundle: Path, contract: Path):
    with driving(diffusion_bundle, contract) as (_, found):
        expected = action(diffusion_bundle, 0.0)
        wait(lambda: found.commands[-1] == expected, "the command of the fixed noise")
        model = wait(lambda: found.model, "the model's info")[-1]
        assert (model["policy"], model["flow_steps"], model["num_candidates"]) == ("diffusion", "3", "3")
        result = found.set(omega=1.0)
        assert not result.successful
        assert "omega" in result.reason


def test_it_draws_noise_and_as_many_candidates_as_asked(diffusion_bundle: Path, contract: Path):
    with driving(diffusion_bundle, contract, deterministic=False, num_candidates=2) as (_, found):
        wait(lambda: len({tuple(command) for command in found.commands[-10:]}) > 3, "different commands")
        assert found.model[-1]["num_candidates"] == "2"
