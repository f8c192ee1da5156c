"""Saved models of every algorithm are known for what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm

from dipole_sb3.recording.agents import ALGORITHMS, algorithm_class, load_agent


class Own(SAC):
    """A user's own variant, with something of its own to remember."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.mine = 3


def small(kind: type[Any]) -> BaseAlgorithm:
    policy = {"ARS": "LinearPolicy", "RecurrentPPO": "MlpLstmPolicy"}.get(kind.__name__, "MlpPolicy")
    options: dict[str, Any] = {} if kind.__name__ == "ARS" else {"policy_kwargs": {"net_arch": [4]}}
    model: BaseAlgorithm = kind(policy, "Pendulum-v1", device="cpu", **options)
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of every algorithm."""
    folder = tmp_path_factory.mktemp("models")
    for name in ALGORITHMS:
        small(algorithm_class(name)).save(folder / name)
    return {name: folder / f"{name}.zip" for name in ALGORITHMS}


SAME = ({"ddpg", "td3"},)
"""Nothing in their files tells these apart: the one is the other at other settings."""


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_file_is_taken_by_the_algorithm_that_saved_it_and_no_other(name: str, saved: dict[str, Path]) -> None:
    observation = np.array([0.1, 0.2, 0.3], np.float32)
    expected, _ = algorithm_class(name).load(saved[name], device="cpu").predict(observation, deterministic=True)
    for other in ALGORITHMS:
        if other == name or {name, other} in SAME:
            model = load_agent(other, saved[name], device="cpu")
            np.testing.assert_array_equal(model.predict(observation, deterministic=True)[0], expected)
        else:
            with pytest.raises(ValueError, match=rf"{name}.zip: was saved by .*{name}.*, not by {other}$"):
                load_agent(other, saved[name], device="cpu")


def test_a_variant_counts_as_the_algorithm_it_derives_from(tmp_path: Path) -> None:
    small(Own).save(tmp_path / "own")
    assert isinstance(load_agent("sac", tmp_path / "own.zip", device="cpu"), SAC)
    with pytest.raises(ValueError, match="was saved by sac, not by tqc"):
        load_agent("tqc", tmp_path / "own.zip", device="cpu")


def test_refusals(tmp_path: Path, saved: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"there is no algorithm 'her' here; expected one of a2c, ars"):
        load_agent("her", saved["sac"])
    (tmp_path / "half.zip").write_bytes(saved["sac"].read_bytes()[:500])
    with pytest.raises(ValueError, match=r"half.zip: it is truncated"):
        load_agent("sac", tmp_path / "half.zip")
    with pytest.raises(FileNotFoundError):
        load_agent("sac", tmp_path / "none.zip")
