"""Recording trained models: every row is what the environment answers when the recorded actions are played again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch
from filled_buffers import parts
from gymnasium import spaces
from sampled_environments import Sampled, dict_env, image_env, vector_space
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecFrameStack,
    VecNormalize,
    VecTransposeImage,
)

from dipole_sb3 import DIPOLE, DatasetError, OfflineReplayBuffer, load_dataset, record_dataset
from dipole_sb3.datasets import make_env
from dipole_sb3.recording import rollouts

SEED = 5
MakeEnv = Callable[[], gymnasium.Env[Any, Any]]


def agent(kind: type[Any], env: Any, policy: str = "MlpPolicy", **options: Any) -> Any:
    if kind is sb3_contrib.ARS:
        return kind("LinearPolicy", env, seed=0, device="cpu")
    if kind is sb3_contrib.RecurrentPPO:
        policy, options = "MlpLstmPolicy", {"policy_kwargs": {"net_arch": [8], "lstm_hidden_size": 4}}
    return kind(policy, env, **{"policy_kwargs": {"net_arch": [8]}, "seed": 0, "device": "cpu", **options})


def pole(limit: int = 6) -> gymnasium.Env[Any, Any]:
    """The pole falls after some five steps of random actions, or the time is over."""
    return gymnasium.make("InvertedPendulum-v5", max_episode_steps=limit)


def episodes(buffer: OfflineReplayBuffer) -> Iterator[dict[str, Any]]:
    """Rows of each episode, actions in the environment's units."""
    box = buffer.action_space
    assert isinstance(box, spaces.Box)
    start = 0
    for end in np.flatnonzero(buffer.dones[:, 0]) + 1:
        rows = slice(start, int(end))
        yield {
            "observations": {key: value[rows, 0] for key, value in parts(buffer.observations).items()},
            "next_observations": {key: value[rows, 0] for key, value in parts(buffer.next_observations).items()},
            "actions": box.low + (buffer.actions[rows, 0] + 1) / 2 * (box.high - box.low),
            "rewards": buffer.rewards[rows, 0],
            "timeouts": buffer.timeouts[rows, 0],
        }
        start = int(end)
    assert start == buffer.size()


def same(one: Any, stored: dict[str, np.ndarray], row: int) -> bool:
    return all(np.allclose(value, stored[key][row], atol=1e-4) for key, value in parts(one).items())


def require_replays(buffer: OfflineReplayBuffer, make: MakeEnv, n_envs: int, seed: int = SEED) -> tuple[int, int]:
    """Plays every episode again in environments seeded like those of the recording.

    :return: how many ended by themselves and by time.
    """
    envs = [make() for _ in range(n_envs)]
    arrived = [env.reset(seed=seed + index)[0] for index, env in enumerate(envs)]
    real = by_time = cut = 0
    for episode in episodes(buffer):
        index = next(i for i, observation in enumerate(arrived) if same(observation, episode["observations"], 0))
        terminated = truncated = False
        for row, action in enumerate(episode["actions"]):
            assert terminated + truncated == 0
            assert same(arrived[index], episode["observations"], row)
            arrived[index], reward, terminated, truncated, _ = envs[index].step(action.astype(np.float32))
            assert same(arrived[index], episode["next_observations"], row)
            assert reward == pytest.approx(episode["rewards"][row], abs=1e-3)
        assert not episode["timeouts"][:-1].any()
        assert episode["timeouts"][-1] == (not terminated)
        real, by_time = real + terminated, by_time + (truncated and not terminated)
        if terminated or truncated:
            arrived[index] = envs[index].reset()[0]
        else:
            cut += 1
            arrived[index] = envs[index].reset(seed=1_000_000)[0]  # nothing may follow
    assert cut <= n_envs
    return real, by_time


ALGORITHMS = [
    *(getattr(stable_baselines3, name) for name in ("A2C", "DDPG", "PPO", "SAC", "TD3")),
    *(getattr(sb3_contrib, name) for name in ("ARS", "CrossQ", "RecurrentPPO", "TQC", "TRPO")),
    DIPOLE,
]


@pytest.mark.parametrize("kind", ALGORITHMS, ids=lambda kind: kind.__name__)
def test_every_algorithm_is_recorded_as_it_was_played(kind: type[BaseAlgorithm]) -> None:
    model = agent(kind, "InvertedPendulum-v5")
    buffer = record_dataset(model, DummyVecEnv([pole] * 3), 100, seed=SEED, epsilon=0.3, device="cpu")
    assert buffer.size() == 100
    require_replays(buffer, pole, 3)
    assert buffer.metadata["algorithm"] == kind.__name__
    assert buffer.metadata["env_id"] == "InvertedPendulum-v5"


@pytest.mark.parametrize("vec_env", [DummyVecEnv, SubprocVecEnv])
def test_real_ends_and_time_limits_are_told_apart(vec_env: type[VecEnv]) -> None:
    with closing(vec_env([lambda: Monitor(pole())] * 2)) as venv:  # type: ignore[call-arg]
        buffer = record_dataset(agent(SAC, "InvertedPendulum-v5"), venv, 200, seed=SEED, epsilon=0.5, device="cpu")
    real, by_time = require_replays(buffer, pole, 2)
    assert real > 3
    assert by_time > 3
    returns = [episode["rewards"].sum() for episode in episodes(buffer)][: real + by_time]
    assert buffer.metadata["data_episodes"] == real + by_time
    assert buffer.metadata["data_return_mean"] == pytest.approx(np.mean(returns), abs=1e-3)
    assert buffer.metadata["data_return_low"] < np.mean(returns) < buffer.metadata["data_return_high"]


@pytest.mark.parametrize(("steps", "n_envs"), [(1, 1), (1, 3), (40, 1), (40, 3), (41, 3), (42, 3)])
def test_as_many_transitions_as_were_asked_for(steps: int, n_envs: int) -> None:
    buffer = record_dataset(agent(SAC, "Pendulum-v1"), "Pendulum-v1", steps, n_envs=n_envs, seed=SEED, device="cpu")
    assert buffer.size() == steps
    assert [int(buffer.dones.sum()), int(buffer.timeouts.sum())] == [min(steps, n_envs)] * 2
    require_replays(buffer, lambda: gymnasium.make("Pendulum-v1"), n_envs)
    assert buffer.metadata["data_episodes"] == 0
    with make_env(buffer) as env:
        assert env.action_space == buffer.action_space


@pytest.mark.parametrize("steps", [35, 40, 41])
def test_an_episode_that_does_not_end_is_written_in_portions(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollouts, "_ROWS_AT_A_TIME", 10)
    endless = gymnasium.make("Pendulum-v1", max_episode_steps=10**6)
    portions: list[int] = []
    append = rollouts.storage.DatasetWriter.append

    def counted(writer: Any, arrays: Any) -> None:
        portions.append(len(arrays["actions"]))
        append(writer, arrays)

    monkeypatch.setattr(rollouts.storage.DatasetWriter, "append", counted)
    buffer = record_dataset(agent(SAC, endless), endless, steps, tmp_path / "set", seed=SEED, device="cpu")
    assert max(portions) == 10
    assert len(portions) > 3
    assert buffer.metadata["env_kwargs"] == {"max_episode_steps": 10**6}
    whole = load_dataset(tmp_path / "set", device="cpu")
    dones = whole.dones[:, 0]
    assert dones.tolist() == [0.0] * (steps - 1) + [1.0]
    assert whole.checksum == record_dataset(agent(SAC, endless), endless, steps, seed=SEED, device="cpu").checksum


@pytest.mark.parametrize(
    ("make", "policy"), [(dict_env, "MultiInputPolicy"), (image_env, "CnnPolicy")], ids=["dict", "image"]
)
@pytest.mark.parametrize("n_envs", [1, 2])
def test_dict_and_image_observations(make: MakeEnv, policy: str, n_envs: int) -> None:
    """Recorded as the environment gives them: channels last."""
    model = agent(SAC, make(), policy, buffer_size=10)
    for venv in (DummyVecEnv([make] * n_envs), VecTransposeImage(DummyVecEnv([make] * n_envs))):
        buffer = record_dataset(model, venv, 30, seed=SEED, device="cpu")
        require_replays(buffer, make, n_envs)
    trained = DIPOLE(policy, make(), dataset=buffer, batch_size=4, policy_kwargs={"net_arch": [8]}, device="cpu")
    trained.learn(1)


def predicted(model: BaseAlgorithm, buffer: OfflineReplayBuffer, normalize: Callable[[Any], Any]) -> np.ndarray:
    """What the model does deterministically in the recorded states."""
    observations = buffer.observations
    seen = {key: value[:, 0] for key, value in parts(observations).items()}
    actions, _ = model.predict(normalize(seen if isinstance(observations, dict) else seen[""]), deterministic=True)
    return actions


def recorded_actions(buffer: OfflineReplayBuffer) -> np.ndarray:
    return np.concatenate([episode["actions"] for episode in episodes(buffer)])


def fitted(make: MakeEnv, n_envs: int = 1) -> VecNormalize:
    """VecNormalize with statistics far from 0 and 1."""
    venv = VecNormalize(DummyVecEnv([make] * n_envs))
    venv.obs_rms.mean[:], venv.obs_rms.var[:] = 0.3, 0.04  # type: ignore[union-attr]
    return venv


def reacher() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("Reacher-v5", max_episode_steps=8)


@pytest.mark.parametrize("whose", ["given", "the model's"])
def test_the_model_sees_normalized_observations_and_the_data_are_raw(whose: str) -> None:
    normalized = fitted(reacher, 2)
    model = agent(SAC, normalized)
    before = normalized.obs_rms.mean.copy()  # type: ignore[union-attr]
    env: Any = fitted(reacher, 2) if whose == "given" else DummyVecEnv([reacher] * 2)
    if whose == "given":
        model = agent(SAC, DummyVecEnv([reacher] * 2))
    buffer = record_dataset(model, env, 60, deterministic=True, seed=SEED, device="cpu")
    require_replays(buffer, reacher, 2)
    np.testing.assert_allclose(recorded_actions(buffer), predicted(model, buffer, normalized.normalize_obs), atol=1e-4)
    assert not np.allclose(recorded_actions(buffer), predicted(model, buffer, lambda seen: seen), atol=1e-2)
    np.testing.assert_array_equal(normalized.obs_rms.mean, before)  # type: ignore[union-attr]


def test_dipole_brings_the_statistics_it_was_trained_with(tmp_path: Path) -> None:
    normalized = fitted(reacher)
    normalized.training = False
    data = record_dataset(agent(SAC, reacher()), reacher(), 30, device="cpu")
    model = agent(DIPOLE, normalized, dataset=data, batch_size=4)
    model.learn(2)
    model.save(tmp_path / "model")
    loaded = DIPOLE.load(tmp_path / "model", device="cpu")
    buffer = record_dataset(loaded, reacher(), 30, deterministic=True, seed=SEED, device="cpu")
    np.testing.assert_allclose(recorded_actions(buffer), predicted(model, buffer, normalized.normalize_obs), atol=1e-3)
    assert not np.allclose(recorded_actions(buffer), predicted(model, buffer, lambda seen: seen), atol=1e-2)


def test_noise_is_in_the_units_of_the_actions() -> None:
    space = spaces.Box(np.array([-100, -1], np.float32), np.array([300, 1], np.float32))
    venv = DummyVecEnv([lambda: Sampled(vector_space(), space)] * 20)
    model = agent(SAC, venv)
    buffer = record_dataset(model, venv, 2000, deterministic=True, noise=[5.0, 0.02], device="cpu")
    difference = recorded_actions(buffer) - predicted(model, buffer, lambda seen: seen)
    np.testing.assert_allclose(difference.std(axis=0), [5.0, 0.02], rtol=0.1)
    assert np.abs(difference.mean(axis=0) / [5.0, 0.02]).max() < 0.1
    assert buffer.metadata["noise"] == [5.0, 0.02]


@pytest.mark.parametrize("epsilon", [0.25, 1.0])
def test_some_actions_are_uniformly_random(epsilon: float) -> None:
    space = spaces.Box(np.array([-100, -1], np.float32), np.array([300, 1], np.float32))
    venv = DummyVecEnv([lambda: Sampled(vector_space(), space)] * 20)
    model = agent(SAC, venv)
    buffer = record_dataset(model, venv, 3000, deterministic=True, epsilon=epsilon, device="cpu")
    actions = recorded_actions(buffer)
    replaced = (np.abs(actions - predicted(model, buffer, lambda seen: seen)) > [1e-2, 1e-4]).any(axis=1)
    assert replaced.mean() == pytest.approx(epsilon, abs=0.03)
    shares = (actions[replaced] - space.low) / (space.high - space.low)
    quantiles = np.quantile(shares, [0.1, 0.5, 0.9], axis=0)
    np.testing.assert_allclose(quantiles, np.repeat([[0.1], [0.5], [0.9]], 2, axis=1), atol=0.05)


def test_actions_are_those_that_were_executed_where_a_model_leaves_the_bounds() -> None:
    """A Gaussian policy draws beyond them; SB3 clips what it executes."""
    model = agent(PPO, "Pendulum-v1", policy_kwargs={"net_arch": [8], "log_std_init": 3.0})
    buffer = record_dataset(model, "Pendulum-v1", 100, seed=SEED, device="cpu")
    actions = recorded_actions(buffer)
    assert (np.abs(actions) > 1.999).mean() > 0.8
    assert np.abs(actions).max() <= 2.0
    require_replays(buffer, lambda: gymnasium.make("Pendulum-v1"), 1)


def test_recurrent_models_keep_their_state_over_an_episode() -> None:
    model = agent(sb3_contrib.RecurrentPPO, "InvertedPendulum-v5")
    with torch.no_grad():  # so that its memory matters
        for parameter in model.policy.lstm_actor.parameters():
            parameter.mul_(3)
        model.policy.action_net.weight.mul_(50)
    buffer = record_dataset(model, DummyVecEnv([pole] * 2), 60, deterministic=True, seed=SEED, device="cpu")
    for episode in episodes(buffer):
        state = None
        for row, action in enumerate(episode["actions"]):
            observation = episode["observations"][""][row]
            expected, state = model.predict(observation, state, np.array([row == 0]), deterministic=True)
            np.testing.assert_allclose(action, expected, atol=1e-3)


def test_state_dependent_noise_is_drawn_anew_for_every_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    model = agent(SAC, "Pendulum-v1", use_sde=True)
    drawn: list[int] = []
    monkeypatch.setattr(model.policy, "reset_noise", lambda batch_size: drawn.append(batch_size))
    record_dataset(model, DummyVecEnv([lambda: gymnasium.make("Pendulum-v1", max_episode_steps=5)] * 2), 40)
    assert drawn == [2] * 4
    model.sde_sample_freq = 2
    drawn.clear()
    record_dataset(model, DummyVecEnv([lambda: gymnasium.make("Pendulum-v1", max_episode_steps=5)] * 2), 40)
    assert len(drawn) == len({*range(0, 20, 2), *range(0, 20, 5)})


def test_the_same_seed_gives_the_same_data_whatever_happened_before() -> None:
    model = agent(SAC, "Pendulum-v1")
    torch.manual_seed(1)
    first = record_dataset(model, "Pendulum-v1", 60, seed=1, n_envs=2, epsilon=0.2, noise=0.1, device="cpu")
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == after
    torch.manual_seed(2)
    again, other = (
        record_dataset(model, "Pendulum-v1", 60, seed=seed, n_envs=2, epsilon=0.2, noise=0.1, device="cpu")
        for seed in (1, 2)
    )
    assert first.checksum == again.checksum != other.checksum


def test_in_memory_as_a_folder_and_as_a_file_it_is_the_same_data(tmp_path: Path) -> None:
    model = agent(SAC, "Pendulum-v1")
    options: dict[str, Any] = {"n_envs": 2, "seed": 3, "metadata": {"robot": "seven"}, "device": "cpu"}
    memory = record_dataset(model, "Pendulum-v1", 450, **options)
    returned = [
        record_dataset(model, "Pendulum-v1", 450, tmp_path / name, **options) for name in ("folder", "file.npz")
    ]
    loaded = [load_dataset(tmp_path / name, device="cpu") for name in ("folder", "file.npz")]
    assert {buffer.checksum for buffer in (memory, *returned, *loaded)} == {memory.checksum}
    for buffer in (*returned, *loaded):
        assert {**buffer.metadata, "sha256": None} == {**memory.metadata, "sha256": None}
        assert buffer.metadata["robot"] == "seven"
        assert buffer.action_space == memory.action_space
    provenance = json.loads((tmp_path / "file.json").read_text())
    assert provenance["data_episodes"] == 2
    assert provenance["packages"]["stable-baselines3"]


@pytest.mark.parametrize("name", ["folder", "file.npz"])
def test_dict_observations_are_written_by_key(name: str, tmp_path: Path) -> None:
    model = agent(SAC, dict_env(), "MultiInputPolicy", buffer_size=10)
    memory = record_dataset(model, dict_env(), 20, device="cpu")
    record_dataset(model, dict_env(), 20, tmp_path / name, device="cpu")
    loaded = load_dataset(tmp_path / name, device="cpu")
    assert isinstance(loaded.observations, dict)
    assert set(loaded.observations) == {"camera", "joints"}
    assert loaded.checksum == memory.checksum


def test_a_folder_is_replaced_only_when_asked(tmp_path: Path) -> None:
    model = agent(SAC, "Pendulum-v1")
    record_dataset(model, "Pendulum-v1", 5, tmp_path / "set")
    with pytest.raises(DatasetError, match="set"):
        record_dataset(model, "Pendulum-v1", 6, tmp_path / "set")
    assert load_dataset(tmp_path / "set").size() == 5
    assert record_dataset(model, "Pendulum-v1", 6, tmp_path / "set", overwrite=True).size() == 6


class Breaking(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Its simulator fails at the tenth step."""

    count = 0

    def step(self, action: Any) -> Any:
        self.count += 1
        if self.count == 10:
            raise RuntimeError("the simulator failed")
        return super().step(action)


@pytest.mark.parametrize("name", ["set", "set.npz"])
def test_a_failure_on_the_way_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    env = Breaking(gymnasium.make("Pendulum-v1", max_episode_steps=4))
    with pytest.raises(RuntimeError, match="the simulator failed"):
        record_dataset(agent(SAC, "Pendulum-v1"), env, 20, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


class Forgetful(DummyVecEnv):
    """Does not keep the observation that ended an episode."""

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = super().step_wait()
        for info in infos:
            info.pop("terminal_observation", None)
        return observations, rewards, dones, infos


@pytest.mark.parametrize(
    ("env", "options", "message"),
    [
        ("Pendulum-v1", {"steps": 0}, "steps is 0; expected at least 1"),
        ("Pendulum-v1", {"n_envs": 0}, "n_envs is 0; expected at least 1"),
        (lambda: gymnasium.make("Pendulum-v1"), {"n_envs": 2}, "n_envs is 2, but env is already an environment"),
        ("Pendulum-v1", {"epsilon": 1.5}, "epsilon is 1.5; expected a probability"),
        ("Pendulum-v1", {"noise": -1.0}, "noise is -1.0; expected standard deviations"),
        ("Pendulum-v1", {"noise": [1.0, 2.0]}, r"noise is \[1.0, 2.0\]; expected one number, or one for each"),
        ("Reacher-v5", {}, r"the model \(SAC\) acts in Box\(-2.0, 2.0, \(1,\), float32\), the environment expects"),
        ("CartPole-v1", {}, r"needs continuous actions: found action space Discrete\(2\)"),
        (
            lambda: Sampled(vector_space(4), spaces.Box(-2, 2, (1,))),
            {},
            r"the model \(SAC\): observation has shape \(3,\), the environment expects \(4,\)",
        ),
        (
            lambda: VecFrameStack(VecNormalize(DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")])), 2),
            {},
            "VecNormalize lies below VecFrameStack; expected it as the outermost wrapper",
        ),
        (
            lambda: Forgetful([lambda: gymnasium.make("Pendulum-v1", max_episode_steps=4)]),
            {},
            "environment 0 ended an episode and its info has no terminal_observation",
        ),
        ("Pendulum-v1", {"metadata": {"model": SAC}}, "metadata cannot be written as JSON"),
        ("Pendulum-v1", {"path": "set.csv"}, "set.csv: recorded data is written as .npz"),
    ],
)
def test_refusals(env: Any, options: dict[str, Any], message: str) -> None:
    made = env if isinstance(env, str) else env()
    with pytest.raises(ValueError, match=message):
        record_dataset(agent(SAC, "Pendulum-v1"), made, **{"steps": 10, **options})
