"""Train where there is no environment: from recorded data alone, then act on observations as they come."""

import argparse

import numpy as np

from dipole_sb3 import DIPOLE, load_dataset

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="demo/reacher-tqc-10k", help="a name, or the path of your own recording")
parser.add_argument("--updates", type=int, default=8_000)
parser.add_argument("--out", default="reacher.zip")
args = parser.parse_args()

# The spaces come from the data; every end of an episode and every time limit, too.
dataset = load_dataset(args.dataset)
print(f"{dataset.size()} transitions, {int(dataset.dones.sum())} episodes")

model = DIPOLE("MlpPolicy", dataset=dataset, beta=2.0, gamma=0.98, policy_kwargs={"net_arch": [128, 128, 128]})
model.learn(args.updates, progress_bar=True)
model.save(args.out)

# Elsewhere, with neither data nor environment:
model = DIPOLE.load(args.out)
observation = np.zeros(model.observation_space.shape, np.float32)
for omega in (0.0, 2.0):
    action, _ = model.predict(observation, deterministic=True, omega=omega)
    print(f"ω = {omega:g}: action {action}")
