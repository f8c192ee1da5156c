"""What the runtime's tests share: how a refusal must look, programs beside the tests, bytes of zip files and graphs."""

from __future__ import annotations

import os
import pathlib
import struct
import subprocess
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import dipole_runtime
import onnx
import pytest
from dipole_runtime import Bundle, GuidedPolicy, GuidedPolicyError


def assert_one_sentence(error: BaseException | str, *words: str) -> None:
    """One line of under 400 characters with the given words in it."""
    sentence = str(error)
    assert len(sentence.splitlines()) == 1, sentence
    assert len(sentence) < 400, sentence
    for word in words:
        assert word in sentence, f"{word!r} is not in: {sentence}"


def refusal(path: pathlib.Path | str, *words: str) -> str:
    """The one sentence with which what lies there is refused; it names the place."""
    with pytest.raises(GuidedPolicyError) as raised:
        GuidedPolicy.load(path)
    assert_one_sentence(raised.value, str(path), *words)
    return str(raised.value)


def refusal_of(files: Mapping[str, bytes], *words: str) -> str:
    """The one sentence with which a bundle in memory is refused, sooner or later."""
    with pytest.raises(GuidedPolicyError) as raised:
        GuidedPolicy.from_bundle(Bundle.from_files(files, "robot's bundle"))
    assert_one_sentence(raised.value, "robot's bundle", *words)
    return str(raised.value)


def refusal_of_structure(files: Mapping[str, bytes], *words: str) -> None:
    """The same, but it must come before ONNX Runtime sees anything."""
    with pytest.raises(GuidedPolicyError) as raised:
        Bundle.from_files(files, "robot's bundle")
    assert_one_sentence(raised.value, "robot's bundle", *words)


def environment() -> dict[str, str]:
    """For a process that imports the same dipole_runtime, and renders nothing."""
    source = str(pathlib.Path(dipole_runtime.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}


def run_python(*arguments: str, cwd: pathlib.Path | None = None) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter, at most a minute."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        encoding="utf-8",
        env=environment(),
        cwd=cwd,
        timeout=60,
        check=False,
    )


def directory_of(zip_file: bytes | bytearray) -> int:
    """Where the zip file's directory begins, as its last 22 bytes say."""
    return int(struct.unpack("<L", zip_file[-6:-2])[0])


def field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer that holds bytes."""
    size, length = len(content), b""
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def with_more(data: bytes, graph: bytes) -> bytes:
    """A model with more bytes in its graph."""
    model = onnx.load_from_string(data)
    whole = field(7, model.graph.SerializeToString() + graph)
    model.ClearField("graph")
    return model.SerializeToString() + whole


def refusal_of_call(call: Any, *arguments: Any, **keywords: Any) -> str:
    """The one sentence with which a call is refused; warnings would be a second one."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(GuidedPolicyError) as raised:
            call(*arguments, **keywords)
    assert_one_sentence(raised.value)
    return str(raised.value)
