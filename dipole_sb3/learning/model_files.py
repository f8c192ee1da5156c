"""Files of models and replay buffers: which ones this version reads, and what is checked before anything changes."""

from __future__ import annotations

import hashlib
import io
import json
import pathlib
import pickle
import pydoc
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.save_util import load_from_pkl, open_path
from stable_baselines3.common.type_aliases import GymEnv

from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common import checks
from dipole_sb3.common.files import require_model_file
from dipole_sb3.common.trust import require_trust
from dipole_sb3.common.version import VERSION
from dipole_sb3.learning import safe_files

File = str | pathlib.Path | io.BufferedIOBase

PACKAGE = "dipole_sb3"


def plain_device(device: torch.device | str) -> torch.device | str:
    """The device, with "cpu:0" shortened to "cpu": torch accepts the index but cannot load files onto it."""
    return "cpu" if str(device).startswith("cpu") else device


def with_ending(path: str | pathlib.Path, ending: str) -> pathlib.Path:
    """The path, with the ending added if it has none, as in SB3."""
    path = pathlib.Path(path)
    return path if path.suffix else path.with_suffix(ending)


def alone(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with its own memory: torch saves the whole memory that a tensor is a view of."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def origin_of(algorithm: type[Any]) -> dict[str, str]:
    """What a saved model says about itself: the class, by its import name, and the version."""
    module = PACKAGE if algorithm.__module__.startswith(f"{PACKAGE}.") else algorithm.__module__
    return {"algorithm": f"{module}.{algorithm.__qualname__}", "version": VERSION}


def read_origin(path: File) -> dict[str, str]:
    """What :func:`origin_of` returned when a model was saved; empty for a model of another library.

    :raises OSError: there is no such file.
    :raises ValueError: it is not a complete model, or a version of this package with other module names saved it.
    """
    if safe_files.is_safe(path):
        return safe_files.origin(path)
    require_model_file(path)
    file = open_path(path, "r", suffix="zip")
    name = getattr(file, "name", "the open file")
    try:
        with zipfile.ZipFile(file) as archive:
            data: dict[str, Any] = json.loads(archive.read("data"))
    finally:
        # A file that the caller opened stays open: the caller closes it.
        if file is not path:
            file.close()
    if "_origin" in data:
        return dict(data["_origin"])
    policy: Any = data.get("policy_class")
    if isinstance(policy, dict) and str(policy.get("__module__", "")).startswith(f"{PACKAGE}."):
        raise ValueError(
            f"{name}: was saved by dipole-sb3 0.1, but this is {VERSION}, which has other modules and cannot "
            "read it; expected a model of 0.2 or later: train it again, or go on with 0.1"
        )
    return {}


def require_same_algorithm(path: File, algorithm: type[Any]) -> None:
    """Refuses the file of a model of another algorithm: most of it would load, and learn something else.

    A sub-class reads the files of the classes that it extends, and the other way round.

    :raises OSError: there is no such file.
    :raises ValueError: it is of another algorithm; and as :func:`read_origin`.
    """
    named = read_origin(path).get("algorithm")
    found: Any = None if named is None else pydoc.locate(named)
    if isinstance(found, type) and not (issubclass(found, algorithm) or issubclass(algorithm, found)):
        where = path if isinstance(path, str | pathlib.Path) else "the open file"
        raise ValueError(
            f"{where}: holds a model of {found.__name__}, expected one of {algorithm.__name__}; load it by "
            f"{found.__name__}.load"
        )


def classic(path: File, trust: bool | None) -> File:
    """A model's file in SB3's format: as it is, or made of a safe one.

    :param trust: whether a file may be read whose reading runs code that it brings; None: unless ``DIPOLE_SAFE=1``.
    :raises ValueError: it is not to be trusted and no safe file, or damaged.
    """
    if safe_files.is_safe(path):
        return safe_files.as_classic(path)
    require_trust(path, "loading a model in SB3's format", trust)
    return path


def read_replay_buffer(path: File, verbose: int = 0) -> OfflineReplayBuffer:
    """Reads a pickled replay buffer; load only files that you trust.

    :raises ValueError: the file is truncated, from an incompatible version of this package, or something else; or
        ``DIPOLE_SAFE=1``.
    """
    require_trust(path, "loading a pickled replay buffer")
    try:
        loaded = load_from_pkl(path, verbose)
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError) as error:
        if isinstance(error, AttributeError | ImportError) and PACKAGE in str(error):
            raise ValueError(
                f"cannot load {path}: it was saved by dipole-sb3 0.1, but this is {VERSION}, which has other modules; "
                "expected a replay buffer that 0.2 or a later version saved"
            ) from error
        raise ValueError(
            f"cannot load {path}: it is truncated or not a saved replay buffer ({error}); expected a whole file "
            "written by save_replay_buffer()"
        ) from error
    if not isinstance(loaded, OfflineReplayBuffer):
        raise ValueError(f"{path}: holds a {type(loaded).__name__}, expected an OfflineReplayBuffer")
    return loaded


def may_take_spaces(saved: Mapping[str, Any], env: GymEnv) -> bool:
    """Whether a model may adopt an environment's spaces: its own come from data, and both fit the same data."""
    return bool(
        saved.get("_spaces_from_data", False)
        and saved["action_space"] == env.action_space
        and _same_kind(saved["observation_space"], env.observation_space)
    )


def _same_kind(found: spaces.Space[Any], expected: spaces.Space[Any]) -> bool:
    if isinstance(found, spaces.Dict) and isinstance(expected, spaces.Dict):
        return found.keys() == expected.keys() and all(_same_kind(found[key], expected[key]) for key in found)
    boxes = isinstance(found, spaces.Box) and isinstance(expected, spaces.Box)
    return boxes and found.shape == expected.shape and checks.stores_as(found) == checks.stores_as(expected)


def checksum_of_parameters(policy: Any) -> str:
    """SHA-256 of all networks, by which a bundle is known to be this model's: hexadecimal."""
    found = hashlib.sha256()
    state: Mapping[str, torch.Tensor] = policy.state_dict()
    for name, tensor in sorted(state.items()):
        found.update(name.encode() + b"\0")
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
