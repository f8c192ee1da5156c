"""Files that an earlier version of the package saved are refused, and new ones say what they are."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import pytest
from recordings import Arrays

from dipole_sb3 import DIPOLE, IQL, __version__
from dipole_sb3.cli import main
from dipole_sb3.learning.model_files import read_origin


def small(reacher_data: Arrays, kind: type = DIPOLE) -> DIPOLE:
    return kind("MlpPolicy", dataset=reacher_data, policy_kwargs={"net_arch": [4]}, device="cpu")


def aged(path: Path) -> None:
    """Makes a file look as 0.1 saved it: without a version, and with its policy where 0.1 had it."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(members["data"])
    del data["_origin"]
    data["policy_class"]["__module__"] = "dipole_sb3.policies"
    members["data"] = json.dumps(data).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("kind", [DIPOLE, IQL])
def test_a_file_names_its_algorithm_and_its_version(reacher_data: Arrays, tmp_path: Path, kind: type) -> None:
    small(reacher_data, kind).save(tmp_path / "model")
    expected = {"algorithm": f"dipole_sb3.{kind.__name__}", "version": __version__}
    assert read_origin(tmp_path / "model") == expected
    with open(tmp_path / "model.zip", "rb") as file:
        assert read_origin(file) == expected
        assert not file.closed


def test_a_model_of_the_version_before_is_refused(reacher_data: Arrays, tmp_path: Path) -> None:
    small(reacher_data).save(tmp_path / "model.zip")
    aged(tmp_path / "model.zip")
    with pytest.raises(
        ValueError, match=rf"model\.zip: was saved by dipole-sb3 0\.1, but this is {__version__}, "
    ) as caught:
        DIPOLE.load(tmp_path / "model.zip")
    assert "\n" not in str(caught.value)


def test_a_replay_buffer_of_the_version_before_is_refused(reacher_data: Arrays, tmp_path: Path) -> None:
    model = small(reacher_data)
    path = tmp_path / "buffer.pkl"
    # By reference to a class that is no longer where 0.1 had it.
    path.write_bytes(pickle.dumps(model.replay_buffer).replace(b"buffers.offline_buffer", b"buffers.earlier_buffer"))
    with pytest.raises(ValueError, match=rf"it was saved by dipole-sb3 0\.1, but this is {__version__}, "):
        model.load_replay_buffer(path)


def test_a_run_of_the_version_before_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text(
        "algo: {_target_: dipole_sb3.dipole.DIPOLE, policy: MlpPolicy, verbose: 0, device: cpu}\n"
        "task: {name: reacher, dataset: demo/reacher-tqc-10k, env: null}\nseed: 0\nrun_dir: r\nruns: 1\nreplace: no\n"
        "offline_steps: 5\nonline_steps: 0\nepisodes: 0\neval_seed: 0\nprocesses: 1\npictures: false\n"
    )
    (tmp_path / "checkpoints").mkdir()
    with zipfile.ZipFile(tmp_path / "checkpoints" / "model_2_steps.zip", "w") as archive:
        archive.writestr("data", json.dumps({"num_timesteps": 2}))
        archive.writestr("policy.pth", b"")
    assert main(["train", f"resume={tmp_path}"]) == 1
    assert f"of a run that dipole-sb3 0.1 began, but this is {__version__}" in capsys.readouterr().err
