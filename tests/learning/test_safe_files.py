"""Safe models: the same model without a pickle, and nothing of a hostile file runs."""

from __future__ import annotations

import base64
import io
import json
import pickle
import sys
import zipfile
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hostile_models import Payload, write_hostile_model
from hypothesis import given
from hypothesis import strategies as st
from recordings import Arrays
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.save_util import save_to_zip_file
from stable_baselines3.common.torch_layers import FlattenExtractor

from dipole_sb3 import DIPOLE, DatasetError, ResumableCheckpoint, load_dataset
from dipole_sb3.cli import main
from dipole_sb3.cli.models import load_model
from dipole_sb3.common import trust
from dipole_sb3.learning import safe_files
from dipole_sb3.recording.agents import load_agent


def small(reacher_data: Arrays, **arguments: Any) -> DIPOLE:
    kwargs = {"net_arch": [4], **arguments.pop("policy_kwargs", {})}
    return DIPOLE("MlpPolicy", dataset=reacher_data, policy_kwargs=kwargs, device="cpu", seed=0, **arguments)


@pytest.fixture
def hostile(reacher_data: Arrays, tmp_path: Path) -> tuple[Path, Path]:
    """A model in SB3's format that makes a file when it is loaded, and that file."""
    path, ran = tmp_path / "hostile.zip", tmp_path / "ran"
    write_hostile_model(small(reacher_data), path, ran)
    return path, ran


def test_the_payload_runs_where_files_are_trusted(hostile: tuple[Path, Path]) -> None:
    """Else the tests below would show nothing."""
    path, ran = hostile
    DIPOLE.load(path)
    assert ran.exists()


def test_nothing_runs_without_trust(hostile: tuple[Path, Path]) -> None:
    path, ran = hostile
    with pytest.raises(ValueError, match="runs code that the file brings"):
        DIPOLE.load(path, trust=False)
    assert not ran.exists()


@pytest.mark.parametrize("how", ["load", "set_parameters", "evaluate"])
def test_nothing_runs_with_the_environment_variable(
    hostile: tuple[Path, Path], reacher_data: Arrays, monkeypatch: pytest.MonkeyPatch, capsys: Any, how: str
) -> None:
    path, ran = hostile
    monkeypatch.setenv(trust.VARIABLE, "1")
    if how in ("load", "set_parameters"):
        with pytest.raises(ValueError, match="DIPOLE_SAFE=1"):
            DIPOLE.load(path) if how == "load" else small(reacher_data).set_parameters(path)
    else:
        with pytest.raises(SystemExit):
            main([how, f"model={path}", "env=Reacher-v5", "episodes=1"])
        assert "DIPOLE_SAFE=1" in capsys.readouterr().err
    assert not ran.exists()


def test_runs_and_buffers_are_refused_too(
    reacher_data: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small(reacher_data).learn(2, callback=ResumableCheckpoint(1, tmp_path / "run"))
    model.save_replay_buffer(tmp_path / "buffer")
    monkeypatch.setenv(trust.VARIABLE, "1")
    with pytest.raises(ValueError, match="resuming a run runs code"):
        DIPOLE.resume(tmp_path / "run", dataset=reacher_data)
    with pytest.raises(ValueError, match="pickled replay buffer runs code"):
        model.load_replay_buffer(tmp_path / "buffer")
    with pytest.raises(DatasetError, match="DIPOLE_SAFE=1 refuses"):
        load_dataset(str(tmp_path / "buffer.pkl"), trust_pickle=True)
    with pytest.raises(ValueError, match="loading an agent runs code"):
        load_agent("sac", tmp_path / "run" / "model_1_steps.zip")


def test_not_even_the_module_of_the_algorithm_is_imported(
    hostile: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, ran = hostile
    (tmp_path / "attacker.py").write_text(f"open({str(ran)!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(trust.VARIABLE, "1")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(members["data"])
    data["_origin"] = {"algorithm": "attacker.DIPOLE", "version": "0"}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**members, "data": json.dumps(data).encode()}.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match="DIPOLE_SAFE=1"):
        load_model(path, "cpu")
    with pytest.raises(ValueError, match="DIPOLE_SAFE=1"):
        DIPOLE.load(path)
    assert not ran.exists()


@pytest.mark.parametrize("where", ["policy_kwargs", "nested", "items"])
def test_a_pickle_hidden_in_a_safe_file_does_not_run(reacher_data: Arrays, tmp_path: Path, where: str) -> None:
    """SB3's own reading would unpickle every mapping that has this key."""
    ran = tmp_path / "ran"
    marked = {":type:": "x", ":serialized:": base64.b64encode(pickle.dumps(Payload(ran))).decode()}
    value: Any = {
        "policy_kwargs": marked,
        "nested": [{"inner": marked}],
        "items": {"$items": [list(pair) for pair in marked.items()]},
    }[where]
    path = forged(reacher_data, tmp_path / "model.zip", put("data", "policy_kwargs", value=value))
    with pytest.raises(ValueError, match="which SB3 would unpickle"):
        DIPOLE.load(path, trust=False)
    assert not ran.exists()


def test_zero_means_that_files_are_trusted(
    reacher_data: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(reacher_data).save(tmp_path / "model")
    monkeypatch.setenv(trust.VARIABLE, "0")
    assert DIPOLE.load(tmp_path / "model")


def test_a_safe_file_has_no_pickle_and_no_path_of_its_machine(reacher_data: Arrays, tmp_path: Path) -> None:
    small(reacher_data, tensorboard_log=str(tmp_path / "secret")).save(tmp_path / "model", format="safe")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        assert sorted(archive.namelist()) == [safe_files.MODEL, safe_files.WEIGHTS]
        content = archive.read(safe_files.MODEL).decode()
    assert "secret" not in content
    assert ":serialized:" not in content
    assert DIPOLE.load(tmp_path / "model", trust=False).tensorboard_log is None


def test_classes_of_torch_and_an_open_file(reacher_data: Arrays) -> None:
    kwargs = {"activation_fn": torch.nn.Tanh, "features_extractor_class": FlattenExtractor}
    model = small(reacher_data, policy_kwargs={**kwargs, "optimizer_class": torch.optim.AdamW})
    file = io.BytesIO()
    model.save(file, format="safe")
    file.seek(0)
    loaded = DIPOLE.load(file, trust=False)
    assert loaded.policy_kwargs == model.policy_kwargs
    assert isinstance(loaded.policy.optimizer, torch.optim.AdamW)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"action_noise": NormalActionNoise(np.zeros(2), np.ones(2))}, "action_noise is a NormalActionNoise"),
        ({"learning_rate": lambda progress: 1e-3 * progress}, "learning_rate is a function"),
        ({"policy_kwargs": {"activation_fn": type("Own", (torch.nn.ReLU,), {})}}, "is no module or optimiser of torch"),
    ],
)
def test_what_a_safe_file_cannot_hold_leaves_the_earlier_file(
    reacher_data: Arrays, tmp_path: Path, arguments: dict[str, Any], named: str
) -> None:
    small(reacher_data).save(tmp_path / "model", format="safe")
    before = (tmp_path / "model.zip").read_bytes()
    with pytest.raises(ValueError, match=named):
        small(reacher_data, **arguments).save(tmp_path / "model", format="safe")
    assert (tmp_path / "model.zip").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]


def test_a_device_that_there_is_not_is_not_the_files_fault(reacher_data: Arrays, tmp_path: Path) -> None:
    small(reacher_data).save(tmp_path / "model.zip", format="safe")
    with pytest.raises(RuntimeError, match="device string: gpu"):
        DIPOLE.load(tmp_path / "model.zip", device="gpu")


def test_a_format_that_there_is_not(reacher_data: Arrays, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="format is 'pickle', expected 'classic' or 'safe'"):
        small(reacher_data).save(tmp_path / "model", format="pickle")  # type: ignore[arg-type]


# Hostile safe files


def forged(reacher_data: Arrays, path: Path, change: Any) -> Path:
    small(reacher_data).save(path, format="safe")
    with zipfile.ZipFile(path) as archive:
        description, weights = json.loads(archive.read(safe_files.MODEL)), archive.read(safe_files.WEIGHTS)
    description = change(description) or description
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(safe_files.MODEL, json.dumps(description))
        archive.writestr(safe_files.WEIGHTS, weights)
    return path


def put(*keys: str, value: Any) -> Any:
    def change(description: dict[str, Any]) -> None:
        inner = description
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("policy", value="os.system"), "os.system is no module or optimiser"),
        (put("policy", value="torch.nn.ReLU"), "torch.nn.ReLU is no policy of dipole_sb3"),
        (put("policy", value="dipole_sb3.cli.main"), "dipole_sb3.cli.main is no module"),
        (put("policy", value="antigravity.fly"), "antigravity.fly is no module"),
        (put("data", "gamma", value={"$class": "subprocess.Popen"}), "subprocess.Popen is no module"),
        (put("data", "gamma", value={"$class": "torch.nn.modules.module.os"}), "there is no class"),
        (put("data", "gamma", value={"$eval": "1"}), "holds what no safe model has"),
        (put("data", "gamma", value={"$tensor": "nowhere"}), "holds what no safe model has"),
        (put("data", "__class__", value=1), "a name of an attribute is none"),
        (put("data", "_origin", value={"algorithm": "antigravity.DIPOLE"}), "names no algorithm of dipole_sb3"),
        (put("data", "_origin", value="DIPOLE"), "names no algorithm of dipole_sb3"),
        (put("format", value=99), "its format is not 1"),
        (put("data", value=[]), "it has no data"),
        (lambda description: {"format": 1}, "it has no data"),
        (lambda description: description["data"].pop("observation_space") and None, "no observation_space"),
        (put("data", "gamma", value={"$deque": [], "maxlen": 10**30}), "holds what no safe model has"),
        (
            put("data", "seed", value={"$space": {"type": "Discrete", "n": 10**40, "start": 0, "dtype": "int64"}}),
            "what no",
        ),
        (
            put(
                "data",
                "seed",
                value={"$space": {"type": "Box", "shape": [10**6] * 3, "dtype": "float32", "low": 0, "high": 1}},
            ),
            "holds what no safe model has",
        ),
        (lambda description: [description], "its format is not 1"),
    ],
)
def test_hostile_safe_files(reacher_data: Arrays, tmp_path: Path, change: Any, message: str) -> None:
    path = forged(reacher_data, tmp_path / "model.zip", change)
    with pytest.raises(ValueError, match=message) as error:
        DIPOLE.load(path, trust=False)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("value", [[], "text", {}, -1, None, {"$float": "nan"}, [[[1]]]])
def test_values_of_another_kind_are_one_sentence_or_no_matter(
    reacher_data: Arrays, tmp_path: Path, value: object
) -> None:
    """Whatever stands in an attribute's place, nothing but a ValueError of one line comes out."""
    small(reacher_data).save(tmp_path / "model.zip", format="safe")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        description, weights = json.loads(archive.read(safe_files.MODEL)), archive.read(safe_files.WEIGHTS)
    sentences = []
    for name in description["data"]:
        changed = {**description, "data": {**description["data"], name: value}}
        with zipfile.ZipFile(tmp_path / "changed.zip", "w") as archive:
            archive.writestr(safe_files.MODEL, json.dumps(changed))
            archive.writestr(safe_files.WEIGHTS, weights)
        try:
            DIPOLE.load(tmp_path / "changed.zip", trust=False)
        except ValueError as error:
            sentences.append(str(error))
    assert len(sentences) > 5
    assert not [sentence for sentence in sentences if "\n" in sentence]


@pytest.mark.parametrize("end", [100, 3000, -30])
def test_truncated_safe_files(reacher_data: Arrays, tmp_path: Path, end: int) -> None:
    small(reacher_data).save(tmp_path / "model", format="safe")
    path = tmp_path / "model.zip"
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(ValueError, match=r"is not a|runs code|truncated|damaged"):
        DIPOLE.load(path, trust=False)


def test_damaged_weights(reacher_data: Arrays, tmp_path: Path) -> None:
    small(reacher_data).save(tmp_path / "model", format="safe")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        description = archive.read(safe_files.MODEL)
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr(safe_files.MODEL, description)
        archive.writestr(safe_files.WEIGHTS, b"\x00" * 64)
    with pytest.raises(ValueError, match="it is damaged or not a safe model"):
        DIPOLE.load(tmp_path / "model.zip", trust=False)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_a_file_that_hides_its_size(reacher_data: Arrays, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(safe_files.MODEL, b" " * (1 << 20))
        archive.writestr(safe_files.WEIGHTS, b"")
    with pytest.raises(ValueError, match="its members are compressed"):
        DIPOLE.load(tmp_path / "model.zip", trust=False)


@pytest.mark.parametrize("depth", [600, 100_000])
def test_a_file_that_is_too_deep(reacher_data: Arrays, tmp_path: Path, depth: int) -> None:
    small(reacher_data).save(tmp_path / "model", format="safe")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        description, weights = archive.read(safe_files.MODEL).decode(), archive.read(safe_files.WEIGHTS)
    description = description.replace('"seed": 0', f'"seed": {nested(depth)}')
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr(safe_files.MODEL, description)
        archive.writestr(safe_files.WEIGHTS, weights)
    limit = sys.getrecursionlimit()
    try:
        # As libraries set it that are imported in the same process.
        sys.setrecursionlimit(10_000)
        with pytest.raises(ValueError, match="cannot load"):
            DIPOLE.load(tmp_path / "model.zip", trust=False)
    finally:
        sys.setrecursionlimit(limit)


def test_arrays_of_any_kind() -> None:
    for array in (np.arange(5)[::-1], np.arange(3, dtype=">f4"), np.zeros((2, 0)), np.float32(3.0) * np.ones(())):
        tensors: dict[str, torch.Tensor] = {}
        plain = safe_files._encoded(array, "value", tensors)
        np.testing.assert_array_equal(safe_files._decoded(plain, tensors), array)


def test_classic_files_of_others_are_no_safe_ones(tmp_path: Path) -> None:
    save_to_zip_file(tmp_path / "model.zip", data={"a": 1}, params={})
    assert not safe_files.is_safe(tmp_path / "model.zip")


# What goes in comes out

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**62), 2**62),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.sampled_from([torch.nn.ReLU, torch.optim.Adam]),
    st.builds(lambda values: np.array(values, np.float32), st.lists(st.floats(-1, 1), max_size=4)),
    st.builds(lambda n: spaces.Discrete(n), st.integers(1, 9)),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.lists(inner, max_size=3).map(lambda values: deque(values, 5)),
        st.dictionaries(st.one_of(st.text(max_size=5), st.integers(0, 9)), inner, max_size=3),
    ),
    max_leaves=8,
)


def same(first: Any, second: Any) -> bool:
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple | deque):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second)
    return bool(first == second) or (first != first and second != second)


@given(VALUES)
def test_values_come_back(value: Any) -> None:
    tensors: dict[str, torch.Tensor] = {}
    plain = json.loads(json.dumps(safe_files._encoded(value, "value", tensors)))
    assert same(safe_files._decoded(plain, tensors), value)
