"""Minari's sets, written by Minari's own collector on real environments: every row is what the environment answered."""

from __future__ import annotations

import inspect
import tracemalloc
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image
from sampled_environments import Sampled, dict_env, image_env, image_space, vector_space

from dipole_sb3 import DIPOLE, DatasetError, OfflineReplayBuffer, load_dataset
from dipole_sb3.common import checks
from dipole_sb3.datasets import make_env

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def collect(
    env: gymnasium.Env[Any, Any],
    name: str = "test/set-v0",
    lengths: tuple[int, ...] = (60, 3, 60),
    **options: Any,
) -> list[tuple[Any, ...]]:
    """Writes a set of random actions; an episode is left behind after its length where it has not ended by itself.

    :return: (observation, action, reward, next observation, terminated, last of its episode) as the caller saw them.
    """
    collector = minari.DataCollector(env, **options)
    collector.action_space.seed(0)
    rows: list[tuple[Any, ...]] = []
    for episode, length in enumerate(lengths):
        observation, _ = collector.reset(seed=episode)
        for step in range(length):
            action = collector.action_space.sample()
            following, reward, terminated, truncated, _ = collector.step(action)
            last = terminated or truncated or step == length - 1
            rows.append((observation, action, reward, following, terminated, last))
            observation = following
            if last:
                break
    collector.create_dataset(dataset_id=name)
    collector.close()
    return rows


def require_rows(buffer: OfflineReplayBuffer, rows: list[tuple[Any, ...]]) -> None:
    observations, actions, rewards, following, terminated, last = zip(*rows, strict=True)
    assert buffer.size() == len(rows)
    for stored, seen in ((buffer.observations, observations), (buffer.next_observations, following)):
        if isinstance(stored, dict):
            for key, array in stored.items():
                np.testing.assert_array_equal(array[:, 0], np.stack([one[key] for one in seen]))
        else:
            np.testing.assert_array_equal(stored[:, 0], np.stack(seen).astype(stored.dtype))
    box = buffer.action_space
    assert isinstance(box, spaces.Box)
    np.testing.assert_allclose(
        box.low + (buffer.actions[:, 0] + 1) * (box.high - box.low) / 2, np.stack(actions), atol=1e-4
    )
    np.testing.assert_array_equal(buffer.rewards[:, 0], np.asarray(rewards, np.float32))
    np.testing.assert_array_equal(buffer.dones[:, 0], np.asarray(last, np.float32))
    np.testing.assert_array_equal(buffer.timeouts[:, 0], np.asarray(last) & ~np.asarray(terminated))


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize("env_id", ["Pendulum-v1", "Reacher-v5", "InvertedPendulum-v5"])
def test_rows_are_what_the_environment_answered(env_id: str, data_format: str) -> None:
    """Real ends (the pole falls), time limits (50 steps of the arm) and episodes that were left behind."""
    rows = collect(gymnasium.make(env_id), data_format=data_format)
    buffer = load_dataset("minari/test/set-v0", device="cpu")
    require_rows(buffer, rows)
    with make_env(buffer) as env:
        assert env.spec is not None
        assert env.spec.id == env_id
        assert buffer.action_space == env.action_space
        model = DIPOLE("MlpPolicy", env, dataset=buffer, policy_kwargs={"net_arch": [8]}, device="cpu", batch_size=8)
        model.learn(2)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_dict_observations_with_an_image(data_format: str) -> None:
    # Before 0.5.3 Minari compressed no images, and has no such option.
    has_option = "jpeg_encoding" in inspect.signature(minari.DataCollector).parameters
    as_it_is: dict[str, Any] = {"jpeg_encoding": False} if has_option else {}
    rows = collect(dict_env(), data_format=data_format, **as_it_is)
    buffer = load_dataset("minari/test/set-v0", device="cpu")
    assert isinstance(buffer.observations, dict)
    assert buffer.observations["camera"].dtype == np.uint8
    require_rows(buffer, rows)
    assert "env_id" not in buffer.metadata
    with pytest.raises(DatasetError, match="metadata has no env_id"):
        make_env(buffer)


def test_images_that_minari_compressed() -> None:
    """JPEG loses a little: the rows are the images that Minari itself gives back."""
    collect(image_env(), lengths=(7, 7))
    buffer = load_dataset("minari/test/set-v0", device="cpu")
    episodes = list(minari.load_dataset("test/set-v0"))
    for stored, part in ((buffer.observations, slice(None, -1)), (buffer.next_observations, slice(1, None))):
        np.testing.assert_array_equal(stored[:, 0], np.concatenate([one.observations[part] for one in episodes]))


@pytest.mark.parametrize("first", [False, True])
def test_images_are_resized_where_that_is_asked_for(first: bool) -> None:
    shape = (1, 36, 40) if first else (36, 40, 3)
    collect(Sampled(spaces.Dict({"camera": image_space(*shape), "joints": vector_space()})), lengths=(5, 3))
    whole, small = (load_dataset("minari/test/set-v0", device="cpu", image_size=size) for size in (None, (20, 9)))
    assert isinstance(whole.observations, dict)
    assert isinstance(small.observations, dict)
    assert isinstance(small.observation_space, spaces.Dict)
    size = (1, 20, 9) if first else (20, 9, 3)
    assert small.observation_space["camera"] == image_space(*size)
    assert small.metadata["image_size"] == [20, 9]
    np.testing.assert_array_equal(small.observations["joints"], whole.observations["joints"])
    for image, shown in zip(whole.observations["camera"][:, 0], small.observations["camera"][:, 0], strict=True):
        pillow = Image.fromarray(image[0] if first else image).resize((9, 20), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(shown[0] if first else shown, np.asarray(pillow))
    with pytest.raises(ValueError, match=r"^image_size is \[4\], expected \(height, width\)$"):
        load_dataset("minari/test/set-v0", image_size=[4])
    collect(Sampled(vector_space()), "test/vectors-v0", (3,))
    with pytest.raises(ValueError, match=r"^image_size is \(4, 4\) for observations Box.*, expected an image$"):
        load_dataset("minari/test/vectors-v0", image_size=(4, 4))


def test_the_environment_keeps_its_arguments() -> None:
    collect(gymnasium.make("Pendulum-v1", g=3.0, max_episode_steps=9))
    with make_env(load_dataset("minari/test/set-v0")) as env:
        assert env.spec is not None
        assert env.spec.max_episode_steps == 9
        assert env.unwrapped.g == 3.0


def test_nothing_is_held_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the peak there is the buffer and one episode, beside what is checked at a time."""
    monkeypatch.setattr(checks, "_ROWS_PER_CHECK", 100)
    env = Sampled(vector_space(200), episode_steps=50)
    collect(env, lengths=(50,) * 40)
    load_dataset("minari/test/set-v0", device="cpu")  # imports
    tracemalloc.start()
    buffer = load_dataset("minari/test/set-v0", device="cpu")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(buffer.observations, np.ndarray)
    assert isinstance(buffer.next_observations, np.ndarray)
    held = buffer.observations.nbytes + buffer.next_observations.nbytes
    assert held > 3_000_000
    assert peak < 1.3 * held


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (lambda: Sampled(spaces.Text(3)), r"its observation space is Text\(.*\); expected a Box, Discrete, "),
        (lambda: Sampled(spaces.Text(4)), r"its observation space is Text"),
        (lambda: Sampled(spaces.Tuple((vector_space(), vector_space()))), r"its observation space is Tuple"),
        (
            lambda: Sampled(spaces.Dict({"goal": spaces.Dict({"x": vector_space()})})),
            r"its observation space at 'goal' is Dict",
        ),
        (lambda: gymnasium.make("CartPole-v1"), r"minari/test/set-v0: .* found action space Discrete\(2\)"),
        (
            lambda: Sampled(vector_space(), spaces.Box(-np.inf, np.inf, (2,))),
            r"minari/test/set-v0: the algorithm needs bounded actions",
        ),
    ],
    ids=["discrete", "text", "tuple", "nested", "discrete actions", "unbounded actions"],
)
def test_spaces_that_are_not_offered(env: Any, message: str) -> None:
    collect(env(), lengths=(5,))
    with pytest.raises(DatasetError, match=message):
        load_dataset("minari/test/set-v0")


def test_a_missing_set_says_which_there_are() -> None:
    with pytest.raises(DatasetError, match=r"there are none; `minari download test/set-v0` fetches"):
        load_dataset("minari/test/set-v0")
    collect(gymnasium.make("Pendulum-v1"), "pendulum/random-v0", (5,))
    with pytest.raises(DatasetError, match="there are pendulum/random-v0;"):
        load_dataset("minari/mujoco/walker2d/expert-v0")
    with pytest.raises(DatasetError, match="nearest: pendulum/random-v0;"):
        load_dataset("minari/pendulum/random-v1")


@pytest.mark.parametrize(
    ("part", "rows", "message"),
    [
        (None, None, "episode 1 cannot be read"),
        ("observations", 20, r"episode 1: observations has shape \(20, 3\), expected \(21, 3\)"),
        ("actions", 19, r"episode 1: actions has shape \(19, 1\), expected \(20, 1\)"),
        ("truncations", 19, r"episode 1: truncations has shape \(19,\), expected \(20,\)"),
        ("rewards", 19, r"episode 1: observations has shape \(21, 3\), expected \(20, 3\)"),
    ],
)
def test_a_damaged_episode_is_named(tmp_path: Path, part: str | None, rows: int | None, message: str) -> None:
    collect(gymnasium.make("Pendulum-v1"), lengths=(20, 20, 20))
    (file,) = tmp_path.rglob("*.hdf5")
    with h5py.File(file, "a") as content:
        if part is None:
            del content["episode_1"]
        else:
            content[f"episode_1/{part}"].resize(rows, axis=0)
    with pytest.raises(DatasetError, match=f"minari/test/set-v0: {message}"):
        load_dataset("minari/test/set-v0")


def test_metadata_that_counts_other_steps(tmp_path: Path) -> None:
    collect(gymnasium.make("Pendulum-v1"), lengths=(20, 20))
    (file,) = tmp_path.rglob("metadata.json")
    text = file.read_text()
    for steps, message in ((41, "its episodes have 40 steps, its metadata tells 41"), (30, "episode 1 goes beyond")):
        file.write_text(text.replace('"total_steps": 40', f'"total_steps": {steps}'))
        with pytest.raises(DatasetError, match=message):
            load_dataset("minari/test/set-v0")


@pytest.mark.parametrize(
    ("old", "new"),
    [('"data_format"', '"data_shape"'), ('"minari_version": "', '"minari_version": "9'), ("{", "")],
    ids=["incomplete", "of another version", "no JSON"],
)
def test_metadata_that_minari_does_not_read(old: str, new: str, tmp_path: Path) -> None:
    collect(gymnasium.make("Pendulum-v1"), lengths=(5,))
    (file,) = tmp_path.rglob("metadata.json")
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(DatasetError, match="minari/test/set-v0: Minari cannot read it"):
        load_dataset("minari/test/set-v0")


@pytest.mark.parametrize("flag", ["terminations", "truncations"])
def test_flags_in_the_middle_of_an_episode_count(flag: str, tmp_path: Path) -> None:
    """As in tasks that go on after success: what follows is the true next observation all the same."""
    rows = collect(gymnasium.make("Pendulum-v1"), lengths=(20, 20))
    (file,) = tmp_path.rglob("*.hdf5")
    with h5py.File(file, "a") as content:
        content[f"episode_1/{flag}"][4] = True
    rows[24] = (*rows[24][:4], flag == "terminations", True)
    require_rows(load_dataset("minari/test/set-v0", device="cpu"), rows)


def test_an_image_space_is_recorded_by_the_collector_as_it_is() -> None:
    """Small images are not compressed by Minari."""
    rows = collect(Sampled(image_space(8, 8, 3)))
    require_rows(load_dataset("minari/test/set-v0", device="cpu"), rows)
