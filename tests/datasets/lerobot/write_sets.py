"""Lets LeRobot itself write the small sets that the tests read: run once with each version of it, by hand.

    python tests/datasets/lerobot/write_sets.py

writes tests/datasets/lerobot/sets/VERSION. Those here are of lerobot 0.3.3 (v2.1) and lerobot 0.4.4 (v3.0), with
datasets 4.8.5, pyarrow 26.0.1 and av 18.1.0.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from lerobot.datasets.lerobot_dataset import CODEBASE_VERSION, LeRobotDataset

sys.path.insert(0, str(Path(__file__).parents[2] / "helpers"))
from lerobot_frames import CAMERAS, FEATURES, FPS, LENGTHS, TASKS, episode, image

path = Path(__file__).parent / "sets" / CODEBASE_VERSION
features: dict[str, Any] = {key: dict(feature) for key, feature in {**FEATURES, **CAMERAS}.items()}
shutil.rmtree(path, ignore_errors=True)
data = LeRobotDataset.create("test/small", FPS, features, root=path, robot_type="arm")
for number, length in enumerate(LENGTHS):
    columns = episode(number)
    for frame in range(length):
        shown = {key: values[frame] for key, values in columns.items()}
        shown |= {key: image(number, frame, key) for key in CAMERAS}
        if CODEBASE_VERSION == "v2.1":
            data.add_frame(shown, task=TASKS[number])
        else:
            data.add_frame({**shown, "task": TASKS[number]})
    data.save_episode()
if hasattr(data, "finalize"):
    data.finalize()
shutil.rmtree(path / "images", ignore_errors=True)
