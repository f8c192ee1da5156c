"""Models as JSON and safetensors: files that hold numbers and names, and nothing that can run.

SB3's format pickles what JSON cannot hold, and unpickling runs whatever the writer of the file wants. A safe file is a
zip of ``model.json`` and ``weights.safetensors``; reading it makes spaces, numbers, texts and modules of torch or of
this package, or refuses it.
"""

from __future__ import annotations

import base64
import importlib
import io
import json
import math
import pathlib
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from stable_baselines3.common.save_util import load_from_zip_file, open_path, save_to_zip_file
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from dipole_sb3.buffers.normalization import ObservationStatistics
from dipole_sb3.common import described_spaces
from dipole_sb3.common.version import VERSION
from dipole_sb3.learning.offline_policy import OfflinePolicy

File = str | pathlib.Path | io.BufferedIOBase

MODEL, WEIGHTS = "model.json", "weights.safetensors"
_FORMAT = 1
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, LookupError, ValueError, OSError, MemoryError)
"""What reading damaged or hostile bytes may raise; RecursionError is a RuntimeError."""
WRONG_CONTENT = (
    LookupError,
    TypeError,
    AttributeError,
    ValueError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    RuntimeError,
)
"""What values of the wrong kind, absurd sizes and depths end in; RecursionError is a RuntimeError."""
_DEEPEST = 100
"""How deep its values may lie in each other. A model's lie ten deep; Python's own limit depends on the process."""
_REBUILT = frozenset({"lr_schedule", "clip_range", "policy_class"})
"""Attributes that loading makes anew from others."""
_NOT_KEPT: Mapping[str, Any] = {"tensorboard_log": None}
"""Attributes of the machine that wrote the file: nobody else's business, nor where a reader's files should go."""
_MODULES = ("torch.nn.", "torch.optim.", "dipole_sb3.", "stable_baselines3.common.torch_layers")
"""Where classes may come from that a model's arguments name, such as ``activation_fn=torch.nn.ReLU``."""


def is_safe(path: File) -> bool:
    """Whether a file is in the safe format; False also for files that are no zip.

    :raises OSError: there is no such file.
    """
    file = open_path(path, "r", suffix="zip")
    try:
        with zipfile.ZipFile(file) as archive:
            return MODEL in archive.namelist()
    except (zipfile.BadZipFile, RuntimeError, OSError):
        return False
    finally:
        if file is path:
            file.seek(0)
        else:
            file.close()


def write(classic: io.BytesIO, file: io.BufferedIOBase) -> None:
    """Writes a model in the safe format.

    :param classic: the model in SB3's format, which this process has just written.
    :raises ValueError: an attribute is no number, text, space or class that may be named.
    """
    with zipfile.ZipFile(classic) as archive:
        members = archive.namelist()
    data, parameters, variables = load_from_zip_file(classic, device="cpu")
    if variables or data is None or "policy.pth" not in members:
        raise ValueError(f"the model holds {sorted(variables or {})}, expected parameters of its policy only")
    tensors: dict[str, torch.Tensor] = {}
    plain = {name: value for name, value in data.items() if name not in _REBUILT and name not in _NOT_KEPT}
    description = {
        "format": _FORMAT,
        "version": VERSION,
        "policy": f"{data['policy_class'].__module__}.{data['policy_class'].__qualname__}",
        "data": {name: _encoded(value, name, tensors) for name, value in plain.items()},
        "parameters": _encoded(parameters, "parameters", tensors),
    }
    if "_origin" not in data:
        raise ValueError("the model does not name its algorithm, expected one that save() writes")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(MODEL, json.dumps(description, indent=1))
        archive.writestr(WEIGHTS, save_tensors(tensors))


def origin(path: File) -> dict[str, str]:
    """What a safe file says about its algorithm and version.

    :raises ValueError: it is damaged, or names no algorithm of this package.
    """
    description, _ = _read(path, with_weights=False)
    found = description["data"].get("_origin", {})
    if not isinstance(found, dict) or not str(found.get("algorithm", "")).startswith("dipole_sb3."):
        raise ValueError(f"{_shown(path)}: names no algorithm of dipole_sb3, expected one, such as dipole_sb3.DIPOLE")
    return {str(name): str(value) for name, value in found.items()}


def as_classic(path: File) -> io.BytesIO:
    """The same model in SB3's format, in memory, for SB3's own loading.

    :raises ValueError: the file is damaged, or holds something that may not be in it.
    """
    description, tensors = _read(path, with_weights=True)
    try:
        _require_shallow(description)
        data = {name: _decoded(value, tensors) for name, value in description["data"].items()}
        missing = {"observation_space", "action_space", "_origin"} - data.keys()
        if missing:
            raise ValueError(f"no {min(missing)}")
        if not all(name.isidentifier() and not name.startswith("__") for name in data):
            raise ValueError("a name of an attribute is none")
        data |= {"policy_class": _policy_class(description["policy"]), **_NOT_KEPT}
        parameters = _decoded(description["parameters"], tensors)
        file = io.BytesIO()
        save_to_zip_file(file, data=data, params=parameters)
    except WRONG_CONTENT as error:
        raise wrong_content(path, error) from error
    file.seek(0)
    return file


def wrong_content(path: File, error: BaseException) -> ValueError:
    """The one sentence about a file whose values make no model.

    :param error: what making it raised, one of :data:`WRONG_CONTENT`.
    """
    said = " ".join(str(error).split()) or type(error).__name__
    return ValueError(f"cannot load {_shown(path)}: it holds what no safe model has ({said})")


def _read(path: File, with_weights: bool) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    file = open_path(path, "r", suffix="zip")
    try:
        with zipfile.ZipFile(file) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("its members are compressed, which may hide any size")
            description: Any = json.loads(archive.read(MODEL))
            if not isinstance(description, dict) or description.get("format") != _FORMAT:
                raise ValueError(f"its format is not {_FORMAT}")
            if not isinstance(description.get("data"), dict):
                raise ValueError("it has no data")
            return description, load_tensors(archive.read(WEIGHTS)) if with_weights else {}
    except (*_DAMAGE, SafetensorError) as error:
        raise ValueError(
            f"cannot load {_shown(path)}: it is damaged or not a safe model ({' '.join(str(error).split())}); expected "
            'a whole file written by save(…, format="safe")'
        ) from error
    finally:
        if file is path:
            file.seek(0)
        else:
            file.close()


def _shown(path: File) -> str:
    return str(path) if isinstance(path, str | pathlib.Path) else str(getattr(path, "name", "the open file"))


# What JSON has no word for is written as {"$kind": …}.


def _encoded(value: Any, where: str, tensors: dict[str, torch.Tensor]) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, np.generic):
        return _encoded(value.item(), where, tensors)
    if isinstance(value, torch.Tensor | np.ndarray):
        if isinstance(value, np.ndarray) and value.dtype.hasobject:
            raise ValueError(f"{where} is an array of objects, expected numbers: a safe file cannot hold it")
        name = f"{where}/{len(tensors)}"
        if isinstance(value, np.ndarray):
            # Of this machine's byte order and no views backwards, which torch does not take.
            value = np.ascontiguousarray(value, value.dtype.newbyteorder("="))
            tensors[name] = torch.from_numpy(value.copy())
            return {"$array": name}
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"$tensor": name}
    if isinstance(value, spaces.Space):
        return {"$space": described_spaces.describe(value)}
    if isinstance(value, ObservationStatistics):
        fields = {"mean": value.mean, "std": value.std, "clip": value.clip}
        return {"$statistics": {name: _encoded(part, f"{where}.{name}", tensors) for name, part in fields.items()}}
    if isinstance(value, TrainFreq):
        return {"$train_freq": [value.frequency, value.unit.value]}
    if isinstance(value, type):
        name = f"{value.__module__}.{value.__qualname__}"
        _class(name)
        return {"$class": name}
    return _encoded_container(value, where, tensors)


def _encoded_container(value: Any, where: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_encoded(part, where, tensors) for part in value]
    if type(value) is tuple:
        return {"$tuple": [_encoded(part, where, tensors) for part in value]}
    if isinstance(value, deque):
        return {"$deque": [_encoded(part, where, tensors) for part in value], "maxlen": value.maxlen}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _encoded(part, f"{where}.{key}", tensors) for key, part in value.items()}
        pairs = [[_encoded(part, where, tensors) for part in pair] for pair in value.items()]
        return {"$items": pairs}
    raise ValueError(
        f"{where} is a {type(value).__name__}, expected a number, text, space or class of torch.nn: a safe file cannot "
        'hold it; save it with format="classic", or without it'
    )


def _require_shallow(value: Any) -> None:
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            part
            for one in level
            if isinstance(one, list | dict)
            for part in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return
    raise ValueError(f"its values lie more than {_DEEPEST} deep in each other")


def _decoded(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_decoded(part, tensors) for part in value]
    if not isinstance(value, dict):
        return value
    kinds = [key for key in value if key.startswith("$")]
    if not kinds:
        return _plain({key: _decoded(part, tensors) for key, part in value.items()})
    return _KINDS[kinds[0]](value, tensors)


def _plain(value: dict[Any, Any]) -> dict[Any, Any]:
    """The mapping, unless SB3 would take it for a pickle: it knows them by their key ``:serialized:``."""
    marks = [key for key in value if isinstance(key, str) and key.startswith(":")]
    if marks:
        raise ValueError(f"it has the key {marks[0]!r}, which SB3 would unpickle")
    return value


_KINDS: Mapping[str, Callable[[dict[str, Any], Mapping[str, torch.Tensor]], Any]] = {
    "$train_freq": lambda value, _: TrainFreq(value["$train_freq"][0], TrainFrequencyUnit(value["$train_freq"][1])),
    "$statistics": lambda value, tensors: ObservationStatistics(**_decoded(value["$statistics"], tensors)),
    "$float": lambda value, _: float(value["$float"]),
    "$bytes": lambda value, _: base64.b64decode(value["$bytes"]),
    "$tensor": lambda value, tensors: tensors[value["$tensor"]],
    "$array": lambda value, tensors: tensors[value["$array"]].numpy(),
    "$space": lambda value, _: described_spaces.restore(value["$space"]),
    "$class": lambda value, _: _class(value["$class"]),
    "$tuple": lambda value, tensors: tuple(_decoded(part, tensors) for part in value["$tuple"]),
    "$deque": lambda value, tensors: deque((_decoded(part, tensors) for part in value["$deque"]), value["maxlen"]),
    "$items": lambda value, tensors: _plain(
        {_decoded(key, tensors): _decoded(part, tensors) for key, part in value["$items"]}
    ),
}


def _policy_class(name: Any) -> type[Any]:
    found = _class(name)
    if not issubclass(found, OfflinePolicy):
        raise ValueError(f"{name} is no policy of dipole_sb3")
    return found


def _class(name: Any) -> type[Any]:
    """A class by its full name, from torch.nn, torch.optim or this package; importing any other module runs its code.

    :raises ValueError: it is another one.
    """
    if isinstance(name, str) and name.startswith(_MODULES):
        module, _, last = name.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), last)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"there is no class {name}") from error
        is_ours = isinstance(found, type) and found.__module__.startswith(_MODULES)
        if is_ours and issubclass(found, torch.nn.Module | torch.optim.Optimizer):
            return found  # type: ignore[no-any-return]
    raise ValueError(
        f"{name} is no module or optimiser of torch, SB3 or dipole_sb3: a safe file cannot name it; save it with "
        'format="classic"'
    )
