"""Read a robot's own log, a table of one row per tick, and learn from it."""

import argparse

import numpy as np
from gymnasium import spaces

from dipole_sb3 import DIPOLE, OfflineReplayBuffer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument(
    "log", nargs="?", help="a CSV file: episode, angle, speed, torque, reward (without: an invented one)"
)
parser.add_argument("--updates", type=int, default=5_000)
parser.add_argument("--out", default="robot.zip")
args = parser.parse_args()

if args.log is None:
    args.log = "robot_log.csv"
    random = np.random.default_rng(0)
    with open(args.log, "w") as file:
        file.write("episode,angle,speed,torque,reward\n")
        for episode in range(20):
            angle, speed = random.normal(size=2)
            for _ in range(100):
                torque = np.clip(-angle - speed + random.normal(), -3, 3)
                file.write(f"{episode},{angle},{speed},{torque},{-angle * angle}\n")
                speed += 0.05 * (torque - 0.1 * speed)
                angle += 0.05 * speed

table = np.genfromtxt(args.log, delimiter=",", names=True)
states = np.stack([table["angle"], table["speed"]], axis=1)

# A transition needs two rows of the same episode: the last row of each only ends the one before it. The log says
# nothing of falls or success, so that all episodes just stop: masks are 1, and the values beyond are still estimated.
first, second = states[:-1], states[1:]
same_episode = table["episode"][:-1] == table["episode"][1:]
last = np.append(~same_episode[1:], True)
buffer = OfflineReplayBuffer.from_arrays(
    {
        "observations": first[same_episode],
        "actions": table["torque"][:-1, None][same_episode],
        "rewards": table["reward"][:-1][same_episode],
        "next_observations": second[same_episode],
        "terminals": last[same_episode].astype(np.float32),
        "masks": np.ones(same_episode.sum(), np.float32),
    },
    action_space=spaces.Box(-3, 3, (1,)),  # what the motor takes
    source=args.log,
)
print(f"{buffer.size()} transitions of {int(buffer.dones.sum())} episodes")

model = DIPOLE("MlpPolicy", dataset=buffer, policy_kwargs={"net_arch": [64, 64]}, seed=0)
model.learn(args.updates, progress_bar=True)
model.save(args.out)
for angle in (-1.0, 1.0):
    torque, _ = model.predict(np.array([angle, 0.0], np.float32), deterministic=True, omega=2.0)
    print(f"angle {angle:+g}: torque {torque[0]:+.2f}")
