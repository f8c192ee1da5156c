"""Learn from recorded data first, then go on in eight environments at a time."""

import argparse

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import SubprocVecEnv

from dipole_sb3 import DIPOLE

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=3_000, help="updates on the recorded data")
    parser.add_argument("--steps", type=int, default=8_000, help="steps in the environments after that")
    parser.add_argument("--n-envs", type=int, default=8)
    parser.add_argument("--eval-episodes", type=int, default=100)
    args = parser.parse_args()

    env = make_vec_env("Reacher-v5", n_envs=args.n_envs, vec_env_cls=SubprocVecEnv, seed=0)
    model = DIPOLE(
        "MlpPolicy",
        env,
        dataset="demo/reacher-tqc-10k",
        offline_steps=args.updates,
        beta=2.0,
        gamma=0.98,
        gradient_steps=-1,  # as many updates as there are steps
        policy_kwargs={"net_arch": [128, 128, 128]},
        seed=0,
    )

    def report(when):
        test_env = make_vec_env("Reacher-v5", n_envs=8, seed=1)  # the same episodes both times
        mean, deviation = evaluate_policy(model, test_env, args.eval_episodes)
        print(f"{when}: mean return {mean:.2f} ± {deviation:.2f}")

    # Timesteps are one axis: the first `offline_steps` are updates, those after them are steps.
    model.learn(args.updates, progress_bar=True)
    report("after the recorded data")
    model.learn(args.steps, reset_num_timesteps=False, progress_bar=True)
    report("after the environments")
    env.close()
