"""robomimic's files. Its writers need a simulator, so these are written by h5py as its published code does it.

``dataset_states_to_obs.py`` and ``convert_d4rl.py`` of robomimic 0.3 write what :func:`write` writes; where robomimic
is installed, its own reader reads the same file to the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from commands import Command
from gymnasium import spaces

from dipole_sb3 import DIPOLE, DatasetError, OfflineReplayBuffer, load_dataset
from dipole_sb3.datasets import is_file_name
from dipole_sb3.datasets.conversion import convert

LENGTHS = (5, 3, 4)
KEYS = {"object": 4, "robot0_eef_pos": 3, "robot0_gripper_qpos": 2}
CHOSEN = ["robot0_eef_pos", "object"]


def write(path: Path, *, with_next: bool = True, images: bool = False, env_type: int = 1) -> dict[str, np.ndarray]:
    """Three demonstrations; the first two are done in their last step, the second also in its second.

    :return: what was written, over all demonstrations.
    """
    rows: dict[str, list[np.ndarray]] = {}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        # demo_10 comes after demo_2, and its name before it.
        for number, length in zip((0, 2, 10), LENGTHS, strict=True):
            random = np.random.default_rng(number)
            demo = data.create_group(f"demo_{number}")
            parts: dict[str, Any] = {
                "actions": random.uniform(-1, 1, (length, 2)),
                "rewards": random.normal(size=length),
                "dones": np.zeros(length, np.int64),
                "states": random.normal(size=(length, 9)),
            }
            parts["dones"][-1] = number != 10
            parts["dones"][1] |= number == 2
            for key, size in KEYS.items():
                values = random.normal(size=(length + 1, size))
                parts[f"obs/{key}"] = values[:-1]
                if with_next:
                    parts[f"next_obs/{key}"] = values[1:]
            if images:
                shape = (length, 8, 8, 3)
                parts["obs/agentview_image"] = random.integers(0, 256, shape, np.uint8)
                parts["obs/agentview_depth"] = random.random((*shape[:-1], 1)).astype(np.float32)
            for key, part in parts.items():
                demo.create_dataset(key, data=part, compression="gzip" if key.startswith(("obs", "next_obs")) else None)
                rows.setdefault(key, []).append(part)
            demo.attrs["num_samples"] = length
            demo.attrs["model_file"] = "<mujoco/>"
        data.attrs["total"] = sum(LENGTHS)
        env_args = {"env_name": "Lift", "env_type": env_type, "env_kwargs": {"robots": ["Panda"]}}
        data.attrs["env_args"] = json.dumps(env_args, indent=4)
        file["mask/train"] = np.array(["demo_0", "demo_10"], dtype="S8")
        file["mask/valid"] = np.array(["demo_2"], dtype="S8")
        file["mask/wrong"] = np.array(["demo_7"], dtype="S8")
    return {key: np.concatenate(parts) for key, parts in rows.items()}


def parts_of(buffer: OfflineReplayBuffer, name: str) -> dict[str, np.ndarray]:
    found = getattr(buffer, name)
    assert isinstance(found, dict)
    return found


def test_rows_are_the_steps(tmp_path: Path) -> None:
    rows = write(tmp_path / "lift.hdf5")
    assert not is_file_name(tmp_path / "lift.hdf5")
    buffer = load_dataset(tmp_path / "lift.hdf5", device="cpu")
    assert list(parts_of(buffer, "observations")) == sorted(KEYS)
    for key in KEYS:
        for name, stored in (("observations", "obs"), ("next_observations", "next_obs")):
            np.testing.assert_array_equal(parts_of(buffer, name)[key][:, 0], rows[f"{stored}/{key}"].astype(np.float32))
    np.testing.assert_array_equal(buffer.rewards[:, 0], rows["rewards"].astype(np.float32))
    np.testing.assert_allclose(buffer.actions[:, 0], rows["actions"], atol=2e-5)
    # The third demonstration just stops: by time.
    np.testing.assert_array_equal(buffer.dones[:, 0], [0, 0, 0, 0, 1, 0, 1, 1, 0, 0, 0, 1])
    np.testing.assert_array_equal(buffer.timeouts[:, 0], [0] * 11 + [1])
    assert buffer.metadata["env_args"]["env_name"] == "Lift"
    assert "env_id" not in buffer.metadata
    model = DIPOLE("MultiInputPolicy", dataset=buffer, policy_kwargs={"net_arch": [8]}, device="cpu", batch_size=4)
    model.learn(2)


def test_without_next_observations_they_are_the_next_rows(tmp_path: Path) -> None:
    rows = write(tmp_path / "lift.hdf5", with_next=False)
    buffer = load_dataset(tmp_path / "lift.hdf5", observations=["object"])
    # The last step of the third is left out: nobody knows where it led.
    assert buffer.size() == 11
    np.testing.assert_array_equal(buffer.dones[:, 0], [0, 0, 0, 0, 1, 0, 1, 1, 0, 0, 1])
    np.testing.assert_array_equal(buffer.timeouts[:, 0], [0] * 10 + [1])
    following = rows["obs/object"].astype(np.float32)[[1, 2, 3, 4, 4, 6, 7, 7, 9, 10, 11]]
    assert isinstance(buffer.next_observations, np.ndarray)
    np.testing.assert_array_equal(buffer.next_observations[:, 0], following)


def test_keys_filter_keys_and_rewards(tmp_path: Path) -> None:
    rows = write(tmp_path / "lift.hdf5")
    text = "10 * reward[0] + observation['robot0_eef_pos.1'] + 2 * next_observation[3] - action[1]"
    buffer = load_dataset(tmp_path / "lift.hdf5", observations=CHOSEN, filter_key="train", reward=text)
    kept = [0, 1, 2, 3, 4, 8, 9, 10, 11]
    assert sorted(parts_of(buffer, "observations")) == sorted(CHOSEN)
    by_hand = 10 * rows["rewards"] + rows["obs/robot0_eef_pos"][:, 1] + 2 * rows["next_obs/object"][:, 0]
    np.testing.assert_allclose(buffer.rewards[:, 0], (by_hand - rows["actions"][:, 1])[kept], rtol=1e-5, atol=1e-5)
    assert load_dataset(tmp_path / "lift.hdf5", filter_key="valid").size() == 3
    assert buffer.metadata["filter_key"] == "train"


def test_images_are_left_out_unless_they_are_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "lift.hdf5", images=True)
    write(tmp_path / "plain.hdf5")
    found, plain = (load_dataset(tmp_path / name, filter_key="train") for name in ("lift.hdf5", "plain.hdf5"))
    assert found.observation_space == plain.observation_space
    for key in ("agentview_image", "agentview_depth"):
        with pytest.raises(DatasetError, match=f"{key} is an image, which is not read yet; .* object, robot0_eef_pos"):
            load_dataset(tmp_path / "lift.hdf5", observations=["object", key])


def test_the_command_converts(dipole: Command, tmp_path: Path) -> None:
    write(tmp_path / "lift.hdf5", env_type=2)
    assert dipole("data", "check", "lift.hdf5")[0] == 0
    assert "12 transitions" in dipole("data", "info", "lift.hdf5")[1]
    options = ("--observations", *CHOSEN, "--filter-key", "train", "--reward", "action[0] + reward[0]")
    assert dipole("data", "convert", "lift.hdf5", "lift", *options)[0] == 0
    direct = load_dataset("lift.hdf5", observations=CHOSEN, filter_key="train", reward="action[0] + reward[0]")
    assert load_dataset("lift").checksum == direct.checksum
    assert load_dataset("lift").metadata["env_id"] == "Lift"
    status, _, error = dipole("data", "convert", "lift.hdf5", "b", "--filter-key", "nobody")
    assert (status, error.count("\n")) == (1, 1)
    assert "lift.hdf5: has no filter key nobody; found train, valid, wrong" in error


def test_bounds_of_actions(tmp_path: Path) -> None:
    write(tmp_path / "lift.hdf5")
    space = spaces.Box(np.float32([-2, -2]), np.float32([2, 2]))
    buffer = load_dataset(tmp_path / "lift.hdf5", action_space=space)
    assert np.abs(buffer.actions).max() <= 0.5
    with pytest.raises(DatasetError, match=r"its actions have shape \(2,\), expected \(1,\), as the bounds have"):
        load_dataset(tmp_path / "lift.hdf5", action_space=spaces.Box(np.float32([-2]), np.float32([2])))


def widened(file: h5py.File) -> None:
    del file["data/demo_2/actions"]
    file["data/demo_2/actions"] = np.zeros((3, 5))


def removed(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]

    return change


def shortened(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        values = file[name][()]
        del file[name]
        file[name] = values[:-1]

    return change


def told(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        group, _, key = name.rpartition(":")
        file[group].attrs[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (removed("data/demo_2/actions"), "demo_2: has no actions, which other demonstrations have; found dones"),
        (removed("data/demo_0/obs"), "demo_0 has no obs, as before robomimic's dataset_states_to_obs"),
        (removed("data/demo_2/obs/object"), "demo_2: has no obs/object, which other demonstrations"),
        (removed("data/demo_2/next_obs/object"), "demo_2: has no next_obs/object"),
        (shortened("data/demo_2/rewards"), r"demo_2: rewards has shape \(2,\), expected \(3,\)"),
        (shortened("data/demo_2/obs/object"), r"demo_2: obs/object has shape \(2, 4\), expected \(3, 4\)"),
        (widened, r"demo_2: actions has rows of shape \(5,\), expected \(2,\) as in demo_0"),
        (told("data/demo_10:num_samples", 9), "demo_10: has 4 rows, its num_samples tells 9"),
        (told("data:env_args", "{"), "its env_args are not valid JSON"),
    ],
)
def test_files_that_are_wrong(tmp_path: Path, change: Callable[[h5py.File], None], message: str) -> None:
    write(tmp_path / "lift.hdf5")
    with h5py.File(tmp_path / "lift.hdf5", "a") as file:
        change(file)
    with pytest.raises(DatasetError, match=message) as caught:
        load_dataset(tmp_path / "lift.hdf5")
    assert "\n" not in str(caught.value)


def test_demonstrations_that_differ_in_what_they_have(tmp_path: Path) -> None:
    for name in ("rewards", "next_obs"):
        write(tmp_path / "lift.hdf5")
        with h5py.File(tmp_path / "lift.hdf5", "a") as file:
            del file[f"data/demo_2/{name}"]
        with pytest.raises(DatasetError, match=rf"demo_2: has no {name}\S*, which other demonstrations have"):
            load_dataset(tmp_path / "lift.hdf5")


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    write(tmp_path / "lift.hdf5")
    with h5py.File(tmp_path / "lift.hdf5", "a") as file:
        file["data/demo_2/obs/object"][1, 0] = np.nan
    with pytest.raises(DatasetError, match="demo_2: obs/object has NaN or infinity, first in row 1"):
        load_dataset(tmp_path / "lift.hdf5")


def test_no_rewards_want_an_expression(tmp_path: Path) -> None:
    write(tmp_path / "lift.hdf5")
    with h5py.File(tmp_path / "lift.hdf5", "a") as file:
        for name in list(file["data"]):
            del file[f"data/{name}/rewards"]
    with pytest.raises(DatasetError, match="has no rewards; expected a reward expression"):
        load_dataset(tmp_path / "lift.hdf5")
    assert load_dataset(tmp_path / "lift.hdf5", reward="-action[0]").size() == 12


def test_filter_keys_that_name_nothing(tmp_path: Path) -> None:
    write(tmp_path / "lift.hdf5")
    with pytest.raises(DatasetError, match="the filter key wrong names demo_7, which is not in the file"):
        load_dataset(tmp_path / "lift.hdf5", filter_key="wrong")


def test_truncated_files(tmp_path: Path) -> None:
    write(tmp_path / "lift.hdf5")
    whole = (tmp_path / "lift.hdf5").read_bytes()
    for share in (0.1, 0.5, 0.9):
        (tmp_path / "lift.hdf5").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(DatasetError, match=r"lift\.hdf5: (not a complete HDF5 file|the file is damaged)"):
            load_dataset(tmp_path / "lift.hdf5")
        with pytest.raises(DatasetError):
            convert(tmp_path / "lift.hdf5", tmp_path / "b")


def test_robomimic_reads_the_same(tmp_path: Path) -> None:
    """Its own reader, on the same file and under the same filter key."""
    module = pytest.importorskip("robomimic.utils.dataset")
    observations = pytest.importorskip("robomimic.utils.obs_utils")
    write(tmp_path / "lift.hdf5")
    observations.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": list(KEYS), "rgb": []}})
    theirs = module.SequenceDataset(
        str(tmp_path / "lift.hdf5"),
        tuple(KEYS),
        ("actions", "rewards", "dones"),
        frame_stack=1,
        seq_length=1,
        hdf5_cache_mode=None,
        filter_by_attribute="train",
        load_next_obs=True,
    )
    buffer = load_dataset(tmp_path / "lift.hdf5", filter_key="train")
    assert len(theirs) == buffer.size()
    for row in range(buffer.size()):
        found = theirs[row]
        for key in KEYS:
            for name, stored in (("observations", "obs"), ("next_observations", "next_obs")):
                read = np.asarray(found[stored][key][0], np.float32)
                np.testing.assert_array_equal(parts_of(buffer, name)[key][row, 0], read)
        assert buffer.rewards[row, 0] == np.float32(found["rewards"][0])
        stops = buffer.dones[row, 0] * (1 - buffer.timeouts[row, 0])
        assert stops == found["dones"][0]
