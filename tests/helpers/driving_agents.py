"""Small driving agents whose adapters disagree, as after a fine-tuning, without one."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dipole_sb3.driving import DPVLA
from dipole_sb3.driving.model.configuration import tiny
from dipole_sb3.driving.scene import Observation


def small_agent(seed: int = 0, method: Any = "dipole") -> DPVLA:
    """Random weights that answer more than zero, and plans that drive at about 10 m/s."""
    whole = tiny()
    # One layer is exported in half the time of two.
    language = {**whole.language, "encoder_layers": 1}
    agent = DPVLA(replace(whole, layers=1, image_size=32, language=language), seed=seed, device="cpu")
    planner, random = agent.planner, torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in planner.decoder.named_parameters():
            if "lora_B" in name or "modulation" in name or name.startswith("leave.2"):
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=random))
        steps = torch.arange(1, 9)
        planner.action_mean[:, 0], planner.action_mean[:, 2] = 5.0 * steps, 1.0
        planner.action_std.copy_(torch.stack([1.0 * steps, 0.4 * steps, 0.1 + 0 * steps, 0.1 + 0 * steps], dim=1))
    agent.method, agent.pretrained_epochs = method, 1
    return agent


PICTURE = (48, 80)
"""Height and width of the cameras of :func:`exported`: not the encoder's square, so that its graph resizes."""


@cache
def exported() -> tuple[DPVLA, Path]:
    """An agent, and the bundle that the command makes of it when it is saved; once for all tests of a process."""
    from dipole_export import cli

    agent, folder = small_agent(), Path(tempfile.mkdtemp(prefix="plans"))
    agent.save(folder / "agent")
    options = ["--picture", *map(str, PICTURE), "--omega", "0.5", "--omega-range", "-1", "3", "--max-speed", "50"]
    assert cli.main(["export", str(folder / "agent"), str(folder / "car.dipole"), *options]) == 0
    return agent, folder / "car.dipole"


def seen(count: int, height: int = 64, width: int = 64, seed: int = 5) -> Observation:
    """A batch of scenes of noise."""
    random = np.random.default_rng(seed)
    return Observation(
        cameras=random.integers(0, 256, (count, 3, height, width, 3), np.uint8),
        history=random.normal(size=(count, 4, 3)).astype(np.float32),
        velocity=random.normal(size=(count, 2)).astype(np.float32) * 10,
        acceleration=random.normal(size=(count, 2)).astype(np.float32),
        command=random.integers(4, size=count),
    )
