"""Processes that work for this one: quiet, single-threaded, and without the user's script in them."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_ENVIRONMENT = {
    # Each keeps one core busy with matrices too small to share; results must not hang on the number of threads.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # Nothing is rendered, so nothing is asked of the graphics driver.
    "MUJOCO_GL": "disable",
}


@contextmanager
def quiet_children() -> Iterator[None]:
    """Processes started inside are single-threaded and ignore Ctrl-C, which is this process's to handle."""
    before = {key: os.environ.get(key) for key in _ENVIRONMENT}
    main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main_thread else signal.SIG_DFL
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
        if main_thread:
            signal.signal(signal.SIGINT, handler if handler is not None else signal.SIG_DFL)


@contextmanager
def without_script() -> Iterator[None]:
    """Processes spawned inside do not import the script that is running.

    Otherwise a script without ``if __name__ == "__main__":`` would load its data set once more in every worker, which
    would wait there for the lock that this process holds.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script
