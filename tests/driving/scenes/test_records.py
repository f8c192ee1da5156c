"""Pickles are read as data: what may be in them, and that nothing else is imported, called or believed."""

from __future__ import annotations

import lzma
import os
import pickle
import struct
import tracemalloc
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from dipole_sb3.common.errors import DatasetError
from dipole_sb3.driving.scenes import records
from dipole_sb3.driving.scenes.metric_caches import read_metric_cache
from dipole_sb3.driving.scenes.records import array_of, bytes_of, enum_value, pickled, read_pickle


def read(tmp_path: Path, content: bytes) -> Any:
    path = tmp_path / "some.pkl"
    path.write_bytes(content)
    return read_pickle(path)


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path, call: Any = os.mkdir) -> None:
        self.folder, self.call = folder, call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, (str(self.folder),)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("wrap", [lambda harm: harm, lambda harm: [{"token": harm}], lambda harm: {harm: 1}])
def test_a_foreign_class_is_refused_and_not_run(tmp_path: Path, protocol: int, wrap: Any) -> None:
    content = pickle.dumps(wrap(Harm(tmp_path / "harmed")), protocol)
    with pytest.raises(DatasetError, match=r"some.pkl: it asks for posix.mkdir, which is none of .* was run"):
        read(tmp_path, content)
    assert not (tmp_path / "harmed").exists()
    pickle.loads(content)
    assert (tmp_path / "harmed").exists(), "it would have done harm"


@pytest.mark.parametrize(
    "name",
    [
        ("builtins", "eval"),
        ("builtins", "__import__"),
        ("numpy", "load"),
        ("numpy", "ndarray.tofile"),
        ("pathlib", "PosixPath.unlink"),
        ("nuplan.common.actor_state.ego_state", "EgoState.deserialize"),
        ("shapely.io", "from_wkb.__globals__"),
        ("dipole_sb3.driving.scenes.records", "Record"),
    ],
)
def test_other_names_of_allowed_modules_are_refused(tmp_path: Path, name: tuple[str, str]) -> None:
    module, attribute = name
    content = b"\x80\x04\x8c" + bytes([len(module)]) + module.encode()
    content += b"\x8c" + bytes([len(attribute)]) + attribute.encode() + b"\x93."
    with pytest.raises(DatasetError, match="it asks for"):
        read(tmp_path, content)


def test_allowed_names_are_records_and_their_calls_do_nothing(tmp_path: Path) -> None:
    """``getattr`` is on the list, for the members of enums: what it would give is never fetched."""
    content = b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93\x8c\x05numpy\x8c\x05dtype\x93\x8c\x08__dict__\x86R."
    found = read(tmp_path, content)
    assert isinstance(found, records.Record)
    assert found.arguments[1] == "__dict__"
    assert isinstance(found.arguments[0], type)
    assert issubclass(found.arguments[0], records.Record)


def test_a_class_cannot_be_changed(tmp_path: Path) -> None:
    """BUILD on a class instead of on an object would leave a mark for the next file."""
    before = dict(vars(records._CLASSES["numpy", "dtype"]))
    content = b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93}\x8c\x04name\x8c\x04evilsb."
    with pytest.raises(DatasetError, match="is truncated or damaged"):
        read(tmp_path, content)
    assert dict(vars(records._CLASSES["numpy", "dtype"])) == before


VALUES = [
    np.arange(6, dtype=np.float64).reshape(2, 3),
    np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    np.arange(3, dtype=">i2"),
    np.zeros((0, 7), np.float32),
    np.array(2.5),
    np.float32(1.5),
    np.int64(-3),
    np.bool_(True),
    np.array(["car", "bus"]),
    np.array([1.0, 2], dtype=object),
    [[1, 2.5], [3, 4]],
    7,
]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_arrays_as_numpy_pickles_them(tmp_path: Path, protocol: int, value: Any) -> None:
    found = array_of(read(tmp_path, pickle.dumps(value, protocol)))
    np.testing.assert_array_equal(found, np.array(value, None if np.asarray(value).dtype != object else np.float64))


def test_what_we_write_is_what_pickle_reads() -> None:
    content = {"a": np.arange(4, dtype=np.float32).reshape(2, 2), "b": [1, "two", None, (3.0,)]}
    found = pickle.loads(pickled(content))
    np.testing.assert_array_equal(found["a"], content["a"])
    assert found["a"].dtype == np.float32
    assert found["b"] == content["b"]


class Layer(IntEnum):
    LANE = 3


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_enums_by_value_and_by_name(tmp_path: Path, protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = type("Layer", (records.Record,), {"module": __name__, "name": "Layer", "__slots__": ()})
    monkeypatch.setitem(records._CLASSES, (__name__, "Layer"), stand_in)
    assert enum_value(read(tmp_path, pickle.dumps(Layer.LANE, protocol)), {"LANE": 3}) == 3
    with pytest.raises(DatasetError, match="one of LANE is expected"):
        enum_value(7, {"LANE": 3})


def test_shapes_as_shapely_pickles_them(tmp_path: Path) -> None:
    shape = shapely.box(0, 0, 2, 1)
    found = read(tmp_path, pickle.dumps(shape))
    assert shapely.equals_exact(shapely.from_wkb(bytes_of(found.arguments[0])), shape)


SHORT = pickle.dumps([{"token": "a", "pose": np.arange(3.0), "names": ["x", "y"], "more": (1, 2.5, None)}], 4)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_pickles_are_one_sentence(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(SHORT)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    with suppress(DatasetError):  # and nothing else
        read(tmp_path_factory.getbasetemp(), bytes(content[:cut]))


@pytest.mark.parametrize(
    "shape",
    [(10**12,), (2, 10**12), (-1,), ("a",), [3]],
)
def test_shapes_that_the_bytes_do_not_fill(shape: Any) -> None:
    content = pickle.loads(pickle.dumps(VALUES[0], 2))
    found = records.called("_reconstruct", None, (0,), b"b")
    kind = records.called("dtype", "f8", False, True)
    found.__setstate__((1, shape, kind, False, content.tobytes()))
    with pytest.raises(DatasetError, match="it has an array of shape"):
        array_of(found)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a.",  # a text
        b"\x80\x05\x96" + struct.pack("<Q", 2**50) + b"a.",  # a bytearray
        b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"a.",  # a number
        b"",
        b"no pickle at all",
    ],
)
def test_sizes_that_the_file_does_not_have(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DatasetError, match=r"some.pkl: (is truncated or damaged|asks for more memory)"):
        read(tmp_path, content)


def test_a_bytearray_takes_no_more_memory_than_the_file(tmp_path: Path) -> None:
    content = b"\x80\x05\x96" + struct.pack("<Q", 2**29) + b"a."
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError, match="is truncated or damaged"):
            read(tmp_path, content)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert read(tmp_path, pickle.dumps(bytearray(b"abc"), 5)) == b"abc"


def test_few_bytes_do_not_become_many_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million empty sets are a million bytes, which LZMA makes 250 of, and 200 million in memory."""
    monkeypatch.setattr(records, "MOST_OPERATIONS", 1000)
    path = tmp_path / "metric_cache.pkl"
    path.write_bytes(lzma.compress(b"\x80\x05](" + b"\x8f" * 1000 + b"e."))
    with pytest.raises(DatasetError, match=r"metric_cache.pkl: it has more than 1,000 operations"):
        read_metric_cache(path)


@pytest.mark.parametrize("inside", [lambda x: [x] * 40, lambda x: np.array([*[x] * 40, None], object)[:40]])
def test_lists_in_lists_do_not_become_many_numbers(tmp_path: Path, inside: Any) -> None:
    nested: Any = [1.0]
    for _ in range(6):
        nested = inside(nested)
    with pytest.raises(DatasetError, match="it has lists of more than 1,000,000 values"):
        array_of(read(tmp_path, pickle.dumps(nested)))


def test_a_list_that_holds_itself(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(DatasetError, match="it has lists more than 8 deep in each other"):
        array_of(read(tmp_path, pickle.dumps(endless)))


def test_a_memo_of_any_number_takes_no_memory(tmp_path: Path) -> None:
    """CPython's unpickler in C would make room for two billion entries."""
    assert read(tmp_path, b"\x80\x02Nr\xff\xff\xff\x7f.") is None


def test_files_that_are_or_unpack_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "LARGEST_FILE", 1000)
    path = tmp_path / "metric_cache.pkl"
    path.write_bytes(lzma.compress(bytes(2_000_000)))
    assert path.stat().st_size < 1000
    with pytest.raises(DatasetError, match=r"metric_cache.pkl: it unpacks to more than 1,000 bytes"):
        read_metric_cache(path)
    path.write_bytes(bytes(1001))
    with pytest.raises(DatasetError, match=r"metric_cache.pkl: it has 1,001 bytes; expected 1,000 at most"):
        read_metric_cache(path)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none.pkl: does not exist"):
        read_pickle(tmp_path / "none.pkl")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_pickle(tmp_path)
