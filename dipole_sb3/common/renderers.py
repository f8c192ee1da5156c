"""What MuJoCo draws with where there is no screen."""

from __future__ import annotations

import os
import subprocess
import sys

from dipole_sb3.common.errors import DatasetError

VARIABLE = "MUJOCO_GL"
"""Environment variable by which MuJoCo chooses; it reads it once, when it is imported."""

OFF_SCREEN = ("egl", "osmesa")
"""In the order in which they are tried: with a GPU's driver or Mesa's, and on the processor."""

_PROBE = "import mujoco; mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>'), 8, 8)"
_SECONDS = 120.0


def worth_trying() -> tuple[str, ...]:
    """Values of ``MUJOCO_GL``: the user's alone, else those of :data:`OFF_SCREEN`."""
    chosen = os.environ.get(VARIABLE, "disable")
    return OFF_SCREEN if chosen == "disable" else (chosen,)


def choose_off_screen(purpose: str) -> None:
    """Has MuJoCo draw off screen, in this process and in those that it starts; a user's own choice is kept.

    Nothing changes where MuJoCo has been imported already: it has chosen then.

    :param purpose: as for :func:`off_screen_renderer`, whose errors it raises.
    :raises DatasetError: MuJoCo has been imported already, and draws nothing.
    """
    if "mujoco" not in sys.modules:
        os.environ[VARIABLE] = off_screen_renderer(purpose)
    elif os.environ.get(VARIABLE) == "disable":
        raise DatasetError(
            f"{purpose}: MuJoCo has been imported with {VARIABLE}=disable, expected it to be {' or '.join(OFF_SCREEN)} "
            "when MuJoCo is imported"
        )


def off_screen_renderer(purpose: str) -> str:
    """The first value of ``MUJOCO_GL`` that can draw here.

    Each is tried in a process of its own, because MuJoCo keeps to its first one.

    :param purpose: what is to be drawn, for the message.
    :raises DatasetError: none can; with what each of them said.
    """
    tried = []
    for renderer in worth_trying():
        command = [sys.executable, "-c", _PROBE]
        environment = {**os.environ, VARIABLE: renderer}
        try:
            finished = subprocess.run(
                command, capture_output=True, text=True, check=False, env=environment, timeout=_SECONDS
            )
        except subprocess.TimeoutExpired:
            tried.append(f"{renderer}: no answer in {_SECONDS:g} s")
            continue
        if finished.returncode == 0:
            return renderer
        tried.append(f"{renderer}: {(finished.stderr.strip() or 'it said nothing').splitlines()[-1]}")
    raise DatasetError(f"{purpose}: MuJoCo cannot draw here ({'; '.join(tried)}); on Debian, apt install libosmesa6")
