"""What a task's file says beyond its data: how success is told, and that observations are normalised."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from commands import TINY, UNTESTED, Command, parameters, the_run
from recordings import record
from sampled_environments import Sampled, dict_env, image_env, vector_space
from stable_baselines3.common.vec_env import VecNormalize

from dipole_sb3 import DIPOLE, load_dataset
from dipole_sb3.cli.environments import training_env
from dipole_sb3.cli.periodic_evaluation import EVALUATIONS
from dipole_sb3.networks.encoders import ImpalaCNN

SUCCESS = "+task.success={info: reward_dist, least: -0.12}"


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_success_is_a_column_of_every_table(dipole: Command) -> None:
    options = [*TINY, "task=reacher", "episodes=4", "omegas=[0]", "candidates=[1]", SUCCESS, "run_dir=run"]
    status, out, err = dipole("train", *options, "eval_freq=10", "eval_episodes=3")
    assert (status, err) == (0, "")
    assert out.index("Success rate") < out.index("Return, mean")
    (row,) = rows(Path("run/omega_sweep.csv"))
    assert 0 < float(row["success_mean"]) < 1, "a bound that some of the episodes hold"
    assert np.load(Path("run", EVALUATIONS))["successes"].shape == (3, 3), "at timesteps 1, 10 and 20"
    again = ["evaluate", "model=run", "omegas=[0]", "candidates=[1]", "pictures=false"]
    assert dipole(*again, "episodes=4", "out=again")[0] == 0
    assert rows(Path("again/omega_sweep.csv")) == [row]
    # Another environment's success is its own matter.
    gymnasium.register("OtherReacher-v0", "gymnasium.envs.mujoco.reacher_v5:ReacherEnv", max_episode_steps=50)
    try:
        assert dipole(*again, "env=OtherReacher-v0", "episodes=2", "out=other")[0] == 0
    finally:
        del gymnasium.registry["OtherReacher-v0"]
    assert "success_mean" not in rows(Path("other/omega_sweep.csv"))[0]


def test_observations_are_normalised_by_the_recorded_data(dipole: Command) -> None:
    observations = load_dataset("demo/reacher-tqc-10k", device="cpu").observations[:, 0]
    assert dipole("train", *UNTESTED, "task=reacher", "normalize=true")[0] == 0
    run = the_run("runs/reacher")
    model = DIPOLE.load(run / "model.zip", device="cpu")
    mean, deviation, _ = model.observation_statistics[None]
    np.testing.assert_allclose(mean, observations.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(deviation, observations.std(axis=0), rtol=1e-3, atol=1e-3)


def test_normalised_runs_learn_together_as_alone(dipole: Command) -> None:
    assert dipole("train", *UNTESTED, "task=reacher", "normalize=true", "runs=2", "run_dir=both/${seed}")[0] == 0
    assert dipole("train", *UNTESTED, "task=reacher", "normalize=true", "seed=1", "run_dir=alone")[0] == 0
    found, expected = parameters(Path("both/1/model.zip")), parameters(Path("alone/model.zip"))
    assert all(np.allclose(found[name], value, rtol=1e-3, atol=1e-5) for name, value in expected.items())


@pytest.mark.parametrize("resumed", [False, True])
def test_normalising_needs_an_environment_and_stays_as_it_was(dipole: Command, resumed: bool) -> None:
    if resumed:
        assert dipole("train", *UNTESTED, "task=reacher", "checkpoint_freq=10", "run_dir=run")[0] == 0
        status, _, err = dipole("train", "resume=run", "normalize=true")
        assert (status, "a resumed run stays as it was" in err) == (1, True)
    else:
        status, _, err = dipole("train", *UNTESTED, "task=reacher", "task.env=null", "normalize=true")
        assert (status, err) == (1, "dipole: normalize is True, but the task has no environment; give task.env=ID\n")


@pytest.mark.parametrize(("make", "keys"), [(lambda: Sampled(vector_space()), None), (dict_env, ["joints"])])
def test_numbers_are_normalised_and_images_are_not(make: Callable[[], gymnasium.Env], keys: list[str] | None) -> None:
    env = training_env(make, 1, normalize=True)
    assert isinstance(env, VecNormalize)
    assert (env.norm_obs_keys, env.norm_reward) == (keys, False)
    assert env.observation_space == env.venv.observation_space


def test_images_alone_are_not_normalised() -> None:
    with pytest.raises(ValueError, match="normalize is true, and all that is observed are images: Box"):
        training_env(image_env, 1, normalize=True)


@pytest.mark.parametrize(
    ("success", "says"),
    [
        ("{info: reward_dist}", "task.success is {'info': 'reward_dist'}, expected {info: KEY, least: NUMBER}"),
        ("-0.02", "task.success is -0.02, expected {info: KEY, least: NUMBER}"),
        ("{info: distance, least: 0}", "info has no 'distance', which success is read from; found reward_dist"),
    ],
)
def test_a_wrong_success_is_one_sentence(dipole: Command, success: str, says: str) -> None:
    status, _, err = dipole("train", *TINY, "task=reacher", "episodes=2", f"+task.success={success}", "run_dir=run")
    assert (status, err.count("\n")) == (1, 1)
    assert says in err
    assert not Path("run").exists(), "refused before anything was learned"


def test_the_success_of_a_task_that_is_asked_for_counts(dipole: Command) -> None:
    assert dipole("train", *UNTESTED, "task=reacher", "run_dir=run")[0] == 0
    few = ["evaluate", "model=run", "omegas=[0]", "candidates=[1]", "pictures=false", "episodes=2"]
    assert dipole(*few, "out=own")[0] == 0
    assert "success_mean" not in rows(Path("own/omega_sweep.csv"))[0]
    assert dipole(*few, "task=reacher-scripted", "out=asked")[0] == 0
    assert "success_mean" in rows(Path("asked/omega_sweep.csv"))[0]


@pytest.mark.parametrize("frame_stack", [1, 2])
def test_images_are_trained_on_evaluated_and_drawn(dipole: Command, frame_stack: int) -> None:
    """Channels last, as cameras give them."""
    np.savez("camera.npz", **record(image_env(16, 18, 3), 30))
    gymnasium.register("Camera-v0", lambda: image_env(16, 18, 3))
    try:
        options = ["task.name=camera", "task.dataset=camera.npz", "task.env=Camera-v0", "algo.policy=CnnPolicy"]
        options += ["task=custom", f"task.frame_stack={frame_stack}"]
        encoder = ["+algo.policy_kwargs.features_extractor_class=impala-small", "algo.random_crop=0.5"]
        shown = ["pictures=true", "episodes=2", "omegas=[0]", "candidates=[1]", "run_dir=run"]
        status, _, err = dipole("train", *TINY, *options, *encoder, *shown)
        assert (status, err) == (0, "")
        assert {"weights.png", "omega_sweep.csv"} <= {path.name for path in Path("run").iterdir()}
        model = DIPOLE.load("run/model.zip")
        assert isinstance(model.policy.actor.features_extractor, ImpalaCNN)
        assert model.random_crop == 0.5
        assert model.observation_space.shape == (3 * frame_stack, 16, 18)
        status, _, err = dipole("evaluate", "model=run", "episodes=2", "omegas=[0]", "candidates=[1]", "out=again")
        assert (status, err) == (0, "")
        assert rows(Path("again/omega_sweep.csv")) == rows(Path("run/omega_sweep.csv"))
    finally:
        del gymnasium.registry["Camera-v0"]
