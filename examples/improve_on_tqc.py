"""Collect data with a TQC agent of sb3-contrib that is far from done, improve on it offline, compare both."""

import argparse

from sb3_contrib import TQC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from dipole_sb3 import DIPOLE, record_dataset
from dipole_sb3.common.intervals import mean_interval

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--env", default="Reacher-v5")
parser.add_argument("--agent-steps", type=int, default=5_000, help="steps that the TQC agent learns for")
parser.add_argument("--data-steps", type=int, default=20_000, help="transitions that it then records")
parser.add_argument("--updates", type=int, default=8_000, help="updates of DIPOLE on them")
parser.add_argument("--eval-episodes", type=int, default=100)
args = parser.parse_args()

agent = TQC("MlpPolicy", args.env, policy_kwargs={"net_arch": [128, 128]}, seed=0, device="cpu")
agent.learn(args.agent_steps, progress_bar=True)

# Its actions are drawn, not the most likely ones: what is to be improved on has to vary.
dataset = record_dataset(agent, args.env, args.data_steps, n_envs=8, epsilon=0.1, progress=True)

model = DIPOLE(
    "MlpPolicy", args.env, dataset=dataset, beta=2.0, gamma=0.98, policy_kwargs={"net_arch": [128] * 3}, seed=0
)
model.learn(args.updates, progress_bar=True)


def returns(policy):
    env = make_vec_env(args.env, n_envs=10, seed=1)  # the same episodes for all
    return evaluate_policy(policy, env, args.eval_episodes, return_episode_rewards=True)[0]


results = {"TQC": returns(agent)}
for omega in (0.0, 1.0, 2.0):
    model.omega = omega
    results[f"DIPOLE, ω = {omega:g}"] = returns(model)

print(f"{'':16} {'return':>8}   95 % interval, {args.eval_episodes} episodes")
for name, values in results.items():
    mean, low, high = mean_interval(values)
    print(f"{name:16} {mean:8.2f}   [{low:.2f}, {high:.2f}]")
