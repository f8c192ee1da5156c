"""``dipole data convert``: a data set in another format."""

from __future__ import annotations

import argparse
from typing import Any

_DESCRIPTION = """\
Writes a data set in another format. B is the folder of a stored data set, memory-mapped arrays that train at
any size, or an .npz or .hdf5 file; with --to a LeRobot data set (v3.0) or a set in Minari's folder. A is any
name, path or URL that `dipole train` knows; files are read a part at a time. B appears when it is complete.

Sets of LeRobot (a folder with meta/info.json) and robomimic (an .hdf5 file) become observations and rewards:
those that were recorded, or an expression. Images and videos, of LeRobot alone, are read where --observations
names them."""

_EXAMPLES = """\
examples:
  dipole data convert walker.hdf5 walker             D4RL's format as a stored data set
  dipole data convert demo/reacher-tqc-10k demo.npz  one file, actions in the environment's units
  dipole data convert s3://bucket/walker walker      fetched first, into $DIPOLE_CACHE
  dipole data convert hf://datasets/lerobot/pusht pusht --observations observation.state \\
      --action-low 0 0 --action-high 512 512
  dipole data convert arm arm-10 --reward '-hypot(next_observation["x"], next_observation["y"])'
  dipole data convert arm arm-64 --observations observation.state observation.images.front --image-size 64 64
  dipole data convert lift.hdf5 lift --filter-key train --observations object robot0_eef_pos
  dipole data convert walker walker-lerobot --to lerobot --fps 125
  dipole data convert arm-64 arm-lossless --to lerobot --no-videos
  dipole data convert walker walker/mine-v0 --to minari
  dipole train task=custom task.dataset=walker task.env=Walker2d-v5"""


def add_parser(actions: Any) -> None:
    """Adds the action to those of ``dipole data``."""
    convert = actions.add_parser(
        "convert",
        help="write a data set in another format",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.set_defaults(run=run)
    convert.add_argument("source", metavar="A", help="a data set, by name, path or URL")
    convert.add_argument("destination", metavar="B", help="the folder to write, or an .npz, .hdf5 or .h5 file")
    convert.add_argument("--to", choices=("lerobot", "minari"), help="write B for LeRobot or, by this name, for Minari")
    convert.add_argument("--fps", type=float, metavar="F", help="frames a second, --to lerobot (as A tells)")
    convert.add_argument(
        "--no-videos",
        dest="use_videos",
        action="store_const",
        const=False,
        help="images as PNG files in the table of frames, lossless, --to lerobot (as videos)",
    )
    convert.add_argument("--overwrite", action="store_true", help="replace B where it exists")
    recordings = convert.add_argument_group("of sets of LeRobot and robomimic")
    recordings.add_argument(
        "--reward",
        metavar="R",
        help="an expression over observation[i], action[i], next_observation[i], reward[0], success[0] (as recorded)",
    )
    recordings.add_argument(
        "--observations", nargs="+", metavar="KEY", help="what is observed (all that are no images)"
    )
    recordings.add_argument(
        "--image-size", nargs=2, type=int, metavar=("H", "W"), help="LeRobot: resize images (as they are stored)"
    )
    recordings.add_argument("--filter-key", metavar="K", help="robomimic: only the demonstrations under mask/K")
    for end, default in (("low", "-1"), ("high", "1")):
        recordings.add_argument(
            f"--action-{end}",
            type=float,
            nargs="+",
            metavar="X",
            help=f"bounds of the action's elements, in the robot's units ({default})",
        )


def run(options: argparse.Namespace) -> int:
    """``dipole data convert``; failures raise."""
    from dipole_sb3.datasets.conversion import convert

    given = {key: getattr(options, key) for key in ("reward", "observations", "image_size", "filter_key")}
    given["action_space"] = _action_space(options.action_low, options.action_high)
    convert(
        options.source,
        options.destination,
        to=options.to,
        fps=options.fps,
        use_videos=options.use_videos,
        overwrite=options.overwrite,
        **{key: value for key, value in given.items() if value is not None},
    )
    print(options.destination)
    return 0


def _action_space(low: list[float] | None, high: list[float] | None) -> Any:
    if low is None and high is None:
        return None
    import numpy as np
    from gymnasium import spaces

    low = [-1.0] * len(high or ()) if low is None else low
    high = [1.0] * len(low) if high is None else high
    if len(low) != len(high) or not all(a < b for a, b in zip(low, high, strict=False)):
        raise ValueError(
            f"--action-low is {low}, --action-high {high}; expected as many numbers, the first less than the second"
        )
    return spaces.Box(np.asarray(low, np.float32), np.asarray(high, np.float32))
