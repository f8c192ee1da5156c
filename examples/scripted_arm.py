"""Record a controller of your own: a scripted arm that goes to its target in some episodes only."""

import argparse

import gymnasium
import numpy as np

from dipole_sb3 import record_dataset

UPPER, LOWER = 0.1, 0.11  # Reacher's links, in metres

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("out", nargs="?", default="reacher-scripted.npz")
parser.add_argument("--steps", type=int, default=30_000)
parser.add_argument("--aimed", type=float, default=0.4, help="share of the episodes that go to the target")
args = parser.parse_args()


class ScriptedArm:
    """A proportional-derivative controller. Aim, gains and carelessness are drawn anew in every episode.

    ``record_dataset`` asks a model for its spaces, for ``predict`` on a batch, and for VecNormalize, if it has one.
    """

    def __init__(self, seed: int) -> None:
        with gymnasium.make("Reacher-v5") as env:
            self.observation_space, self.action_space = env.observation_space, env.action_space
        self.random = np.random.default_rng(seed)

    def predict(self, observations, state=None, episode_start=None, deterministic=False):
        if episode_start[0]:
            self.begin(target=observations[0, 4:6])
        cosines, sines, velocities = observations[0, :2], observations[0, 2:4], observations[0, 6:8]
        torques = self.stiffness * self.to_aim(np.arctan2(sines, cosines)) - self.damping * velocities
        torques += self.carelessness * self.random.normal(size=2)
        return np.clip(torques, -1, 1)[None].astype(np.float32), None

    def begin(self, target: np.ndarray) -> None:
        distance, direction = 0.2 * np.sqrt(self.random.uniform()), self.random.uniform(-np.pi, np.pi)
        elsewhere = distance * np.array([np.cos(direction), np.sin(direction)])
        self.aim = target if self.random.uniform() < args.aimed else elsewhere
        self.stiffness = np.exp(self.random.uniform(np.log(0.1), np.log(0.6)))
        self.damping = self.stiffness * self.random.uniform(0.1, 0.25)
        self.carelessness = self.random.uniform(0, 0.3)

    def to_aim(self, angles: np.ndarray) -> np.ndarray:
        """The turns of both joints that bring the fingertip to the aim, the elbow always bent to the same side."""
        cosine = (self.aim @ self.aim - UPPER**2 - LOWER**2) / (2 * UPPER * LOWER)
        elbow = np.arccos(np.clip(cosine, -1, 1))
        past = np.arctan2(LOWER * np.sin(elbow), UPPER + LOWER * np.cos(elbow))
        shoulder = np.arctan2(self.aim[1], self.aim[0]) - past
        return np.array([(shoulder - angles[0] + np.pi) % (2 * np.pi) - np.pi, elbow - angles[1]])

    def get_vec_normalize_env(self):
        return None


buffer = record_dataset(
    ScriptedArm(seed=0),
    "Reacher-v5",
    args.steps,
    args.out,
    metadata={"command": f"python examples/scripted_arm.py --steps {args.steps} --aimed {args.aimed}"},
    progress=True,
)
facts = buffer.metadata
print(f"{buffer.size()} transitions in {args.out}, mean return of an episode {facts['data_return_mean']:.2f}")
