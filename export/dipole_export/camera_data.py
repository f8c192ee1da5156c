"""The camera demo's data: the scripted arm's recording, seen again by the camera above it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from dipole_policy import camera_arm

from dipole_sb3 import load_dataset
from dipole_sb3.buffers.action_units import in_environment_units
from dipole_sb3.common import renderers
from dipole_sb3.common.progress import progress_bar
from dipole_sb3.datasets import make_env, storage

RECORDING = "demo/reacher-scripted-30k"
ENVIRONMENT = f"dipole_policy.camera_arm:{camera_arm.ID}"


def make(folder: Path, episodes: int, progress: bool) -> None:
    """Draws the first episodes of the recording and writes them as a stored data set, unless it is there already.

    Actions, rewards and ends are the recording's own; observations are what is seen in its states.

    :param folder: of the data set.
    :param episodes: how many of the 600.
    :param progress: show a progress bar; where there is no terminal, a line a minute.
    :raises DatasetError: nothing that MuJoCo draws with is here.
    """
    if folder.exists():
        return
    renderers.choose_off_screen("the camera's pictures")
    recorded = load_dataset(RECORDING, device="cpu")
    env = make_env(ENVIRONMENT)
    env.reset(seed=0)
    arm = env.get_wrapper_attr("show")
    facts = {"env_id": ENVIRONMENT, "recorded": RECORDING, "episodes": episodes}
    bar = progress_bar(progress, total=episodes, desc="drawing", unit=" episodes")
    written = 0
    with storage.DatasetWriter(folder, env.observation_space, env.action_space, facts) as writer, bar:
        for block in recorded.blocks(50):
            seen = [arm(observation) for observation in (*block["observations"], block["next_observations"][-1])]
            pictures, joints = (np.stack([one[key] for one in seen]) for key in ("camera", "joints"))
            writer.append(
                {
                    "observations": {"camera": pictures[:-1], "joints": joints[:-1]},
                    "next_observations": {"camera": pictures[1:], "joints": joints[1:]},
                    "actions": in_environment_units(block["actions"], recorded.action_space),
                    "rewards": block["rewards"],
                    "terminals": block["dones"],
                    "masks": 1 - block["dones"] * (1 - block["timeouts"]),
                }
            )
            written += 1
            bar.update()
            if written == episodes:
                break
    env.close()
