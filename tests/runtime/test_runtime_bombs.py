"""Bundles made to take all of a robot's memory: none may take a gigabyte, and each is one sentence."""

from __future__ import annotations

import io
import pathlib
import struct
import zipfile
from collections.abc import Callable, Iterable

import numpy as np
import onnx
import pytest
from dipole_runtime import GuidedPolicyError
from dipole_runtime.archive import Archive, archive_bytes
from dipole_runtime.manifest import CRITIC, GUIDED, POSITIVE, VECTORS
from onnx import helper, numpy_helper
from runtime_helpers import assert_one_sentence, field, run_python, with_more
from small_bundles import edited, rehashed, zipped

Files = dict[str, bytes]


Edit = Callable[[onnx.ModelProto], None]


GIBIBYTE = 1 << 30


def constant_of(shape: Iterable[int], dynamic: bool) -> Edit:
    """Adds gigabytes of zeros to the observation, at a size known beforehand or only while running."""

    def edit(model: onnx.ModelProto) -> None:
        graph = model.graph
        graph.initializer.append(numpy_helper.from_array(np.array(list(shape), np.int64), "huge"))
        size = "huge"
        added = []
        if dynamic:
            added.append(helper.make_node("Shape", ["observation"], ["bomb_one"], start=0, end=1))
            added.append(helper.make_node("Mul", ["huge", "bomb_one"], ["bomb_size"]))
            size = "bomb_size"
        added += [
            helper.make_node("ConstantOfShape", [size], ["bomb"]),
            helper.make_node("ReduceSum", ["bomb"], ["bomb_sum"], keepdims=0),
            helper.make_node("Add", ["observation", "bomb_sum"], ["seen_bomb"]),
        ]
        for node in graph.node:
            for index, name in enumerate(node.input):
                if name == "observation":
                    node.input[index] = "seen_bomb"
        nodes = [*added, *graph.node]
        graph.ClearField("node")
        graph.node.extend(nodes)

    return edit


def bombs(files: Files) -> dict[str, bytes]:
    """.dipole files that would become large."""
    zeros = bytes(300 << 20)
    deflated = zipped({**files, CRITIC: zeros}, zipfile.ZIP_DEFLATED)
    result = {
        "constant": archive_bytes(edited(files, GUIDED, constant_of([2_000_000_000], dynamic=False))),
        "dynamic": archive_bytes(edited(files, GUIDED, constant_of([2_000_000_000], dynamic=True))),
        "dynamic network": archive_bytes(edited(files, POSITIVE, constant_of([1 << 20, 1 << 12], dynamic=True))),
        "dynamic critic": archive_bytes(edited(files, CRITIC, constant_of([1 << 40], dynamic=True))),
        "negative": archive_bytes(edited(files, GUIDED, constant_of([-(1 << 40)], dynamic=True))),
        "deflated": deflated,
        # Consistent: within what a bundle may have, and then no model.
        "deflated within limits": zipped(rehashed({**files, CRITIC: zeros[: 200 << 20]}), zipfile.ZIP_DEFLATED),
        "deflated vectors": archive_bytes(
            rehashed({**files, VECTORS: zipped({"q.npy": zeros[: 100 << 20]}, zipfile.ZIP_DEFLATED)})
        ),
    }
    with zipfile.ZipFile(io.BytesIO(files[VECTORS])) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name in ("observations.npy", "q.npy"):
        vectors = zipped({**members, name: zeros}, zipfile.ZIP_DEFLATED)
        result[f"deflated {name}"] = archive_bytes(rehashed({**files, VECTORS: vectors}))
    many = 8 << 20
    for name, more in (
        ("empty nodes", b"\x0a\x00" * many),
        ("empty attributes", field(1, b"\x2a\x00" * many)),
        ("packed numbers", field(5, field(7, bytes(many)) + b"\x10\x07")),
        ("packed sizes", field(5, field(1, bytes(many)) + b"\x10\x07")),
        ("long names", field(1, field(1, b"x" * many))),
    ):
        result[name] = zipped(rehashed({**files, POSITIVE: with_more(files[POSITIVE], more)}), zipfile.ZIP_DEFLATED)
    empty = rehashed({**files, POSITIVE: files[POSITIVE] + b"\x72\x00" * many})
    result["empty fields"] = zipped(empty, zipfile.ZIP_DEFLATED)
    result["overlapping members"] = overlapping(files)
    result["a million entries"] = million_entries()
    return result


def overlapping(files: Files) -> bytes:
    """Every entry of the directory leads to the same member."""
    data = bytearray(zipped(files, zipfile.ZIP_DEFLATED))
    start = struct.unpack("<L", data[-6:-2])[0]
    entry = start
    while data[entry : entry + 4] == b"PK\x01\x02":
        struct.pack_into("<L", data, entry + 42, 0)
        name, extra, comment = struct.unpack_from("<3H", data, entry + 28)
        entry += 46 + name + extra + comment
    return bytes(data)


def million_entries() -> bytes:
    """Readers that believe the directory make a million objects of this."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *[0] * 9, 1, *[0] * 6) + b"x"
    directory = entry * 1_000_000
    return directory + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 6, 6, len(directory), 0, 0)


LOADER = """
import pathlib, sys
from dipole_runtime import GuidedPolicy, GuidedPolicyError
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        GuidedPolicy.load(path)
        print("loaded", path)
    except GuidedPolicyError as error:
        print(error)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


class TestMemory:
    def test_bombs(self, files: Files, tmp_path: pathlib.Path) -> None:
        """All of them in one process, which stays under a gigabyte, and writes nothing."""
        for name, content in bombs(files).items():
            (tmp_path / f"{name}.dipole").write_bytes(content)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        result = run_python("-c", LOADER, str(tmp_path))
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        *sentences, peak = result.stdout.splitlines()
        assert int(peak) << 10 < GIBIBYTE
        for path, sentence in zip(sorted(before), sentences, strict=True):
            assert_one_sentence(sentence, f"cannot load {path}: ")
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before

    def test_a_member_is_not_inflated_beyond_its_claim(self) -> None:
        data = bytearray(zipped({"a": bytes(1 << 20)}, zipfile.ZIP_DEFLATED))
        struct.pack_into("<L", data, data.index(b"PK\x01\x02") + 24, 10)
        archive = Archive(io.BytesIO(bytes(data)))
        with pytest.raises(GuidedPolicyError, match="not as long as it says"):
            archive.read("a", 10)
