"""Recording an agent while it learns: the rows replay in the real environment, and the shipped data is what it says."""

import hashlib
import json
from importlib import resources
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from stable_baselines3 import TD3

from dipole_sb3.datasets import load_dataset, make_env
from dipole_sb3.recording import recording_files, training


def replayed(env_id: str, seed: int, actions: np.ndarray) -> dict[str, np.ndarray]:
    """What the environment itself answers to a sequence of actions."""
    environment = gymnasium.make(env_id)
    rows: dict[str, list[object]] = {
        "observations": [],
        "next_observations": [],
        "rewards": [],
        "masks": [],
        "ends": [],
    }
    observation, _ = environment.reset(seed=seed)
    for action in actions:
        rows["observations"].append(observation)
        observation, reward, terminated, truncated, _ = environment.step(action)
        rows["next_observations"].append(observation)
        rows["rewards"].append(reward)
        rows["masks"].append(float(not terminated))
        rows["ends"].append(float(terminated or truncated))
        if terminated or truncated:
            observation, _ = environment.reset()
    return {key: np.asarray(value, np.float32) for key, value in rows.items()}


@pytest.mark.parametrize(
    ("env_id", "steps"),
    [("Reacher-v5", 120), ("Pendulum-v1", 210), ("InvertedPendulum-v5", 120)],
    ids=["time limits", "actions beyond 1", "real ends"],
)
def test_rows_replay_in_the_environment(env_id: str, steps: int) -> None:
    arrays, provenance = training.record_training("tqc", env_id, steps, seed=3, net_arch=(16,), evaluation_episodes=2)
    expected = replayed(env_id, 3, arrays["actions"])
    for key in ("observations", "next_observations", "rewards", "masks"):
        np.testing.assert_allclose(arrays[key], expected[key], rtol=1e-4, atol=1e-4, err_msg=key)
    expected["ends"][-1] = 1
    np.testing.assert_array_equal(arrays["terminals"], expected["ends"])
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    assert len(arrays["actions"]) == provenance["steps"] == steps
    assert provenance["agent_return_low"] <= provenance["agent_return_mean"] <= provenance["agent_return_high"]


@pytest.mark.parametrize("algo", training.RECORDERS)
def test_every_agent_that_learns_from_a_buffer_is_recorded(algo: str) -> None:
    arrays, provenance = training.record_training(
        algo, "Pendulum-v1", 105, seed=3, net_arch=(8,), noise=0.4, evaluation_episodes=2
    )
    expected = replayed("Pendulum-v1", 3, arrays["actions"])
    for key in ("observations", "next_observations", "rewards"):
        np.testing.assert_allclose(arrays[key], expected[key], rtol=1e-4, atol=1e-4, err_msg=key)
    assert (provenance["algorithm"], provenance["noise"]) == (algo, 0.4)


def test_noise_is_in_the_units_of_the_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    """TD3 has no other exploration; nothing is learned here, and the noise is all there is after random steps."""
    monkeypatch.setattr(TD3, "train", lambda self, gradient_steps, batch_size: None)
    monkeypatch.setattr(TD3, "predict", lambda self, seen, **_: (np.zeros((*seen.shape[:-1], 1), np.float32), None))
    arrays, _ = training.record_training("td3", "Pendulum-v1", 1100, noise=0.1, net_arch=(4,), evaluation_episodes=2)
    assert arrays["actions"][100:].std() == pytest.approx(0.1, rel=0.1)


def test_the_same_seed_gives_the_same_rows() -> None:
    first, second, other = (
        training.record_training(steps=110, seed=seed, net_arch=(16,), evaluation_episodes=2).arrays
        for seed in (0, 0, 1)
    )
    for key, array in first.items():
        np.testing.assert_array_equal(array, second[key], err_msg=key)
    assert not np.array_equal(first["actions"], other["actions"])


def test_an_episode_that_is_cut_off_has_no_return() -> None:
    """Pendulum's episodes take 200 steps; of 500, the last 100 are none."""
    arrays, facts = training.record_training("td3", "Pendulum-v1", 500, net_arch=(4,), evaluation_episodes=2)
    assert arrays["terminals"].sum() == 3
    assert facts["data_episodes"] == 2
    assert facts["data_return_mean"] == pytest.approx(arrays["rewards"][:400].sum() / 2, abs=1e-3)
    _, facts = training.record_training("td3", "Pendulum-v1", 100, net_arch=(4,), evaluation_episodes=2)
    assert facts["data_episodes"] == 0
    assert "data_return_mean" not in facts


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_new_data_do_not_get_the_bounds_of_earlier_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def recording(bound: float) -> recording_files.Recording:
        arrays = {key: np.zeros((3, 1)) for key in ("observations", "actions", "next_observations")}
        arrays |= {"rewards": np.full(3, bound), "terminals": np.array([0, 0, 1]), "masks": np.ones(3)}
        return recording_files.Recording(arrays, {"action_low": [-bound], "action_high": [bound]})

    path, _ = recording_files.write_recording(recording(2.0), tmp_path / "drive.npz")

    def fails(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(json, "dumps", fails)
    with pytest.raises(type(error)):
        recording_files.write_recording(recording(1.0), path)
    monkeypatch.undo()
    assert [each.name for each in tmp_path.iterdir()] == ["drive.npz"]
    assert load_dataset(path).action_space.high == 1.0


def test_a_written_recording_is_a_data_set(tmp_path: Path) -> None:
    recording = training.record_training(env_id="Pendulum-v1", steps=110, net_arch=(16,), evaluation_episodes=2)
    path, provenance = recording_files.write_recording(
        recording, tmp_path / "pendulum.npz", ["dipole", "data", "record"]
    )
    buffer = load_dataset(path)
    env = make_env(buffer)
    assert buffer.action_space == env.action_space
    np.testing.assert_allclose(buffer.actions[:, 0] * 2, recording.arrays["actions"], atol=1e-4)
    assert json.loads(provenance.read_text())["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algo": "ppo"}, "how 'ppo' learns is not offered; expected one of crossq, ddpg, sac, td3, tqc"),
        ({"noise": -0.1}, "noise is -0.1; expected standard deviations"),
        ({"steps": 0}, "steps is 0"),
        ({"env_id": "CartPole-v1"}, "CartPole-v1: its action space is Discrete"),
        ({"evaluation_episodes": 1}, "evaluation_episodes is 1"),
    ],
)
def test_refusals(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training.record_training(**change)  # type: ignore[arg-type]


def test_output_must_be_npz(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a file name with that suffix"):
        recording_files.require_output(tmp_path / "data.csv")


def test_the_shipped_data_is_what_its_provenance_says() -> None:
    folder = resources.files("dipole_sb3") / "data"
    content = (folder / "reacher-tqc-10k.npz").read_bytes()
    provenance = json.loads((folder / "reacher-tqc-10k.json").read_text())
    assert len(content) < 2_000_000
    assert hashlib.sha256(content).hexdigest() == provenance["sha256"]

    buffer = load_dataset("demo/reacher-tqc-10k")
    assert buffer.size() == provenance["steps"] == 10_000
    assert buffer.metadata["env_id"] == "Reacher-v5"
    episodes = buffer.rewards.sum() / buffer.dones.sum()
    assert episodes == pytest.approx(buffer.metadata["data_return_mean"], abs=1e-3)
    # From bad to good: the last episodes are near what the final agent reaches, the first far from it.
    returns = buffer.rewards.reshape(-1, 50).sum(axis=1)
    agent, mean = buffer.metadata["agent_return_mean"], buffer.metadata["data_return_mean"]
    assert returns[:10].mean() < mean < returns[-10:].mean() < agent + 3


def test_the_environment_of_a_data_set() -> None:
    buffer = load_dataset("demo/reacher-tqc-10k")
    env = make_env(buffer)
    assert env.spec is not None
    assert env.spec.id == "Reacher-v5"
    assert env.observation_space.shape == buffer.observation_space.shape
    assert env.action_space == buffer.action_space
