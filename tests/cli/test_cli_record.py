"""``dipole data record`` as a user types it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from sb3_contrib import TQC
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from dipole_sb3 import DIPOLE, OfflineReplayBuffer, load_dataset
from dipole_sb3.cli import main

Record = Callable[..., tuple[int, str, str]]


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Record:
    """Runs ``dipole data record`` in an empty working directory; gives exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        return (main(["data", "record", *arguments]), *capfd.readouterr())

    return run


def small(kind: Any, env: Any = "Pendulum-v1", **options: Any) -> Any:
    return kind("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu", **options)


def actions_of(buffer: OfflineReplayBuffer) -> np.ndarray:
    box = buffer.action_space
    assert isinstance(box, gymnasium.spaces.Box)
    return box.low + (buffer.actions[:, 0] + 1) / 2 * (box.high - box.low)


@pytest.mark.parametrize(("algo", "kind"), [("sac", SAC), ("tqc", TQC), ("ppo", PPO)])
@pytest.mark.parametrize("out", ["recordings/set", "recordings/set.npz"])
def test_a_model_and_where_its_data_come_from(record: Record, algo: str, kind: Any, out: str) -> None:
    small(kind).save("model")
    typed = ["--algo", algo, "--model", "model.zip", "--env", "Pendulum-v1", "--steps", "410", "--seed", "4"]
    typed += ["--epsilon", "0.1", "--n-envs", "2", "--noise", "0.2", "--out", out]
    status, printed, err = record(*typed)
    assert (status, err) == (0, "")
    assert printed.startswith(f"{out}: 410 transitions, mean return -")
    assert "] of 2 whole episodes\n" in printed
    beside = "recordings/set.json" if out.endswith(".npz") else "recordings/set/dataset.json"
    assert printed.endswith(f"{beside}: where they come from\n")
    buffer = load_dataset(out, device="cpu")
    assert buffer.size() == 410
    facts = buffer.metadata
    assert facts["algorithm"] == algo
    assert facts["model_sha256"] == hashlib.sha256(Path("model.zip").read_bytes()).hexdigest()
    assert set(typed) <= set(facts["command"].split())
    # What was typed makes the same data again.
    again = facts["command"].split()[3:]
    again[again.index("--out") + 1] = "again"
    assert record(*again)[0] == 0
    assert load_dataset("again", device="cpu").checksum == buffer.checksum


def test_what_was_recorded_is_trained_on(record: Record, capfd: pytest.CaptureFixture[str]) -> None:
    small(SAC).save("model")
    typed = ["--algo", "sac", "--model", "model.zip", "--env", "Pendulum-v1", "--steps", "40", "--out", "pendulum"]
    assert record(*typed)[0] == 0
    options = [
        "offline_steps=3",
        "algo.batch_size=8",
        "algo.policy_kwargs.net_arch=[8]",
        "algo.verbose=0",
        "episodes=0",
    ]
    task = ["task=custom", "task.dataset=pendulum", "task.env=Pendulum-v1", "pictures=false", "run_dir=run"]
    assert main(["train", *task, *options]) == 0
    assert DIPOLE.load("run/model.zip", device="cpu").action_space.high == 2


def test_greediness_of_dipole_and_the_folder_of_a_run(record: Record) -> None:
    data = {
        "observations": np.zeros((20, 3), np.float32),
        "next_observations": np.zeros((20, 3), np.float32),
        "actions": np.zeros((20, 1), np.float32),
        "rewards": np.zeros(20, np.float32),
        "masks": np.ones(20, np.float32),
    }
    Path("run").mkdir()
    model = DIPOLE("MlpPolicy", "Pendulum-v1", dataset=data, policy_kwargs={"net_arch": [8]}, device="cpu", seed=0)
    model.save("run/model")
    common = ["--algo", "dipole", "--model", "run", "--env", "Pendulum-v1", "--steps", "20", "--deterministic"]
    for omega in ("-1", "3"):
        assert record(*common, "--omega", omega, "--out", f"at{omega}")[0] == 0
        buffer = load_dataset(f"at{omega}", device="cpu")
        assert buffer.metadata["omega"] == float(omega)
        assert isinstance(buffer.observations, np.ndarray)
        expected, _ = model.predict(buffer.observations[:, 0], deterministic=True, omega=float(omega))
        np.testing.assert_allclose(actions_of(buffer), expected, atol=1e-3)
    assert record(*common, "--out", "own")[0] == 0
    assert load_dataset("own").metadata["omega"] == model.omega


def test_a_model_trained_in_vec_normalize(record: Record) -> None:
    venv = VecNormalize(DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")]))
    venv.obs_rms.mean[:], venv.obs_rms.var[:] = 0.5, 0.01  # type: ignore[union-attr]
    model = small(SAC, venv)
    model.save("model")
    venv.save("statistics.pkl")
    typed = ["--algo", "sac", "--model", "model.zip", "--env", "Pendulum-v1", "--steps", "30", "--deterministic"]
    assert record(*typed, "--vec-normalize", "statistics.pkl", "--n-envs", "3", "--out", "set")[0] == 0
    buffer = load_dataset("set", device="cpu")
    seen = np.array(buffer.observations[:, 0])  # type: ignore[index]
    expected, _ = model.predict(venv.normalize_obs(seen), deterministic=True)  # type: ignore[arg-type]
    np.testing.assert_allclose(actions_of(buffer), expected, atol=1e-3)
    assert np.abs(seen).max() > 0.5
    assert buffer.metadata["n_envs"] == 3
    digest = hashlib.sha256(Path("statistics.pkl").read_bytes()).hexdigest()
    assert buffer.metadata["vec_normalize_sha256"] == digest

    for name, content, message in (
        ("half.pkl", Path("statistics.pkl").read_bytes()[:40], "half.pkl: holds no VecNormalize"),
        ("none.pkl", None, "none.pkl"),
    ):
        if content is not None:
            Path(name).write_bytes(content)
        status, _, err = record(*typed, "--vec-normalize", name, "--out", "other")
        assert status == 1
        assert message in err
    status, _, err = record(
        *["--algo", "sac", "--model", "model.zip", "--env", "Reacher-v5", "--vec-normalize", "statistics.pkl"],
        *["--out", "other"],
    )
    assert status == 1
    assert "statistics.pkl: its statistics are of other observations than those of Reacher-v5" in err


def test_a_learning_agent_to_a_folder(record: Record) -> None:
    typed = ["--algo", "td3", "--env", "Pendulum-v1", "--steps", "205", "--net-arch", "8", "--noise", "0.2"]
    status, printed, err = record(*typed, "--out", "set")
    assert (status, err) == (0, "")
    assert printed.startswith("set: 205 transitions, return of the whole episode -")
    assert printed.endswith("set/dataset.json: where they come from\n")
    buffer = load_dataset("set")
    assert buffer.size() == 205
    assert buffer.metadata["command"] == (
        "dipole data record --algo td3 --env Pendulum-v1 --steps 205 --seed 0 --net-arch 8 --noise 0.2 --out set"
    )
    assert buffer.observation_space == gymnasium.make("Pendulum-v1").observation_space
    status, _, err = record(*typed, "--out", "set")
    assert status == 1
    assert "set" in err


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--epsilon", "0.1"], "--epsilon: found no --model, expected one beside this option"),
        (["--deterministic"], "--deterministic: found no --model"),
        (["--model", "model.zip", "--net-arch", "8"], "--net-arch: found --model, expected none beside this option"),
        (["--model", "model.zip", "--algo", "sac"], "--env is missing"),
        (["--model", "none.zip", "--env", "Pendulum-v1"], "none.zip: no such file"),
        (["--model", "model.zip", "--env", "Pendulum-v1"], "model.zip: was saved by sac, not by tqc"),
        (
            ["--model", "model.zip", "--algo", "sac", "--env", "Reacher-v5"],
            "acts in Box(-2.0, 2.0, (1,), float32), the",
        ),
        (["--model", "model.zip", "--algo", "sac", "--env", "Pendulum-v1", "--omega", "2"], "--omega is greediness of"),
        (["--model", "model.zip", "--algo", "sac", "--env", "Pendulum-v1", "--epsilon", "2"], "epsilon is 2.0;"),
        (["--algo", "nothing", "--model", "model.zip", "--env", "Pendulum-v1"], "there is no algorithm 'nothing' here"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input(record: Record, typed: list[str], message: str) -> None:
    small(SAC).save("model")
    status, _, err = record(*typed, "--out", "set")
    assert status == 1
    assert message in err
    assert len(err.splitlines()) == 1
    assert [path.name for path in Path().iterdir()] == ["model.zip"]


def test_the_json_beside_a_file_holds_everything(record: Record) -> None:
    torch.manual_seed(0)
    small(SAC).save("model")
    arguments = ["--algo", "sac", "--model", "model.zip", "--env", "Pendulum-v1", "--steps", "10", "--out", "set.npz"]
    assert record(*arguments)[0] == 0
    facts = json.loads(Path("set.json").read_text())
    assert facts["sha256"] == hashlib.sha256(Path("set.npz").read_bytes()).hexdigest()
    assert facts["command"] == "dipole data record " + " ".join([*arguments[:8], "--seed", "0", *arguments[8:]])
