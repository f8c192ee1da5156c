"""Going on online: SB3's own SAC in the same environment is the reference for what happens when."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from algorithms import one_sentence, parameters_of, same_parameters, small, state_of
from filled_buffers import ARRAYS, parts
from recordings import Arrays
from sampled_environments import dict_env
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise, VectorizedActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from dipole_sb3 import DatasetError, MixedReplayBuffer, OfflineReplayBuffer, ReBRAC
from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.buffers.stored_buffer import StoredReplayBuffer
from dipole_sb3.datasets import storage


def pendulums(n_envs: int = 1, episode_steps: int = 7) -> VecEnv:
    """Pendulum never ends but by time; short episodes, so that several fit."""
    return DummyVecEnv(
        [lambda: Monitor(gymnasium.make("Pendulum-v1", max_episode_steps=episode_steps)) for _ in range(n_envs)]
    )


def falling(n_envs: int = 1) -> VecEnv:
    """Random actions let the pole fall after a few steps."""
    return DummyVecEnv([lambda: Monitor(gymnasium.make("InvertedPendulum-v5")) for _ in range(n_envs)])


class Counters(BaseCallback):
    """Every event with all counters at that time."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[Any, ...]] = []

    def note(self, event: str) -> None:
        model = self.model
        filled = model.replay_buffer.pos, model.replay_buffer.full
        infos = len(model.ep_info_buffer)
        counters = self.num_timesteps, self.n_calls, model._n_updates, model._episode_num
        progress = round(model._current_progress_remaining, 9)
        self.events.append((event, *counters, *filled, infos, progress, self.training_env.num_envs))

    def _on_training_start(self) -> None:
        self.note("training start")

    def _on_rollout_start(self) -> None:
        self.note("rollout start")

    def _on_rollout_end(self) -> None:
        self.note("rollout end")

    def _on_training_end(self) -> None:
        self.note("training end")

    def _on_step(self) -> bool:
        self.note("step")
        # What SB3's callbacks read there.
        for name in ("new_obs", "actions", "rewards", "dones", "infos", "replay_buffer", "env"):
            assert name in self.locals
        return True


RHYTHMS: list[dict[str, Any]] = [
    {},
    {"train_freq": 3, "gradient_steps": 2},
    {"train_freq": 4, "gradient_steps": -1},
    {"learning_starts": 0},
    {"buffer_size": 12, "gradient_steps": 0},
]


BY_EPISODE = {"train_freq": (1, "episode"), "gradient_steps": -1}


@pytest.mark.parametrize(
    ("rhythm", "n_envs"),
    [*((rhythm, n_envs) for rhythm in RHYTHMS for n_envs in (1, 3)), (BY_EPISODE, 1)],
    ids=str,
)
def test_events_and_counters_are_those_of_sac(algorithm: Any, rhythm: dict[str, Any], n_envs: int) -> None:
    arguments = {"learning_starts": 5, "buffer_size": 100, "batch_size": 4, **rhythm}
    ours = small(algorithm, env=pendulums(n_envs), **arguments)
    theirs = SAC("MlpPolicy", pendulums(n_envs), policy_kwargs={"net_arch": [8]}, device="cpu", seed=0, **arguments)
    counters = []
    for model in (ours, theirs):
        counters.append(Counters())
        model.learn(23, callback=counters[-1])
        model.learn(9, callback=counters[-1], reset_num_timesteps=False)
    assert counters[0].events == counters[1].events
    assert {event for event, *_ in counters[0].events} == {
        *("training start", "rollout start", "step", "rollout end", "training end")
    }


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("make", [pendulums, falling], ids=["time_limits", "failures"])
@pytest.mark.parametrize("normalized", [False, True], ids=["raw", "normalised"])
def test_the_buffer_of_random_steps_is_that_of_sac(
    algorithm: Any, make: Callable[[int], VecEnv], n_envs: int, normalized: bool
) -> None:
    """Same seed, same actions, same transitions: also what came last in an episode, and why it ended."""

    def env() -> VecEnv:
        return VecNormalize(make(n_envs)) if normalized else make(n_envs)

    arguments: dict[str, Any] = {"learning_starts": 1000, "buffer_size": 80, "device": "cpu", "seed": 4}
    ours = small(algorithm, env=env(), **arguments).learn(120)
    theirs = SAC("MlpPolicy", env(), policy_kwargs={"net_arch": [8]}, **arguments).learn(120)
    for key in ARRAYS:
        found, expected = getattr(ours.replay_buffer, key), getattr(theirs.replay_buffer, key)
        # SB3 keeps MuJoCo's observations in double precision.
        np.testing.assert_array_equal(found, expected.astype(found.dtype))
    ends = ours.replay_buffer.dones.astype(bool)
    assert ends.any()
    assert (ours.replay_buffer.timeouts[ends] == (make is pendulums)).all()


def test_dict_observations_are_those_of_sac(algorithm: Any) -> None:
    arguments: dict[str, Any] = {"learning_starts": 100, "buffer_size": 50, "device": "cpu", "seed": 4}
    ours = small(algorithm, "MultiInputPolicy", DummyVecEnv([dict_env] * 2), **arguments).learn(40)
    theirs = SAC("MultiInputPolicy", DummyVecEnv([dict_env] * 2), **arguments).learn(40)
    for key in ARRAYS:
        expected = parts(getattr(theirs.replay_buffer, key))
        for name, array in parts(getattr(ours.replay_buffer, key)).items():
            np.testing.assert_array_equal(array, expected[name])


def test_episodes_of_several_environments_are_refused_before_anything_happens(
    algorithm: Any, pendulum_data: Arrays
) -> None:
    model = small(algorithm, env=pendulums(2), dataset=pendulum_data, offline_steps=2, **BY_EPISODE)
    with pytest.raises(ValueError, match="train_freq") as refusal:
        model.learn(9)
    one_sentence(refusal.value, "2 environments", "expected one environment")
    assert model.num_timesteps == 0
    assert model.learn(2).num_timesteps == 2


# From data to steps


def test_the_optimiser_goes_on(algorithm: Any, pendulum_data: Arrays) -> None:
    model = small(algorithm, env=pendulums(), dataset=pendulum_data, offline_steps=5).learn(5)
    before = parameters_of(model)
    moments = {id(state["exp_avg"]) for state in model.policy.optimizer.state.values()}
    model.learn(4, reset_num_timesteps=False)
    assert {int(state["step"]) for state in model.policy.optimizer.state.values()} == {9}
    assert {id(state["exp_avg"]) for state in model.policy.optimizer.state.values()} == moments
    assert not same_parameters(parameters_of(model), before)


@pytest.mark.parametrize("rhythm", [{}, {"train_freq": (2, "episode")}, {"train_freq": 3, "gradient_steps": -1}])
def test_every_rhythm_works_after_data(algorithm: Any, pendulum_data: Arrays, rhythm: dict[str, Any]) -> None:
    model = small(algorithm, env=pendulums(), dataset=pendulum_data, offline_steps=3, **rhythm).learn(3 + 14)
    updates = {"": 14, "(2, 'episode')": 1, "3": 15}[str(rhythm.get("train_freq", ""))]
    # Rollouts are finished, as in SB3.
    assert model._n_updates == 3 + updates
    assert model.replay_buffer.n_online == max(14, updates)


def test_what_was_recorded_outlasts_a_small_ring(algorithm: Any, pendulum_data: Arrays) -> None:
    env = pendulums(2)
    model = small(algorithm, env=env, dataset=pendulum_data, offline_steps=1, buffer_size=10).learn(41)
    buffer = model.replay_buffer
    assert (buffer.n_recorded, buffer.n_online, buffer.full) == (450, 10, True)
    np.testing.assert_array_equal(buffer.take(torch.arange(450)).rewards, pendulum_data["rewards"])
    assert np.shares_memory(buffer.recorded.rewards, model.dataset.rewards)


def test_the_number_of_environments_changes_between_calls(
    algorithm: Any, pendulum_data: Arrays, tmp_path: Path
) -> None:
    """Trained alone, then with one, three and two environments; nothing that was gathered is lost."""
    noise = NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))
    space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)

    data = OfflineReplayBuffer.from_arrays(pendulum_data, action_space=space)
    model = small(algorithm, dataset=data, action_noise=noise).learn(2)
    gathered: set[float] = set()
    for n_envs, steps in ((1, 6), (3, 6), (2, 4)):
        model.set_env(pendulums(n_envs))
        model.learn(steps, reset_num_timesteps=False)
        buffer = model.replay_buffer
        assert (buffer.n_envs, buffer.n_recorded) == (n_envs, 450)
        rewards = set(buffer.take(torch.arange(450, buffer.n_transitions)).rewards.tolist())
        assert gathered < rewards
        gathered = rewards
    assert isinstance(model.action_noise, VectorizedActionNoise)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = algorithm.load(tmp_path / "model", env=pendulums())
    loaded.load_replay_buffer(tmp_path / "buffer")
    loaded.learn(3, reset_num_timesteps=False)
    assert (loaded.replay_buffer.n_envs, loaded.replay_buffer.n_recorded) == (1, 450)
    rewards = set(loaded.replay_buffer.take(torch.arange(450, loaded.replay_buffer.n_transitions)).rewards.tolist())
    assert gathered < rewards


def test_more_environments_begin_with_a_reset_also_where_none_was_asked_for(
    algorithm: Any, pendulum_data: Arrays
) -> None:
    model = small(algorithm, env=pendulums(), dataset=pendulum_data, offline_steps=1).learn(3)
    model.set_env(pendulums(3), force_reset=False)
    model.learn(6, reset_num_timesteps=False)
    assert model.replay_buffer.n_online == 2 + 1 + 6  # three do not divide two: one stands there twice


def test_an_environment_of_other_spaces_changes_nothing(algorithm: Any, pendulum_data: Arrays) -> None:
    model = small(algorithm, env=pendulums(), dataset=pendulum_data).learn(1)
    kept = model.env
    with pytest.raises(ValueError, match="spaces do not match"):
        model.set_env(falling(2))
    assert (model.env, model.n_envs) == (kept, 1)
    model.learn(2, reset_num_timesteps=False)


def test_online_data_saved_without_an_environment_come_back(
    algorithm: Any, pendulum_data: Arrays, tmp_path: Path
) -> None:
    """SB3's pair of files: loaded without an environment it trains on both parts, with one it goes on in the ring."""
    model = small(algorithm, env=pendulums(), dataset=pendulum_data, offline_steps=1).learn(6)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = algorithm.load(tmp_path / "model", device="cpu", offline_steps=None)
    loaded.load_replay_buffer(tmp_path / "buffer")
    loaded.learn(2, reset_num_timesteps=False)
    assert (loaded.replay_buffer.n_recorded, loaded.replay_buffer.n_online) == (450, 5)
    loaded.set_env(pendulums())
    loaded.learn(3, reset_num_timesteps=False)
    assert (loaded.replay_buffer.n_recorded, loaded.replay_buffer.n_online) == (450, 8)


@pytest.mark.parametrize("n_steps", [1, 3])
def test_stored_data_stay_where_they_are(algorithm: Any, pendulum_data: Arrays, tmp_path: Path, n_steps: int) -> None:
    """The same run as from memory, to the bit; a saved replay buffer refers to them."""
    space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
    data = OfflineReplayBuffer.from_arrays(pendulum_data, action_space=space)
    storage.save(data, tmp_path / "data")
    models = [
        small(algorithm, env=pendulums(2), dataset=source, offline_steps=2, offline_ratio=0.5, n_steps=n_steps).learn(
            20
        )
        for source in (data, storage.load(tmp_path / "data", device="cpu"))
    ]
    in_memory, stored = models
    assert same_parameters(parameters_of(in_memory), parameters_of(stored))
    for model in models:
        model.save_replay_buffer(tmp_path / "buffer")
        model.load_replay_buffer(tmp_path / "buffer")
        assert (model.replay_buffer.n_recorded, model.replay_buffer.n_online) == (450, 18)
        model.set_random_seed(1)
        model.learn(6)
    assert type(stored.replay_buffer.recorded) is StoredReplayBuffer
    assert same_parameters(parameters_of(in_memory), parameters_of(stored))


def test_no_random_actions_with_a_loaded_buffer_of_recorded_data(
    algorithm: Any, pendulum_data: Arrays, tmp_path: Path
) -> None:
    model = small(algorithm, env=pendulums(), dataset=pendulum_data, offline_steps=1, learning_starts=50).learn(3)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = algorithm.load(tmp_path / "model", env=pendulums(), device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert loaded.learn(4)._n_updates == 3 + 4


# The share of recorded data


RECORDED = 1000.0
"""Added to recorded rewards, so that they can be told apart."""


class Noting(MixedReplayBuffer):
    """Writes down the share of recorded transitions in every batch."""

    shares: list[int]

    def draw(self, batch_size: int, generator: torch.Generator, *more: Any, **named: Any) -> Batch:
        batch = super().draw(batch_size, generator, *more, **named)
        self.__dict__.setdefault("shares", []).append(int((batch.rewards > RECORDED / 2).sum()))
        return batch


def shares(algorithm: Any, data: Arrays, offline_ratio: Any, steps: int = 8) -> list[int]:
    data = {**data, "rewards": data["rewards"] + RECORDED}
    model = small(
        algorithm,
        env=pendulums(),
        dataset=data,
        offline_steps=4,
        offline_ratio=offline_ratio,
        replay_buffer_class=Noting,
        batch_size=10,
    )
    found: list[int] = model.learn(4 + steps).replay_buffer.shares
    return found


def test_a_constant_share(algorithm: Any, pendulum_data: Arrays) -> None:
    assert shares(algorithm, pendulum_data, 0.5) == [5] * 8
    assert shares(algorithm, pendulum_data, 0.25) == [2, 3] * 4
    assert shares(algorithm, pendulum_data, 1) == [10] * 8
    assert shares(algorithm, pendulum_data, 0) == [0] * 8


def test_a_share_that_follows_the_progress(algorithm: Any, pendulum_data: Arrays) -> None:
    """As a learning rate's schedule: 1 at the beginning of learn(), 0 at its end, the offline part counted."""
    seen: list[float] = []

    def schedule(remaining: float) -> float:
        seen.append(remaining)
        return remaining

    found = shares(algorithm, pendulum_data, schedule, steps=16)
    np.testing.assert_allclose(seen[-16:], np.arange(15, -1, -1) / 20)
    np.testing.assert_allclose(np.cumsum(found), np.cumsum(np.arange(15, -1, -1) / 2), atol=1)


def test_uniform_by_default(algorithm: Any, pendulum_data: Arrays) -> None:
    found = shares(algorithm, pendulum_data, None, steps=20)
    assert sum(found) > 0.9 * 10 * 20


@pytest.mark.parametrize("ratio", [-0.1, 1.5, float("nan"), "half", True, lambda remaining: 2.0])
def test_shares_out_of_range_are_refused(algorithm: Any, pendulum_data: Arrays, ratio: Any) -> None:
    with pytest.raises(ValueError, match="offline_ratio") as refusal:
        small(algorithm, dataset=pendulum_data, env=pendulums(), offline_ratio=ratio)
    one_sentence(refusal.value, "expected a number in [0, 1]")


def test_a_share_of_recorded_data_needs_them(algorithm: Any) -> None:
    model = small(algorithm, env=pendulums(), offline_ratio=0.5)
    with pytest.raises(ValueError, match="needs recorded data") as refusal:
        model.learn(3)
    one_sentence(refusal.value, "found none", "dataset=")
    assert model.num_timesteps == 0


def test_shares_and_steps_are_saved(algorithm: Any, pendulum_data: Arrays, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"dataset": pendulum_data, "env": pendulums(), "n_steps": 3}
    small(algorithm, **arguments, offline_ratio=0.25).save(tmp_path / "constant")
    small(algorithm, **arguments, offline_ratio=lambda remaining: remaining / 2).save(tmp_path / "schedule")
    constant, schedule = (algorithm.load(tmp_path / name) for name in ("constant", "schedule"))
    assert (constant.offline_ratio, constant.n_steps) == (0.25, 3)
    assert schedule.offline_ratio(0.5) == 0.25
    assert algorithm.load(tmp_path / "constant", offline_ratio=None, n_steps=1).n_steps == 1


# n-step returns


@pytest.mark.parametrize("n_envs", [0, 1, 2], ids=["offline", "one", "two"])
def test_learns_from_returns_over_several_steps(algorithm: Any, inverted_pendulum_data: Arrays, n_envs: int) -> None:
    def run(n_steps: int) -> Any:
        space = gymnasium.make("InvertedPendulum-v5").action_space

        data = OfflineReplayBuffer.from_arrays(inverted_pendulum_data, action_space=space)
        env = falling(n_envs) if n_envs else None
        model = small(algorithm, env=env, dataset=data, offline_steps=3 if n_envs else None, n_steps=n_steps)
        return model.learn(9)

    one, again, three = run(1), run(3), run(3)
    assert same_parameters(parameters_of(again), parameters_of(three))
    assert not same_parameters(parameters_of(one), parameters_of(three))


def test_validation_is_of_as_many_steps(algorithm: Any, reacher_data: Arrays) -> None:
    data = OfflineReplayBuffer.from_arrays(reacher_data)
    data.validation = OfflineReplayBuffer.from_arrays({key: value[:50] for key, value in reacher_data.items()})
    losses = []
    for n_steps in (1, 3):
        model = small(algorithm, dataset=data, n_steps=n_steps)
        model.record_training()
        losses.append({k: v for k, v in model.logger.name_to_value.items() if k.startswith("validation/")})
    different = {name for name in losses[0] if losses[0][name] != losses[1][name]}
    assert different == {"validation/critic_loss"}


def test_rewards_are_normalised_before_they_are_summed(algorithm: Any, pendulum_data: Arrays) -> None:
    """As SB3's buffer does it: clipping the sum would be another thing."""
    env = VecNormalize(pendulums(), clip_reward=0.05)
    model = small(algorithm, env=env, dataset=pendulum_data, n_steps=3).learn(2)
    batch = model._run.normalized(model.replay_buffer.take(torch.arange(100), 3))
    scaled = env.normalize_reward(pendulum_data["rewards"])
    assert (np.abs(scaled) == np.float32(0.05)).any()
    np.testing.assert_allclose(batch.rewards[:, 1], scaled[1:101], rtol=1e-5)
    np.testing.assert_array_equal(batch.steps, 3)


@pytest.mark.parametrize("n_steps", [0, -1, 1.5, True, None])
def test_impossible_numbers_of_steps_are_refused(algorithm: Any, reacher_data: Arrays, n_steps: Any) -> None:
    with pytest.raises(ValueError, match="n_steps is") as refusal:
        small(algorithm, dataset=reacher_data, n_steps=n_steps)
    one_sentence(refusal.value, "expected a whole number of at least 1")


def test_shuffled_data_are_refused_for_several_steps(algorithm: Any, reacher_data: Arrays) -> None:
    order = np.random.default_rng(0).permutation(len(reacher_data["rewards"]))
    shuffled = {key: value[order] for key, value in reacher_data.items()}
    model = small(algorithm, dataset=shuffled, n_steps=3)
    with pytest.raises(DatasetError, match="in the order in which they were recorded") as refusal:
        model.learn(2)
    one_sentence(refusal.value, "dataset", "n_steps=3", "among 313 that end neither an episode nor the data")
    assert model.num_timesteps == 0
    # ReBRAC's penalty on the next action needs the order, too.
    without = {"critic_bc_coef": 0.0} if algorithm is ReBRAC else {}
    small(algorithm, dataset=shuffled, **without).learn(2)


def test_observations_that_are_stored_once_change_nothing(algorithm: Any) -> None:
    plain, once = (
        small(algorithm, env="Pendulum-v1", learning_starts=20, optimize_memory_usage=way).learn(60)
        for way in (False, True)
    )
    assert same_parameters(state_of(plain), state_of(once))
