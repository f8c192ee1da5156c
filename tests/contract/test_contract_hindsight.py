"""Goal-conditioned environments: SB3's way of asking for hindsight, online, offline and from a file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from algorithms import parameters_of, same_parameters, small
from goal_environments import Point
from recordings import record
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback

from dipole_sb3 import (
    DatasetError,
    HindsightReplayBuffer,
    OfflineReplayBuffer,
    ReplayableEpisodes,
    ResumableCheckpoint,
    learn_together,
)
from dipole_sb3.common.random_state import global_generators, restore_global_generators

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


def test_what_stable_baselines3_gathered_with_hindsight_trains_as_it_did_there(algorithm: Any) -> None:
    agent = SAC("MultiInputPolicy", Point(), learning_starts=60, buffer_size=100, **HINDSIGHT).learn(50)
    for env in (Point(), None):  # the buffer knows its own
        model = small(algorithm, "MultiInputPolicy", env, dataset=agent.replay_buffer)
        assert isinstance(model.replay_buffer, HindsightReplayBuffer)
        assert model.replay_buffer.n_recorded == 50
        model.learn(3)


def test_data_that_are_refused_change_nothing(algorithm: Any) -> None:
    """Goals of another size: found only after the model was told that there are goals."""
    agent = SAC("MultiInputPolicy", Point(), learning_starts=60, buffer_size=100, **HINDSIGHT).learn(20)
    data = record(Point(), 60)
    data["observations"] = {key: value[:, :1] for key, value in data["observations"].items()}
    data["next_observations"] = {key: value[:, :1] for key, value in data["next_observations"].items()}
    model = small(algorithm, "MultiInputPolicy", dataset=data)
    before = (model.dataset, model.replay_buffer, model.replay_buffer_class, model.replay_buffer_kwargs)
    with pytest.raises(DatasetError):
        model.set_dataset(agent.replay_buffer)
    assert (model.dataset, model.replay_buffer, model.replay_buffer_class, model.replay_buffer_kwargs) == before
    model.learn(2)


def test_rewards_by_a_function_without_an_environment(algorithm: Any) -> None:
    point = Point()
    options = {**HINDSIGHT, "replay_buffer_kwargs": {"compute_reward": point.compute_reward}}
    model = small(algorithm, "MultiInputPolicy", None, dataset=record(point, 60), **options)
    model.learn(3)
    assert model.num_timesteps == 3


@pytest.mark.parametrize("copy_info_dict", [False, True])
def test_a_run_with_hindsight_goes_on_from_its_checkpoint(algorithm: Any, tmp_path: Path, copy_info_dict: bool) -> None:
    """Bit-identically: which episodes were over is part of the state, and so are the infos that rewards need."""
    data = record(Point(), 40)
    hindsight = {"replay_buffer_class": HerReplayBuffer, "replay_buffer_kwargs": {"copy_info_dict": copy_info_dict}}

    def begun() -> Any:
        return small(
            algorithm, "MultiInputPolicy", ReplayableEpisodes(Point()), dataset=data, offline_steps=4, **hindsight
        )

    whole = begun().learn(44, callback=ResumableCheckpoint(20, tmp_path))
    resumed = algorithm.resume(
        sorted(tmp_path.glob("*_20*"))[0], env=ReplayableEpisodes(Point()), dataset=data, device="cpu"
    )
    resumed.learn(24, reset_num_timesteps=False)
    assert same_parameters(parameters_of(whole), parameters_of(resumed))


def test_observations_stored_once_train_the_same(algorithm: Any) -> None:
    models = [
        small(
            algorithm, "MultiInputPolicy", Point(), learning_starts=20, buffer_size=30, optimize_memory_usage=once,
            **HINDSIGHT,
        ).learn(60)
        for once in (False, True)
    ]  # fmt: skip
    assert models[1].replay_buffer.optimize_memory_usage
    assert same_parameters(*map(parameters_of, models))


class Goals(BaseCallback):
    """Notes the goals of a batch at every timestep, from the random numbers that the run has then reached."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def _on_step(self) -> bool:
        generator = torch.Generator().set_state(self.model.training_generator.get_state())
        self.seen.append(self.model.replay_buffer.draw(16, generator).observations["desired_goal"])
        return True


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("data", ["recorded", "of Stable-Baselines3"])
def test_runs_with_hindsight_that_learn_together_learn_what_each_learns_alone(
    algorithm: Any, data: str, n_steps: int
) -> None:
    """On one data set, with goals chosen in another way by each, and then online, each in its own environment."""
    dataset: Any = OfflineReplayBuffer.from_arrays(record(Point(), 60), device="cpu")
    if data == "of Stable-Baselines3":
        dataset = (
            SAC("MultiInputPolicy", Point(), learning_starts=60, buffer_size=100, **HINDSIGHT).learn(50).replay_buffer
        )

    def run(index: int) -> Any:
        options = {"n_sampled_goal": 4 - index, "goal_selection_strategy": ("future", "episode", "final")[index]}
        model = small(
            algorithm, "MultiInputPolicy", Point(seed=index), dataset=dataset, seed=index, n_steps=n_steps,
            offline_steps=6 + index, replay_buffer_class=HerReplayBuffer,
            replay_buffer_kwargs={**options, "copy_info_dict": index == 1},
        )  # fmt: skip
        # As in a process of its own: the global generators explore from where the constructor left them.
        model.when_learning_begins(partial(restore_global_generators, global_generators()))
        return model

    callbacks: list[list[Goals]] = [[Goals() for _ in range(3)] for _ in range(2)]
    alone = [run(index).learn(24, callbacks[0][index]) for index in range(3)]
    together = learn_together([run(index) for index in range(3)], 24, callbacks[1])
    for one, other, seen, expected in zip(together, alone, *callbacks[::-1], strict=True):
        assert isinstance(one.replay_buffer, HindsightReplayBuffer)
        assert one.replay_buffer.n_online == other.replay_buffer.n_online > 10
        torch.testing.assert_close(torch.stack(seen.seen), torch.stack(expected.seen), rtol=0, atol=1e-3)
        assert torch.equal(one.training_generator.get_state(), other.training_generator.get_state())
        for (name, found), parameter in zip(parameters_of(one).items(), parameters_of(other).values(), strict=True):
            torch.testing.assert_close(found, parameter, rtol=1e-3, atol=1e-3, msg=f"{name} differs")
    assert len({seen.seen[0].numpy().tobytes() for seen in callbacks[1]}) == 3


@pytest.mark.parametrize("timesteps", [5, 20])
def test_runs_with_hindsight_that_learned_together_go_on_from_their_checkpoints(
    algorithm: Any, tmp_path: Path, timesteps: int
) -> None:
    """To the bit, on recorded data and online: each has its own random numbers, episodes and infos."""
    data = record(Point(), 40)
    hindsight = {"replay_buffer_class": HerReplayBuffer, "replay_buffer_kwargs": {"copy_info_dict": True}}

    def begun() -> list[Any]:
        models = []
        for seed in range(2):
            env = ReplayableEpisodes(Point())
            model = small(
                algorithm, "MultiInputPolicy", env, dataset=data, seed=seed, offline_steps=8, **hindsight
            )  # fmt: skip
            model.when_learning_begins(partial(restore_global_generators, global_generators()))
            models.append(model)
        return models

    checkpoints = [ResumableCheckpoint(timesteps, tmp_path / f"{seed}") for seed in range(2)]
    whole = learn_together(begun(), timesteps + 9, checkpoints)
    resumed = [
        algorithm.resume(
            tmp_path / f"{seed}" / f"model_{timesteps}_steps.zip", ReplayableEpisodes(Point()), dataset=data,
            device="cpu",
        )
        for seed in range(2)
    ]  # fmt: skip
    learn_together(resumed, 9, reset_num_timesteps=False)
    for one, other in zip(resumed, whole, strict=True):
        np.testing.assert_array_equal(one.replay_buffer.actions, other.replay_buffer.actions)
        assert same_parameters(parameters_of(one), parameters_of(other))
