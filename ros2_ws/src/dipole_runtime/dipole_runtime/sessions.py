"""Networks in ONNX Runtime: sessions that print nothing, use bounded memory, and report errors in one sentence."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from dipole_runtime.errors import GuidedPolicyError, shown

Floats = NDArray[np.float32]
Provider = str | tuple[str, dict[str, Any]]

DEFAULT_PROVIDERS: tuple[Provider, ...] = ("CPUExecutionProvider",)

_MEMORY = 512 << 20
"""Limit in bytes for the weights and values of all sessions of this package together."""
_FATAL = 4
# In versions up to at least 1.23, constant folding computes constants of any size, outside the bounded memory. Exported
# graphs are already folded.
_DISABLED_OPTIMIZERS = ["ConstantFolding"]

_allocator_lock = threading.Lock()
_allocator_registered = False


class Network:
    """One network, ready to run; safe to run from several threads at once.

    :param name: the file's name, for messages.
    :param data: the ONNX file.
    :param threads: number of threads for one run, at least 1.
    :param providers: ONNX Runtime's execution providers in order of preference.
    :raises GuidedPolicyError: this machine does not have the providers, or ONNX Runtime refuses the network.
    """

    def __init__(self, name: str, data: bytes, threads: int = 1, providers: Sequence[Provider] | None = None) -> None:
        wanted = list(DEFAULT_PROVIDERS if providers is None else providers)
        _require_available(wanted)
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise GuidedPolicyError(f"threads is {shown(threads)}, expected a whole number of at least 1")
        self._name = name
        _register_allocator()
        try:
            self._session = onnxruntime.InferenceSession(
                data,
                _options(threads),
                providers=wanted,
                disabled_optimizers=_DISABLED_OPTIMIZERS,
                # With fallback, it would print the failure and try again with other providers.
                enable_fallback=0,
            )
        # ONNX Runtime's exceptions have no common base class, and damaged models can raise any of them.
        except Exception as error:
            raise self._refused("cannot be loaded", error) from error
        # ONNX Runtime silently leaves out a provider that is installed but cannot start (no GPU, wrong driver).
        missing = {_name(provider) for provider in wanted} - set(self._session.get_providers())
        if missing:
            raise GuidedPolicyError(f"the execution provider {sorted(missing)[0]} cannot start on this machine")

    def run(
        self, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]], options: onnxruntime.RunOptions | None = None
    ) -> list[Floats]:
        """The named outputs for named inputs.

        :param options: see :func:`time_limit`.
        :raises GuidedPolicyError: ONNX Runtime fails.
        """
        try:
            result: list[Floats] = self._session.run(outputs, inputs, options)
        except Exception as error:
            raise self._refused("failed", error) from error
        return result

    def _refused(self, what: str, error: Exception) -> GuidedPolicyError:
        reason = str(error).removeprefix("[ONNXRuntimeError] : ").strip()
        # The message begins with the kind of failure and ends with its cause; between them are paths of ONNX Runtime's
        # sources.
        if len(reason) > 200:
            reason = f"{reason[:80]} … {reason[-118:]}"
        return GuidedPolicyError(f"{self._name} {what} in ONNX Runtime {onnxruntime.__version__} ({reason})")


@contextmanager
def time_limit(seconds: float) -> Iterator[onnxruntime.RunOptions]:
    """Options for runs that fail when the block takes longer than this: hostile graphs can compute for days."""
    options = onnxruntime.RunOptions()
    options.log_severity_level = _FATAL

    def stop() -> None:
        options.terminate = True

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield options
    finally:
        timer.cancel()


def _name(provider: Provider) -> str:
    return provider if isinstance(provider, str) else provider[0]


def _require_available(providers: Sequence[Provider]) -> None:
    available = onnxruntime.get_available_providers()
    unknown = [provider for provider in map(_name, providers) if provider not in available]
    if unknown or not providers:
        found = f"does not have {shown(unknown[0])}" if unknown else "was given none"
        raise GuidedPolicyError(f"providers: this ONNX Runtime {found}, expected some of {', '.join(available)}")


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _FATAL
    options.add_session_config_entry("session.use_env_allocators", "1")
    return options


def _register_allocator() -> None:
    """Bounds a graph's memory: a single operator can request terabytes, which no file size reveals."""
    global _allocator_registered
    with _allocator_lock:
        if _allocator_registered:
            return
        _allocator_registered = True
        memory = onnxruntime.OrtMemoryInfo(
            "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
        )
        # The arena grows only by the requested size: doubling would waste up to half of it.
        arena = onnxruntime.OrtArenaCfg({"max_mem": _MEMORY, "arena_extend_strategy": 1})
        try:
            onnxruntime.create_and_register_allocator(memory, arena)
        except Exception:
            # The application has registered its own allocator, with its own limits; ours then use that one.
            return
