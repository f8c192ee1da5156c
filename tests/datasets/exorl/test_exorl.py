"""ExORL's recordings: rewards against the environment's own and against closed forms, alignment, damaged files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dm_control import suite
from exorl_recordings import STEPS, TASKS, Episodes, open_environment, record, transitions

from dipole_sb3 import OfflineReplayBuffer, load_dataset
from dipole_sb3.buffers import stored_arrays
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets import make_env
from dipole_sb3.datasets.exorl import loading as exorl_loading
from dipole_sb3.datasets.exorl.names import DOMAINS
from dipole_sb3.datasets.exorl.tasks import REACH_TARGETS


@pytest.fixture
def walker(recorded: tuple[Path, Any], tmp_path: Path) -> Path:
    """A folder of recordings of this test's own: walker/rnd, five episodes."""
    source = recorded[0] / "walker" / "walk" / "buffer"
    first = sorted(source.glob("*.npz"))[0]
    folder = tmp_path / "walker" / "rnd" / "buffer"
    folder.mkdir(parents=True)
    for index in range(5):
        shutil.copy(first, folder / f"episode_{index:06d}_{STEPS}.npz")
    return tmp_path


def load(folder: Path, name: str = "exorl/walker/rnd/walk", **options: Any) -> OfflineReplayBuffer:
    return load_dataset(name, dataset_dir=folder, device="cpu", **options)


def change(path: Path, **changes: Callable[[np.ndarray], np.ndarray] | None) -> None:
    """Rewrites an episode with some of its arrays changed, or without them."""
    with np.load(path) as archive:
        arrays = dict(archive)
    for key, function in changes.items():
        array = arrays.pop(key)
        if function is not None:
            arrays[key] = function(array)
    np.savez_compressed(path, **arrays)


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


# What the arrays are


@pytest.mark.parametrize(("domain", "task"), TASKS, ids=map("-".join, TASKS))
def test_relabelled_rewards_are_those_of_the_environment(
    recorded: tuple[Path, dict[tuple[str, str], Episodes]], domain: str, task: str
) -> None:
    folder, episodes = recorded[0], recorded[1][domain, task]
    buffer = load(folder, f"exorl/{domain}/{task}/{task}")
    expected = transitions(episodes, "reward")[:, 0]
    np.testing.assert_array_equal(buffer.rewards[:, 0], expected)
    assert len(np.unique(expected)) > STEPS / 2  # so a row too early or too late would be another one
    assert expected.max() > 1e-3
    np.testing.assert_array_equal(buffer.next_observations[:, 0], transitions(episodes, "observation"))
    observations = np.concatenate([episode["observation"][:-1] for episode in episodes])
    np.testing.assert_array_equal(buffer.observations[:, 0], observations)
    np.testing.assert_allclose(buffer.actions[:, 0], transitions(episodes, "action"), rtol=0, atol=2e-5)
    ends = np.cumsum([len(episode["reward"]) - 1 for episode in episodes]) - 1
    assert list(np.flatnonzero(buffer.dones[:, 0])) == list(ends)
    np.testing.assert_array_equal(buffer.timeouts, buffer.dones)  # masks of 1: every end is a time limit
    assert buffer.metadata["env_id"] == f"exorl/{domain}-{task}-v0"
    assert buffer.metadata["episodes"] == len(episodes)


def gaussian(distance: np.ndarray, margin: float) -> np.ndarray:
    """dm_control's default tolerance: 1 inside the bounds, 0.1 at the margin."""
    return np.where(distance <= 0, 1.0, 0.1 ** (np.maximum(distance, 0) ** 2 / margin**2))


def half_at_margin(speed: np.ndarray, wanted: float, margin: float) -> np.ndarray:
    """Linear from 1 at the wanted speed through 1/2 at the margin to 0."""
    return np.clip(1 - 0.5 * (wanted - speed) / margin, 0, 1)


def reward_by_hand(domain: str, task: str, episodes: Episodes) -> np.ndarray:
    """The task's formula on what the published files hold, without its code."""
    seen = transitions(episodes, "observation").astype(np.float64)
    if domain == "jaco":
        return gaussian(np.linalg.norm(seen[:, 30:33] - REACH_TARGETS[task], axis=1) - 0.05, 0.05)
    if domain == "cheetah":
        speed = _cheetah_speed(transitions(episodes, "physics"))
        return np.clip((speed if task == "run" else -speed) / 10, 0, 1)
    if domain == "quadruped":
        wanted = {"walk": 0.5, "run": 5.0}[task]
        return (1 + seen[:, 47]) / 2 * half_at_margin(seen[:, 44], wanted, wanted)
    # The torso turns in one plane, so what its x axis has of the world's x is what its z axis has of the world's z.
    standing = (3 * gaussian(1.2 - seen[:, 14], 0.6) + (1 + seen[:, 0]) / 2) / 4
    if task == "stand":
        return standing
    wanted = {"walk": 1.0, "run": 8.0}[task]
    return standing * (5 * half_at_margin(_walker_speed(transitions(episodes, "physics")), wanted, wanted / 2) + 1) / 6


def _cheetah_speed(states: np.ndarray) -> np.ndarray:
    return _centre_of_mass_velocity(suite.load("cheetah", "run").physics, states)


def _walker_speed(states: np.ndarray) -> np.ndarray:
    return _centre_of_mass_velocity(suite.load("walker", "stand").physics, states)


def _centre_of_mass_velocity(physics: Any, states: np.ndarray, lapse: float = 1e-6) -> np.ndarray:
    """By differences of positions, a moment before and after every state."""
    velocities = []
    for state in states:
        position, velocity = np.split(state, 2)
        places = []
        for moment in (-lapse, lapse):
            with physics.reset_context():
                physics.set_state(np.concatenate([position + moment * velocity, velocity]))
            places.append(physics.named.data.subtree_com["torso", "x"])
        velocities.append((places[1] - places[0]) / (2 * lapse))
    return np.array(velocities)


@pytest.mark.parametrize(("domain", "task"), TASKS, ids=map("-".join, TASKS))
def test_another_tasks_recording_gets_this_tasks_reward(
    recorded: tuple[Path, dict[tuple[str, str], Episodes]], domain: str, task: str
) -> None:
    other = next(name for name in DOMAINS[domain].tasks if name != task)
    buffer = load(recorded[0], f"exorl/{domain}/{other}/{task}")
    episodes = recorded[1][domain, other]
    np.testing.assert_allclose(buffer.rewards[:, 0], reward_by_hand(domain, task, episodes), rtol=0, atol=2e-5)
    if domain != "jaco":  # both targets are far apart: next to one, the other's reward is all but 0
        assert not np.allclose(buffer.rewards[:, 0], transitions(episodes, "reward")[:, 0], atol=1e-4)


def test_an_action_leads_from_its_observation_to_its_next_one(recorded: tuple[Path, Any]) -> None:
    """The physics itself tells which action belongs to which transition."""
    buffer = load(recorded[0], "exorl/walker/walk/walk")
    environment: Any = open_environment("walker", "walk").unwrapped
    environment.reset(seed=0)
    physics = environment.physics
    states = np.concatenate([episode["physics"][:-1] for episode in recorded[1]["walker", "walk"]])

    def deviation(row: int, action_row: int) -> float:
        with physics.reset_context():
            physics.set_state(states[row])
        found, *_ = environment.step(buffer.actions[action_row, 0])
        return float(np.abs(found - buffer.next_observations[row, 0]).max())

    rows = range(3, STEPS - 1)
    np.testing.assert_array_equal(buffer.observations[4, 0], buffer.next_observations[3, 0])
    assert np.mean([deviation(row, row) for row in rows]) < 0.05
    assert min(np.mean([deviation(row, row + shift) for row in rows]) for shift in (-1, 1)) > 1


def test_row_zero_is_no_transition(walker: Path) -> None:
    """Whatever the dummy action says, and the state before the first step, nothing of it arrives."""
    before = load(walker).actions.copy()
    for path in sorted((walker / "walker/rnd/buffer").glob("*.npz")):
        change(path, action=lambda array: np.concatenate([np.full_like(array[:1], 0.77), array[1:]]))
    np.testing.assert_array_equal(load(walker).actions, before)


def test_buffer_knows_its_environment(walker: Path) -> None:
    buffer = load(walker)
    environment = make_env(buffer)
    assert environment.spec is not None
    assert environment.spec.id == "exorl/walker-walk-v0"
    assert environment.observation_space == buffer.observation_space
    assert environment.action_space == buffer.action_space


def test_names(walker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXORL_DATA_DIR", str(walker))
    assert load_dataset("exorl/walker/rnd/walk", device="cpu").size() == 5 * STEPS
    for name, sentence in {
        "exorl/walker-walk": "expected exorl/<domain>/<algorithm>/<task>, such as exorl/walker/rnd/walk",
        "exorl/walkr/rnd/walk": r"there is no domain walkr here; did you mean walker\?",
        "exorl/walker/rnd/run-backward": "the domain walker has no task run-backward; expected run, stand or walk",
        "exorl/walker/../walk": r"\.\. is no name of an algorithm",
    }.items():
        with pytest.raises(DatasetError, match=sentence):
            load_dataset(name)


# Relabelling


def test_processes_do_not_change_a_bit(tmp_path: Path) -> None:
    record(tmp_path / "walker/rnd", "walker", "walk", episodes=5)
    alone = stored_arrays.checksum(_cache_after(tmp_path, processes=1))
    shutil.rmtree(tmp_path / "walker/rnd/walk.relabelled-v1")
    assert stored_arrays.checksum(_cache_after(tmp_path, processes=2)) == alone


def _cache_after(folder: Path, **options: Any) -> Path:
    load(folder, **options)
    return folder / "walker/rnd/walk.relabelled-v1"


def test_relabels_once(walker: Path) -> None:
    cache = _cache_after(walker)
    made = (cache / "dataset.json").stat().st_mtime_ns
    load(walker)
    shutil.rmtree(walker / "walker/rnd/buffer")  # no longer needed
    assert load(walker).size() == 5 * STEPS
    assert (cache / "dataset.json").stat().st_mtime_ns == made
    assert visible(walker / "walker/rnd") == ["walk.relabelled-v1"]


def test_other_episodes_are_relabelled_anew(walker: Path) -> None:
    load(walker)
    (walker / "walker/rnd/buffer" / f"episode_000002_{STEPS}.npz").unlink()
    assert load(walker).size() == 4 * STEPS


def test_another_version_does_not_take_what_an_older_one_kept(walker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(walker)
    monkeypatch.setattr(exorl_loading, "RELABELLER_VERSION", 2)
    load(walker)
    assert visible(walker / "walker/rnd") == ["buffer", "walk.relabelled-v1", "walk.relabelled-v2"]


def test_no_processes(walker: Path) -> None:
    with pytest.raises(ValueError, match="processes is 0; expected at least 1"):
        load(walker, processes=0)


# Damage

MIDDLE = f"episode_000002_{STEPS}.npz"

DAMAGE: dict[str, tuple[dict[str, Any], str]] = {
    "another width": (
        {"observation": lambda array: array[:, 1:]},
        r"observation has shape \(26, 23\), expected \(26, 24\)",
    ),
    "another domain": ({"physics": lambda array: np.zeros((26, 57))}, r"physics has shape \(26, 57\).*domain walker"),
    "a row too few": ({"action": lambda array: array[1:]}, "action has 25 rows, expected 26: the 25 steps of its name"),
    "no actions": ({"action": None}, "lacks action; found discount, observation, physics, reward; expected"),
    "NaN": (
        {"observation": lambda array: np.where(array == array[7], np.nan, array)},
        "NaN or infinity, first in row 7",
    ),
    "impossible state": (
        {"physics": lambda array: np.where(array == array[3], 1e30, array)},
        "physics row 3 is no state",
    ),
    "large action": ({"action": lambda array: np.where(array == array[5], 1.5, array)}, "action row 5 holds 1.5"),
    "an end": ({"discount": lambda array: np.where(np.arange(26)[:, None] == 25, 0, array)}, "discount is not 1"),
}


@pytest.mark.parametrize(("damage", "processes"), [*((damage, 1) for damage in DAMAGE), ("NaN", 2)])
def test_damaged_episode_in_the_middle_is_named(walker: Path, damage: str, processes: int) -> None:
    changes, sentence = DAMAGE[damage]
    change(walker / "walker/rnd/buffer" / MIDDLE, **changes)
    with pytest.raises(DatasetError, match=f"{MIDDLE}: .*{sentence}") as caught:
        load(walker, processes=processes)
    assert "\n" not in str(caught.value)
    assert visible(walker / "walker/rnd") == ["buffer"]


def test_truncated_episode_is_named(walker: Path) -> None:
    path = walker / "walker/rnd/buffer" / MIDDLE
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DatasetError, match=f"{MIDDLE}: cannot be read as an .npz file, it may be truncated or damaged"):
        load(walker)
    assert visible(walker / "walker/rnd") == ["buffer"]


def test_damaged_bytes_in_an_episode_are_noticed(walker: Path) -> None:
    path = walker / "walker/rnd/buffer" / MIDDLE
    whole = path.read_bytes()
    path.write_bytes(whole[:400] + bytes(40) + whole[440:])
    with pytest.raises(DatasetError, match=f"{MIDDLE}: cannot be read as an .npz file, .*damaged"):
        load(walker)


def test_a_recording_of_another_domain(recorded: tuple[Path, Any], tmp_path: Path) -> None:
    """Cheetah and walker have states of the same width; what is seen tells them apart."""
    shutil.copytree(recorded[0] / "cheetah/run/buffer", tmp_path / "walker/rnd/buffer")
    with pytest.raises(
        DatasetError, match=r"episode_000000_25\.npz: observation has shape \(26, 17\), .*domain walker"
    ):
        load(tmp_path)


def test_no_recording_names_the_next_command(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no recording in it; .*`dipole data fetch exorl/walker/rnd` fetches"):
        load(tmp_path)
    (tmp_path / "walker/rnd/buffer").mkdir(parents=True)
    with pytest.raises(
        DatasetError, match=r"buffer: the folder has no episodes in it; expected files such as episode_"
    ):
        load(tmp_path)
    (tmp_path / "walker/rnd/buffer/copy of episode.npz").touch()
    with pytest.raises(DatasetError, match=r"copy of episode\.npz: this is no episode's name"):
        load(tmp_path)


def test_a_name_that_promises_no_step(walker: Path) -> None:
    for path in (walker / "walker/rnd/buffer").glob("*.npz"):
        path.rename(path.with_name(path.name.replace(f"_{STEPS}", "_0")))
    with pytest.raises(DatasetError, match=r"episode_000000_0\.npz: its name promises 0 steps"):
        load(walker)


def test_episodes_keep_their_order(walker: Path) -> None:
    """By number: their names alone would put the hundredth before the second."""
    buffer = walker / "walker/rnd/buffer"
    for path in list(buffer.iterdir()):
        path.unlink()
    episodes = record(walker / "walker/rnd", "walker", "walk", episodes=3)
    expected = load(walker).rewards.copy()
    for index, path in enumerate(sorted(buffer.glob("*.npz"))):
        path.rename(buffer / f"episode_{10**index}_{STEPS + index}.npz")
    np.testing.assert_array_equal(load(walker).rewards, expected)
    assert len(expected) == sum(len(episode["reward"]) - 1 for episode in episodes)
