"""``dipole data from-bag``: converts a rosbag2 recording to a data set."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

_DESCRIPTION = """\
Makes a data set of a rosbag2 recording: at the contract's rate, with the observation that the ROS 2 node builds
from the same messages, and what was commanded then on all of its action topics. Needs no ROS.

Where inputs are stale, missing or not finite, or no command follows, the episode ends; nothing is bridged. Beside
FILE.npz, FILE.json keeps where the data comes from: contract, options, why episodes ended, checksum. A name without
suffix becomes the folder of a stored data set: each frame of a camera once, and any number of them."""

_EXAMPLES = """\
examples:
  dipole data from-bag drive --contract robot.yaml --reward /reward --out drive.npz
  dipole data from-bag drive --contract robot.yaml --reward /score:pose.position.x --terminal /fallen --out drive.npz
  dipole data from-bag drive.mcap --contract robot.yaml --action-low -2 --action-high 2 --out drive.npz \\
      --reward "-hypot(next_observation[0], next_observation[1]) - 0.1 * abs(action[0])"
  dipole data from-bag drive --contract camera_arm.yaml --reward /reward --image-size 64 64 --out pictures

then:
  dipole train task=custom task.dataset=drive.npz"""


def add_parser(actions: Any) -> None:
    """Adds ``from-bag`` to the actions of ``data``."""
    parser = actions.add_parser(
        "from-bag",
        help="make a data set of a rosbag2 recording",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("bag", metavar="BAG", type=Path, help="a folder of rosbag2, or one .mcap or .db3 file")
    parser.add_argument("--contract", required=True, metavar="C", type=Path, help="the robot's contract (YAML)")
    parser.add_argument(
        "--reward",
        required=True,
        metavar="R",
        help="/topic, /topic:field.path, or an expression over observation[i], action[i], next_observation[i]",
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="the .npz file to write, or the folder")
    parser.add_argument(
        "--terminal", metavar="T", help="/topic[:field] that ends an episode for good (a fall, success): no bootstrap"
    )
    parser.add_argument("--reset", metavar="T", help="/topic[:field] that tells that the robot was set back to a start")
    parser.add_argument(
        "--bundle", metavar="B", type=Path, help="take bounds and names from it, and check the contract"
    )
    for end, default in (("low", "-1"), ("high", "1")):
        parser.add_argument(
            f"--action-{end}",
            type=float,
            nargs="+",
            metavar="X",
            help=f"bound of actions, in the robot's units (the bundle's, else {default})",
        )
    parser.add_argument("--namespace", default="/", metavar="NS", help="of the contract's relative topics (/)")
    parser.add_argument(
        "--delay", type=float, default=0.0, metavar="S", help="seconds from observation to its commands (0)"
    )
    parser.add_argument(
        "--hold",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds that a topic's command stays in force without another (0)",
    )
    parser.add_argument(
        "--reward-max-age", type=float, metavar="S", help="seconds that a topic's reward counts (two periods)"
    )
    parser.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="resize every picture, as training needs them smaller than cameras give them",
    )
    parser.add_argument("--use-sim-time", action="store_true", help="read the time off the recording's /clock")


def run(options: argparse.Namespace) -> int:
    """``dipole data from-bag``; failures raise."""
    from dipole_export.bags.conversion import BagOptions, recording_of_bag, store_bag, summary
    from dipole_sb3.recording import recording_files

    out = Path(options.out)
    if out.suffix:
        recording_files.require_output(out)
    given = BagOptions(
        reward=options.reward,
        terminal=options.terminal,
        set_back=options.reset,
        bundle=options.bundle,
        action_low=None if options.action_low is None else tuple(options.action_low),
        action_high=None if options.action_high is None else tuple(options.action_high),
        namespace=options.namespace,
        delay_s=options.delay,
        hold_s=options.hold,
        reward_max_age_s=options.reward_max_age,
        use_sim_time=options.use_sim_time,
        image_size=None if options.image_size is None else tuple(options.image_size),
    )
    if not out.suffix:
        facts = store_bag(options.bag, options.contract, given, out, shlex.join(command_line(options)))
        print(f"{out}: {summary(facts)}")
        return 0
    recording = recording_of_bag(options.bag, options.contract, given)
    path, provenance = recording_files.write_recording(recording, out, command_line(options))
    print(f"{path}: {summary(recording.provenance)}\n{provenance}: where they come from")
    return 0


def command_line(options: argparse.Namespace) -> list[str]:
    """The command line, rebuilt from the options; defaults are left out."""
    words = ["dipole", "data", "from-bag", str(options.bag)]
    for name in ("contract", "reward", "out", "terminal", "reset", "bundle", "reward_max_age"):
        if (value := getattr(options, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    for name in ("action_low", "action_high"):
        if (values := getattr(options, name)) is not None:
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    for name, default in (("namespace", "/"), ("delay", 0.0), ("hold", 0.0)):
        if (value := getattr(options, name)) != default:
            words += [f"--{name}", str(value)]
    if options.image_size is not None:
        words += ["--image-size", *map(str, options.image_size)]
    return [*words, "--use-sim-time"] if options.use_sim_time else words
