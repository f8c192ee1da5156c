"""Goal-conditioned environments: SB3's way of asking for hindsight, online, offline and from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from algorithms import parameters_of, same_parameters, small
from goal_environments import Point
from recordings import record
from stable_baselines3 import HerReplayBuffer

from dipole_sb3 import HindsightReplayBuffer

HINDSIGHT: dict[str, Any] = {
    "replay_buffer_class": HerReplayBuffer,
    "replay_buffer_kwargs": {"n_sampled_goal": 4, "goal_selection_strategy": "future"},
}


def test_online(algorithm: Any) -> None:
    model = small(algorithm, "MultiInputPolicy", Point(), learning_starts=20, **HINDSIGHT).learn(40)
    buffer = model.replay_buffer
    assert isinstance(buffer, HindsightReplayBuffer)
    batch = buffer.draw(50, model.training_generator)
    assert np.isfinite(batch.rewards.numpy()).all()


def test_recorded_transitions_get_new_goals_from_the_first_update_on(algorithm: Any) -> None:
    data = record(Point(), 60)
    model = small(algorithm, "MultiInputPolicy", Point(), dataset=data, offline_steps=4, **HINDSIGHT)
    assert isinstance(model.replay_buffer, HindsightReplayBuffer)
    recorded = {tuple(goal) for goal in data["observations"]["desired_goal"].round(4).tolist()}
    drawn = model.replay_buffer.draw(200, model.training_generator).observations["desired_goal"]
    new = [tuple(goal) not in recorded for goal in drawn.numpy().round(4).tolist()]
    assert 0.5 < np.mean(new) < 0.95  # four of five, less those that were achieved where they were wanted
    model.learn(20)
    assert model.num_timesteps == 20


def test_a_buffer_goes_on_from_its_file(algorithm: Any, tmp_path: Path) -> None:
    model = small(algorithm, "MultiInputPolicy", Point(), learning_starts=20, **HINDSIGHT).learn(40)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = algorithm.load(tmp_path / "model", env=Point(), device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert loaded.replay_buffer.size() == model.replay_buffer.size()
    before = parameters_of(loaded)
    loaded.learn(10, reset_num_timesteps=False)
    assert not same_parameters(before, parameters_of(loaded))
