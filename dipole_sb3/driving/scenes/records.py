"""Pickles of a short list of classes, read and written as data: no class of theirs is ever imported or called.

NAVSIM stores its logs and metric caches as pickles. A pickle names classes and functions, and unpickling usually
imports and calls them. Here each name on the list stands for a :class:`Record`, which keeps what it is given; any other
name is refused. NumPy's arrays are records too, and become arrays in :func:`array_of`, after their sizes are checked.
"""

from __future__ import annotations

import copyreg
import io
import lzma
import math
import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from dipole_sb3.common.errors import DatasetError

_STATE = "nuplan.common.actor_state."
_PLANNER = "navsim.planning.simulation.planner.pdm_planner."
ALLOWED: dict[str, tuple[str, ...]] = {
    # Python 3.11 stores members of an enum as getattr(enum, name). Protocol 2 stores bytes as encode(text, "latin1"),
    # or as bytes() where there are none, and names Python 2's modules.
    "builtins": ("bytes", "getattr"),
    "__builtin__": ("bytes", "getattr"),
    "_codecs": ("encode",),
    "pathlib": ("PosixPath", "PurePosixPath", "WindowsPath"),
    "pathlib._local": ("PosixPath", "PurePosixPath", "WindowsPath"),
    "numpy": ("dtype", "ndarray"),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),
    "numpy.core.numeric": ("_frombuffer",),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
    "numpy._core.numeric": ("_frombuffer",),
    "shapely.io": ("from_wkb",),
    "shapely.geometry.polygon": ("Polygon",),
    f"{_STATE}agent": ("Agent",),
    f"{_STATE}agent_state": ("AgentState",),
    f"{_STATE}car_footprint": ("CarFootprint",),
    f"{_STATE}dynamic_car_state": ("DynamicCarState",),
    f"{_STATE}ego_state": ("EgoState",),
    f"{_STATE}oriented_box": ("OrientedBox",),
    f"{_STATE}scene_object": ("SceneObject", "SceneObjectMetadata"),
    f"{_STATE}state_representation": ("Point2D", "StateSE2", "StateVector2D", "TimePoint"),
    f"{_STATE}static_object": ("StaticObject",),
    f"{_STATE}tracked_objects_types": ("TrackedObjectType",),
    f"{_STATE}vehicle_parameters": ("VehicleParameters",),
    f"{_STATE}waypoint": ("Waypoint",),
    "nuplan.common.maps.maps_datatypes": ("SemanticMapLayer",),
    "nuplan.planning.simulation.trajectory.interpolated_trajectory": ("InterpolatedTrajectory",),
    "navsim.planning.metric_caching.metric_cache": ("MetricCache",),
    f"{_PLANNER}observation.pdm_observation": ("PDMObservation",),
    f"{_PLANNER}observation.pdm_occupancy_map": ("PDMDrivableMap", "PDMOccupancyMap"),
    f"{_PLANNER}utils.pdm_path": ("PDMPath",),
}
"""Every module and name that a pickle may mention."""

LARGEST_FILE = 256 * 2**20
"""Bytes of the largest pickle that is read, compressed or not; OpenScene's logs have a few MiB."""
_LARGEST_DICTIONARY = 2**29
MOST_OPERATIONS = 20_000_000
"""Of one pickle. One byte can ask for an object of two hundred; logs of a few MiB have a few million operations."""
MOST_NUMBERS = 1_000_000
"""In nested lists. A list may hold another many times, and that one a third: few bytes would become any number."""
_DEEPEST = 8
"""Lists in each other."""

_NUMBERS = re.compile(r"[biufU]\d{1,4}")


class Record:
    """One object of a pickle: the arguments of its class or function, and its state.

    ``record["x"]`` is a field of its state, wherever the state holds it.
    """

    module: ClassVar[str] = ""
    name: ClassVar[str] = ""
    __slots__ = ("arguments", "state")

    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> Record:
        made = super().__new__(cls)
        made.arguments = arguments
        made.state = None
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if self.arguments or self.state is None:
            return (type(self), self.arguments) if self.state is None else (type(self), self.arguments, self.state)
        return copyreg.__newobj__, (type(self),), self.state  # type: ignore[attr-defined]

    def __getitem__(self, key: str) -> Any:
        for fields in self.state if isinstance(self.state, tuple) else (self.state,):
            if isinstance(fields, dict) and key in fields:
                return fields[key]
        raise DatasetError(f"its {self.name} has no {key.lstrip('_')}")


_CLASSES: dict[tuple[str, str], type[Record]] = {
    (module, name): type(name, (Record,), {"module": module, "name": name, "__slots__": ()})
    for module, names in ALLOWED.items()
    for name in names
}
_MODULE_OF = {name: module for module, name in reversed(_CLASSES)}


def called(name: str, *arguments: Any) -> Record:
    """A record of a call, for writing.

    :param name: on the list of allowed names.
    """
    return _CLASSES[_MODULE_OF[name], name](*arguments)


def stored(name: str, **fields: Any) -> Record:
    """A record of an object with these fields, for writing."""
    made = called(name)
    made.__setstate__(fields)
    return made


def stored_in_slots(name: str, **fields: Any) -> Record:
    """As :func:`stored`, for a class with ``__slots__``."""
    made = called(name)
    made.__setstate__((None, fields))
    return made


def is_record(value: Any, *names: str) -> bool:
    """Whether a value is a record of one of these names."""
    return isinstance(value, Record) and value.name in names


def record_of(value: Any, *names: str) -> Record:
    """The value, if it is a record of one of these names.

    :raises DatasetError: it is not.
    """
    if not isinstance(value, Record) or value.name not in names:
        raise DatasetError(f"it has {describe(value)} where {' or '.join(names)} is expected")
    return value


def describe(value: Any) -> str:
    """What a value is, in few words."""
    if isinstance(value, Record):
        return f"an object {value.name}"
    text = repr(value) if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"
    return text if len(text) < 60 else f"{text[:57]}..."


def bytes_of(value: Any) -> bytes:
    """Bytes, in whichever way the pickle's protocol stores them."""
    if is_record(value, "encode") and len(value.arguments) == 2 and value.arguments[1] == "latin1":
        value = str(value.arguments[0]).encode("latin1")
    if is_record(value, "bytes") and not value.arguments:
        value = b""
    if not isinstance(value, bytes | bytearray):
        raise DatasetError(f"it has {describe(value)} where bytes are expected")
    return bytes(value)


def array_of(value: Any) -> npt.NDArray[Any]:
    """An array of numbers or texts, from one of NumPy's that was pickled, or from numbers and lists of them.

    :raises DatasetError: it is no such thing, or its bytes are not as many as its shape says.
    """
    if is_record(value, "_reconstruct"):
        try:
            _, shape, kind, fortran, content = value.state
        except (TypeError, ValueError):
            raise DatasetError("it has an array without content") from None
        return _shaped(content, shape, kind, "F" if fortran else "C")
    if is_record(value, "_frombuffer"):
        content, kind, shape, order = value.arguments
        return _shaped(content, shape, kind, order)
    if is_record(value, "scalar"):
        kind, content = value.arguments
        return _shaped(content, (), kind, "C")
    if isinstance(value, list | tuple):
        _require_few(value)
        parts = [array_of(part) for part in value]
        if len({part.shape for part in parts}) > 1:
            raise DatasetError("it has lists of unequal length where an array is expected")
        return np.stack(parts) if parts else np.zeros(0)
    if isinstance(value, bool | int | float | str):
        return np.asarray(value)
    raise DatasetError(f"it has {describe(value)} where numbers are expected")


def _require_few(value: Any) -> None:
    """Refuses lists that hold too many values, also inside arrays of objects, or themselves."""
    level, count = [value], 0
    for _ in range(_DEEPEST):
        deeper: list[Any] = []
        for one in level:
            if is_record(one, "_reconstruct") and isinstance(one.state, tuple) and one.state:
                one = one.state[-1]
            if isinstance(one, list | tuple):
                count += 1 + len(one)
                if count > MOST_NUMBERS:
                    raise DatasetError(f"it has lists of more than {MOST_NUMBERS:,} values where an array is expected")
                deeper += one
        if not deeper:
            return
        level = deeper
    raise DatasetError(f"it has lists more than {_DEEPEST} deep in each other where an array is expected")


def _shaped(content: Any, shape: Any, kind: Any, order: Any) -> npt.NDArray[Any]:
    if not isinstance(shape, tuple) or not all(isinstance(extent, int) and extent >= 0 for extent in shape):
        raise DatasetError(f"it has an array of shape {describe(shape)}")
    code = record_of(kind, "dtype").arguments[0] if record_of(kind, "dtype").arguments else None
    if code in ("O8", "O") and isinstance(content, list) and len(content) == math.prod(shape):
        values = array_of(content)
        return values.reshape(*shape, *values.shape[1:])
    if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
        raise DatasetError(f"it has an array of type {describe(code)} where numbers are expected")
    byte_order = kind.state[1] if isinstance(kind.state, tuple) and len(kind.state) > 1 else "|"
    dtype = np.dtype(code).newbyteorder(">" if byte_order == ">" else "<")
    raw = bytes_of(content)
    if len(raw) != math.prod(shape) * dtype.itemsize:
        raise DatasetError(f"it has an array of shape {shape} and type {dtype} with {len(raw)} bytes")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if order == "F" else "C")


def enum_value(value: Any, names: dict[str, int]) -> int:
    """Value of a member of an enum, stored by value or by name."""
    if is_record(value, "getattr") and len(value.arguments) == 2:
        named = value.arguments[1]
        if isinstance(named, str) and named in names:
            return names[named]
    if isinstance(value, Record) and len(value.arguments) == 1 and isinstance(value.arguments[0], int):
        return value.arguments[0]
    raise DatasetError(f"it has {describe(value)} where one of {', '.join(names)} is expected")


class _Counted(dict[int, Any]):
    """What each operation of a pickle does; asked too often, it refuses."""

    def __init__(self, operations: Mapping[int, Any]) -> None:
        super().__init__(operations)
        self._left = MOST_OPERATIONS

    def __getitem__(self, code: int) -> Any:
        self._left -= 1
        if self._left < 0:
            raise DatasetError(f"it has more than {MOST_OPERATIONS:,} operations; expected a log or a metric cache")
        return super().__getitem__(code)


class _Unpickler(pickle._Unpickler):
    """The one in Python, not the one in C: that one's memory follows numbers in the file."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self._left = len(content)
        operations = _Counted(pickle._Unpickler.dispatch)
        operations[pickle.BYTEARRAY8[0]] = _Unpickler._load_bytearray
        self.dispatch = operations  # type: ignore[misc]  # its loop looks every operation up here

    def _load_bytearray(self) -> None:
        """As in the base, which makes room for as many bytes as the file says before it looks for them."""
        unpickler: Any = self  # typeshed does not know its methods
        (size,) = struct.unpack("<Q", unpickler.read(8))
        if size > self._left:
            raise EOFError("a bytearray is longer than the file")
        unpickler.append(bytearray(unpickler.read(size)))

    def find_class(self, module: str, name: str) -> type[Record]:
        try:
            return _CLASSES[module, name]
        except (KeyError, TypeError):
            raise DatasetError(
                f"it asks for {module}.{name}, which is none of the classes that logs and metric caches are made of; "
                "nothing of it was run"
            ) from None


class _Pickler(pickle._Pickler):
    """Writes records under the names of the classes that they stand for."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if not (isinstance(obj, type) and issubclass(obj, Record)):
            super().save_global(obj, name)  # type: ignore[misc]
            return
        writer: Any = self  # typeshed does not know its methods
        writer.save(obj.module)
        writer.save(obj.name)
        writer.write(pickle.STACK_GLOBAL)
        writer.memoize(obj)

    def reducer_override(self, obj: Any) -> Any:
        """Arrays under the names that every NumPy knows."""
        if isinstance(obj, np.ndarray):
            return _pickled_array(obj)
        return NotImplemented


def _pickled_array(array: npt.NDArray[Any]) -> tuple[Any, ...]:
    kind = called("dtype", array.dtype.str[1:], False, True)
    kind.__setstate__((3, array.dtype.str[0], None, None, None, -1, -1, 0))
    make = _CLASSES["numpy.core.multiarray", "_reconstruct"]
    state = (1, array.shape, kind, False, np.ascontiguousarray(array).tobytes())
    return make, (_CLASSES["numpy", "ndarray"], (0,), b"b"), state


def read_pickle(path: Path, compressed: bool = False) -> Any:
    """Content of a pickle, with a :class:`Record` for each object that is not plain data.

    :param path: the file.
    :param compressed: by LZMA.
    :raises DatasetError: one sentence: the file is missing, damaged, too large or asks for another class. Nothing that
        it names is imported or called.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise DatasetError(f"it has {path.stat().st_size:,} bytes; expected {LARGEST_FILE:,} at most")
        content = path.read_bytes()
        if compressed:
            content = _decompressed(content)
        return _Unpickler(content).load()
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise DatasetError(f"{path}: does not exist") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error})") from error
    except MemoryError:
        raise DatasetError(f"{path}: asks for more memory than there is; expected a whole pickle") from None
    except Exception as error:  # damaged pickles raise errors of many kinds
        raise DatasetError(
            f"{path}: is truncated or damaged ({type(error).__name__}: {error}); expected a whole pickle"
        ) from error


def _decompressed(content: bytes) -> bytes:
    reader = lzma.LZMADecompressor(memlimit=_LARGEST_DICTIONARY)
    plain = reader.decompress(content, max_length=LARGEST_FILE + 1)
    if len(plain) > LARGEST_FILE:
        raise DatasetError(f"it unpacks to more than {LARGEST_FILE:,} bytes")
    if not reader.eof:
        raise EOFError("the compressed data ends early")
    return plain


def pickled(content: Any) -> bytes:
    """The pickle of plain data, arrays and records, with the records as objects of the classes they stand for."""
    file = io.BytesIO()
    _Pickler(file, protocol=4).dump(content)
    return file.getvalue()
