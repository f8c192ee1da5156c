"""Random crops beside padding and cutting, and what updates see of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from recordings import record
from sampled_environments import Sampled, image_space, vector_space

from dipole_sb3 import DIPOLE
from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.learning.augmentation import PADDING, Shifts, augmented, draw_shifts, shifted
from dipole_sb3.learning.learn_together import learn_together
from dipole_sb3.learning.update_rule import Outcome

CAMERAS = spaces.Dict({"left": image_space(12, 10, 3), "joints": vector_space(), "right": image_space(9, 9, 1)})


def plain_crop(image: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """[channels, height, width], padded with its edges and cut out."""
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (PADDING, PADDING), (PADDING, PADDING)), mode="edge")
    y, x = PADDING + shift
    return padded[:, y : y + height, x : x + width]


@pytest.mark.parametrize("leading", [(5,), (2, 3)])
def test_is_a_crop_of_the_padded_image(leading: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (*leading, 2, 7, 5), np.uint8)
    shifts = generator.integers(-PADDING, PADDING + 1, (*leading, 2))
    found = shifted(torch.from_numpy(images), torch.from_numpy(shifts))
    assert found.dtype == torch.uint8
    for place in np.ndindex(leading):
        np.testing.assert_array_equal(found[place], plain_crop(images[place], shifts[place]))


def test_drawn_for_a_batch_or_not_at_all() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert draw_shifts(image_space(3, 9, 9), 8, 0.0, generator) is None
    assert torch.equal(generator.get_state(), before)  # data without crops are drawn as if there were none
    drawn = torch.stack([tensor_of(draw_shifts(image_space(3, 9, 9), 8, 0.25, generator)) for _ in range(2000)])
    moving = drawn.any(-1).any(-1)
    assert abs(moving.float().mean() - 0.25) < 0.04
    counts = torch.stack([(drawn[moving] == shift).float().mean() for shift in range(-PADDING, PADDING + 1)])
    torch.testing.assert_close(counts, torch.full((7,), 1 / 7), atol=0.02, rtol=0)


def tensor_of(shifts: Shifts | None) -> torch.Tensor:
    assert isinstance(shifts, torch.Tensor)
    return shifts


def test_both_observations_move_alike_and_vectors_stay() -> None:
    shifts = draw_shifts(CAMERAS, 4, 1.0, torch.Generator().manual_seed(0))
    assert isinstance(shifts, dict)
    assert set(shifts) == {"left", "right"}
    assert not torch.equal(shifts["left"], shifts["right"])
    seen = {
        "left": torch.randint(0, 256, (4, 3, 12, 10), dtype=torch.uint8),
        "joints": torch.rand(4, 3),
        "right": torch.randint(0, 256, (4, 1, 9, 9), dtype=torch.uint8),
    }
    other = {key: value.flip(0) for key, value in seen.items()}
    none = torch.zeros(4)
    batch = augmented(Batch(seen, none, none, other, none), shifts)
    for found, given in ((batch.observations, seen), (batch.next_observations, other)):
        assert isinstance(found, dict)
        assert found["joints"] is given["joints"]
        for key, shift in shifts.items():
            for row in range(4):
                np.testing.assert_array_equal(found[key][row], plain_crop(given[key][row].numpy(), shift[row].numpy()))


def model_of(**arguments: Any) -> DIPOLE:
    data = record(Sampled(CAMERAS), 30)
    kwargs = {
        "net_arch": [8],
        "features_extractor_class": "impala-small",
        "features_extractor_kwargs": {"features_dim": 8},
    }
    return DIPOLE(
        "MultiInputPolicy",
        dataset=data,
        batch_size=16,
        policy_kwargs=kwargs,
        seed=arguments.pop("seed", 0),
        device="cpu",
        **arguments,
    )


def test_updates_see_the_batch_moved() -> None:
    model = model_of(random_crop=1.0)
    run = model._run
    inputs = run.draw_inputs(16)
    seen: list[Batch] = []

    def losses(networks: Any, batch: Batch, noise: Any, objective: Any) -> Outcome:
        seen.append(batch)
        return model.update_rule.losses(networks, batch, noise, objective)

    run.update(inputs, losses)
    expected = augmented(run.gathered(inputs), inputs.shifts)
    assert isinstance(expected.observations, dict)
    assert isinstance(seen[0].observations, dict)
    for key, value in expected.observations.items():
        assert torch.equal(seen[0].observations[key], value)
    plain = run.gathered(inputs).observations
    assert isinstance(plain, dict)
    assert not torch.equal(expected.observations["left"], plain["left"])


def test_several_runs_see_what_each_would_see_alone() -> None:
    alone = [model_of(random_crop=0.5, seed=seed).learn(4) for seed in (0, 1)]
    together = [model_of(random_crop=0.5, seed=seed) for seed in (0, 1)]
    learn_together(together, 4)
    for one, other in zip(alone, together, strict=True):
        for (name, expected), found in zip(one.policy.named_parameters(), other.policy.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5, msg=name)
    plain = model_of(seed=0).learn(4)
    assert not torch.equal(next(plain.policy.parameters()), next(alone[0].policy.parameters()))


def test_runs_with_different_crops_are_not_one() -> None:
    with pytest.raises(ValueError, match=r"run 1: random_crop: found 0\.5, expected 0\.25 as in run 0"):
        learn_together([model_of(random_crop=0.25), model_of(random_crop=0.5)], 1)


@pytest.mark.parametrize("probability", [-0.1, 1.5, True, "often"])
def test_no_probability(probability: Any) -> None:
    with pytest.raises(ValueError, match=r"^random_crop is .*, expected a number in \[0, 1\]$"):
        model_of(random_crop=probability)


def test_nothing_to_crop() -> None:
    data = record(Sampled(vector_space()), 5)
    with pytest.raises(
        ValueError, match=r"^random_crop is 0\.5 for observations Box.*, expected 0: there is no image$"
    ):
        DIPOLE("MlpPolicy", dataset=data, random_crop=0.5)
