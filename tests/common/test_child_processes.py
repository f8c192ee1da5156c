"""Starting processes loses no Ctrl-C, and those that are started do not hear it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from dipole_sb3.common.child_processes import without_interrupts


def test_ctrl_c_while_processes_start_is_not_lost() -> None:
    """It was, when the signal was ignored meanwhile: a command went on for hours as if nobody had asked it to stop."""
    with pytest.raises(KeyboardInterrupt), without_interrupts():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_schedulers_warning_does_not_end_the_resource_tracker() -> None:
    """Slurm sends it to every process of a job; the tracker would be missed, with a warning, when the run ends."""
    code = """
import os, signal, sys, time
from multiprocessing import resource_tracker
from dipole_sb3.common.child_processes import without_interrupts
with without_interrupts():
    pass
os.kill(resource_tracker._resource_tracker._pid, signal.SIGUSR1)
time.sleep(0.3)
assert os.waitpid(resource_tracker._resource_tracker._pid, os.WNOHANG) == (0, 0)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_is_started_does_not_hear_it() -> None:
    code = "import time; print('up', flush=True); time.sleep(0.5); print('alive', flush=True)"
    with without_interrupts():
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=20)[0] == "alive\n"
    assert child.returncode == 0
