"""The algorithms of Stable-Baselines3 and sb3-contrib for continuous actions, by their usual names."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Mapping
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file

from dipole_sb3.common.files import require_model_file
from dipole_sb3.common.trust import require_trust

ALGORITHMS = {
    "a2c": ("stable_baselines3", "A2C"),
    "ars": ("sb3_contrib", "ARS"),
    "crossq": ("sb3_contrib", "CrossQ"),
    "ddpg": ("stable_baselines3", "DDPG"),
    "dipole": ("dipole_sb3", "DIPOLE"),
    "ppo": ("stable_baselines3", "PPO"),
    "ppo_lstm": ("sb3_contrib", "RecurrentPPO"),
    "sac": ("stable_baselines3", "SAC"),
    "td3": ("stable_baselines3", "TD3"),
    "tqc": ("sb3_contrib", "TQC"),
    "trpo": ("sb3_contrib", "TRPO"),
}
"""Name → package and class."""


def algorithm_class(name: str) -> type[BaseAlgorithm]:
    """The class of an algorithm.

    :param name: a key of :data:`ALGORITHMS`.
    :raises ValueError: an unknown name.
    :raises ImportError: its package is not installed.
    """
    if name not in ALGORITHMS:
        raise ValueError(f"there is no algorithm {name!r} here; expected one of {', '.join(ALGORITHMS)}")
    package, class_name = ALGORITHMS[name]
    found: type[BaseAlgorithm] = getattr(importlib.import_module(package), class_name)
    return found


def load_agent(algorithm: str, path: str | os.PathLike[str], *, device: torch.device | str = "auto") -> BaseAlgorithm:
    """Loads a saved model with the algorithm that saved it.

    As in all of SB3's files, parts of it are pickles, which can execute code: load only files that you trust.

    :param algorithm: a key of :data:`ALGORITHMS`.
    :param path: file written by the model's ``save()``.
    :param device: where the model acts.
    :raises OSError: there is no such file.
    :raises ValueError: an unknown algorithm, a file that is not a complete model, a model saved by another algorithm,
        or ``DIPOLE_SAFE=1`` in the environment.
    :raises ImportError: the algorithm's package is not installed.
    """
    kind = algorithm_class(algorithm)
    path = os.fspath(path)
    require_trust(path, "loading an agent")
    require_model_file(path)
    data, _, _ = load_from_zip_file(path, device="cpu")
    if data is None or "policy_class" not in data:
        raise ValueError(f"{path}: does not say which policy it holds; expected a file written by a model's save()")
    writers = _may_have_saved(data)
    if algorithm not in writers:
        raise ValueError(f"{path}: was saved by {' or '.join(writers)}, not by {algorithm}")
    return kind.load(path, device=device)


def _may_have_saved(data: Mapping[str, Any]) -> list[str]:
    """The algorithms that a file fits best: first by the class of its policy, then by the names of its attributes.

    Several if they cannot be told apart: DDPG, for example, is TD3 with other settings.
    """
    lineage = data["policy_class"].__mro__
    distances = {}
    for name, (package, _) in ALGORITHMS.items():
        if importlib.util.find_spec(package) is None:
            continue
        kind = algorithm_class(name)
        policies = set(kind.policy_aliases.values())
        generation = next((place for place, ancestor in enumerate(lineage) if ancestor in policies), len(lineage))
        # Made as SB3's own load() does: attributes only, no networks.
        empty = kind(policy=data["policy_class"], env=None, _init_setup_model=False)  # type: ignore[call-arg]
        distances[name] = (generation, len(vars(empty).keys() ^ data.keys()))
    nearest = min(distances.values())
    return [name for name, distance in distances.items() if distance == nearest]
