"""Scenes and a scorer small enough for tests, with the interfaces of the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dipole_sb3.driving.model.configuration import Configuration, tiny
from dipole_sb3.driving.scene import Observation, Scores, stacked


@dataclass(frozen=True)
class SmallScene:
    observation: Observation
    expert: np.ndarray
    surroundings: Any


class SmallScenes:
    """Cars that go straight on, at 0.8 to 1.2 times a speed that text, history and the front camera's colour tell."""

    def __init__(self, count: int, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.scenes = [_scene(random) for _ in range(count)]

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> SmallScene:
        return self.scenes[index]

    def observations(self, indices: Sequence[int]) -> Observation:
        return stacked([self.scenes[index].observation for index in indices])


class NearnessScorer:
    """The nearer a plan's end is to some metres beyond where the speed leads, the better."""

    def __init__(self, beyond: float = 3.0) -> None:
        self.beyond, self.calls = beyond, 0

    def score_plans(self, surroundings: Sequence[Any], plans: np.ndarray) -> Scores:
        self.calls += 1
        assert plans.shape[0] == len(surroundings)
        assert plans.shape[2:] == (8, 3)
        ends = np.asarray(surroundings, np.float64)[:, None]
        score = np.exp(-np.abs(plans[..., -1, 0] - ends - self.beyond) / 5)
        return Scores(score, score, score, score, score, score)


def _scene(random: np.random.Generator) -> SmallScene:
    speed = random.choice([3.0, 6.0, 9.0])
    cameras = np.full((3, 32, 32, 3), 40, np.uint8)
    cameras[1, :, :, 0] = int(20 * speed)
    history = np.zeros((4, 3), np.float32)
    history[:, 0] = -speed * np.array([1.5, 1.0, 0.5, 0.0])
    expert = np.zeros((8, 3), np.float32)
    expert[:, 0] = speed * random.uniform(0.8, 1.2) * 0.5 * np.arange(1, 9)
    observation = Observation(
        cameras=cameras,
        history=history,
        velocity=np.array([speed, 0], np.float32),
        acceleration=np.zeros(2, np.float32),
        command=np.asarray(1),
    )
    return SmallScene(observation, expert, 4 * speed)


def smallest() -> Configuration:
    """Networks that train in an instant."""
    sizes = tiny().as_dict()
    vision = {"embed_dim": [8, 16], "num_heads": [2, 2], "num_groups": [2, 2], "projection_dim": 16}
    language = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16}
    return Configuration(
        **{
            **sizes,
            "image_size": 32,
            "width": 16,
            "layers": 1,
            "heads": 2,
            "rank": 2,
            "alpha": 2,
            "vision": {**sizes["vision"], **vision},
            "language": {**sizes["language"], **language, "decoder_attention_heads": 2},
        }
    )
