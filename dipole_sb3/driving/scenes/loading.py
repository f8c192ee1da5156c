"""Scenes of a folder in the layout of NAVSIM: real ones, and those that are made here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from dipole_sb3.common.errors import DatasetError
from dipole_sb3.driving.scene import Observation, Surroundings, stacked
from dipole_sb3.driving.scenes.logs import SCENE_FRAMES, LoggedScene, read_log
from dipole_sb3.driving.scenes.metric_caches import find_metric_caches, read_metric_cache
from dipole_sb3.driving.scenes.names import PREFIX, SPLITS, scenes_folder

_FOLDERS_OF_SPLIT = {"train": ("train", "trainval")}
"""NAVSIM's names of splits, where ours is another."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One moment of a log at which the agent plans.

    :ivar logged: what the log tells of it.
    :ivar cache: file of its metric cache; None where there is none.
    """

    logged: LoggedScene
    cache: Path | None

    @property
    def token(self) -> str:
        """The scene's name, unique in its data set."""
        return self.logged.token

    @property
    def log(self) -> str:
        """Name of the log that it is part of."""
        return self.logged.log

    @property
    def kind(self) -> str:
        """Its type of scenario, for example ``merge``; ``unknown`` where nobody says it, as in NAVSIM."""
        return "unknown" if self.cache is None else self.cache.parents[1].name

    @property
    def expert(self) -> npt.NDArray[np.float32]:
        """Where the car really went: float32 [8, 3], a plan. It need not be good driving."""
        return self.logged.expert

    @property
    def observation(self) -> Observation:
        """What the agent sees; the images are read anew each time, at their own size.

        :raises DatasetError: an image is missing, damaged or not as large as the others.
        """
        logged = self.logged
        images = [_image(path) for path in logged.cameras]
        if len({image.shape for image in images}) > 1:
            sizes = ", ".join(f"{image.shape[1]}×{image.shape[0]}" for image in images)
            raise DatasetError(f"{logged.cameras[0]} and its neighbours have sizes {sizes}; expected one size")
        return Observation(
            np.stack(images), logged.history, logged.velocity, logged.acceleration, np.array(logged.command, np.int64)
        )

    @property
    def surroundings(self) -> Surroundings:
        """What plans are scored against; the last 1,024 that were read stay in memory.

        :raises DatasetError: the metric cache is missing or damaged.
        """
        if self.cache is None:
            raise DatasetError(
                f"scene {self.token} of log {self.log} has no metric cache; expected NAVSIM's metric caching to have "
                "run on it"
            )
        return _surroundings(self.cache)


_surroundings = lru_cache(maxsize=1024)(read_metric_cache)


def _image(path: Path) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise DatasetError(f"{path}: does not exist; expected the image of a camera") from None
    except Exception as error:  # Pillow raises errors of many kinds for damaged images
        raise DatasetError(f"{path}: cannot be read as an image ({error})") from error


class Scenes(Sequence[Scene]):
    """Scenes in a fixed order, that of their logs' names and times.

    :param scenes: the scenes.
    """

    def __init__(self, scenes: Iterable[Scene]) -> None:
        self._scenes = tuple(scenes)

    def __len__(self) -> int:
        return len(self._scenes)

    @overload
    def __getitem__(self, index: int) -> Scene: ...
    @overload
    def __getitem__(self, index: slice) -> Scenes: ...
    def __getitem__(self, index: int | slice) -> Scene | Scenes:
        return Scenes(self._scenes[index]) if isinstance(index, slice) else self._scenes[index]

    def observations(self, indices: Iterable[int]) -> Observation:
        """Observations of some scenes, with one more leading axis.

        :raises DatasetError: see :attr:`Scene.observation`; or the scenes' images have not one size.
        """
        chosen = [self[int(index)] for index in indices]
        seen = [scene.observation for scene in chosen]
        for scene, one in zip(chosen, seen, strict=True):
            if one.cameras.shape != seen[0].cameras.shape:
                raise DatasetError(
                    f"scene {scene.token} has images {one.cameras.shape[2]}×{one.cameras.shape[1]}, and scene "
                    f"{chosen[0].token} {seen[0].cameras.shape[2]}×{seen[0].cameras.shape[1]}; expected one size"
                )
        return stacked(seen)


def load_scenes(
    name: str | Path, split: str = "train", dataset_dir: str | Path | None = None, limit: int | None = None
) -> Scenes:
    """Scenes of one split.

    A folder holds ``navsim_logs/<split>/<log>.pkl``, ``sensor_blobs/<split>/…`` and
    ``metric_cache/<log>/<kind>/<token>/metric_cache.pkl``. Where there is a folder ``metric_cache``, only scenes that
    it knows are listed, as in NAVSIM's evaluation. Logs are read at once, images and metric caches when they are asked
    for; whatever is in the files, nothing of it is run.

    :param name: ``driving/highway-mix``, made by ``dipole data make``; or a folder.
    :param split: ``train`` (in a folder of NAVSIM's also called ``trainval``), ``test``, or another folder's name.
    :param dataset_dir: folder of the made scenes; default ``$DRIVING_DATA_DIR``, else ``~/.dipole/driving``.
    :param limit: no more scenes than these, the first ones, ≥ 1.
    :raises DatasetError: one sentence: nothing is there, or a file is damaged.
    :raises ValueError: a number out of its range.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; expected an integer >= 1")
    folder = scenes_folder(name, dataset_dir)
    logs = _logs_folder(name, folder, split)
    files = sorted(logs.glob("*.pkl"))
    if not files:
        raise DatasetError(f"{logs}: has no logs in it; expected files <log>.pkl")
    caches = find_metric_caches(folder / "metric_cache") if (folder / "metric_cache").is_dir() else None
    scenes: list[Scene] = []
    for file in files:
        found = read_log(file, folder / "sensor_blobs" / logs.name)
        scenes += [
            Scene(one, None if caches is None else caches[one.token])
            for one in found
            if caches is None or one.token in caches
        ]
        if limit is not None and len(scenes) >= limit:
            return Scenes(scenes[:limit])
    if not scenes:
        cached = "" if caches is None else f" and a metric cache in {folder / 'metric_cache'}"
        raise DatasetError(
            f"{logs}: has no scene in {len(files)} log{'s' * (len(files) > 1)}; expected a log of {SCENE_FRAMES} or "
            f"more frames (4 up to now, 10 after it) with a route (roadblock_ids){cached}"
        )
    return Scenes(scenes)


def _logs_folder(name: str | Path, folder: Path, split: str) -> Path:
    names = _FOLDERS_OF_SPLIT.get(split, (split,))
    for one in names:
        if (folder / "navsim_logs" / one).is_dir():
            return folder / "navsim_logs" / one
    hint = ""
    if str(name).startswith(PREFIX) and split in SPLITS:
        hint = f"; dipole data make {name} makes it"
    raise DatasetError(f"{folder / 'navsim_logs' / split}: does not exist; expected a folder of logs{hint}")
