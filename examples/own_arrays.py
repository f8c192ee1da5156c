"""Preload a replay buffer with arrays of your own, train on them, and see whether it got better than they are."""

import argparse

import gymnasium
import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from dipole_sb3 import DIPOLE, OfflineReplayBuffer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--episodes", type=int, default=100, help="recorded episodes of 200 steps")
parser.add_argument("--updates", type=int, default=5_000)
parser.add_argument("--eval-episodes", type=int, default=50)
args = parser.parse_args()

# Whatever you have recorded. Here: a pendulum that is pumped up by a rule of thumb, often wrongly.
env = gymnasium.make("Pendulum-v1")
random = np.random.default_rng(0)
rows = []
for episode in range(args.episodes):
    observation, _ = env.reset(seed=episode)
    done = False
    while not done:
        cosine, sine, speed = observation
        torque = -10 * sine - 2 * speed if cosine > 0.9 else 2 * np.sign(speed)
        action = np.clip([torque + random.normal(0, 2)], -2, 2).astype(np.float32)
        following, reward, terminated, truncated, _ = env.step(action)
        done = terminated or truncated
        rows.append((observation, action, reward, following, done, not terminated))
        observation = following

# `terminals` is 1 where an episode ended, `masks` is 0 only where it really was over: a time limit keeps 1.
keys = ("observations", "actions", "rewards", "next_observations", "terminals", "masks")
arrays = {key: np.array(column, np.float32) for key, column in zip(keys, zip(*rows, strict=True), strict=True)}
buffer = OfflineReplayBuffer.from_arrays(arrays, action_space=env.action_space)
print(f"recorded: mean return {arrays['rewards'].sum() / args.episodes:.0f}")

model = DIPOLE("MlpPolicy", env, dataset=buffer, beta=0.1, policy_kwargs={"net_arch": [128, 128]}, seed=0)
model.learn(args.updates, progress_bar=True)

test_env = make_vec_env("Pendulum-v1", n_envs=10, seed=1)
for omega in (0.0, 1.0, 4.0):
    model.omega = omega
    mean, deviation = evaluate_policy(model, test_env, args.eval_episodes)
    print(f"ω = {omega:g}: mean return {mean:.0f} ± {deviation:.0f}")
