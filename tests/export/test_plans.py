"""A driving agent as a bundle: the runtime plans what the agent plans, at every ω."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for module in ("transformers", "peft", "accelerate"):
    pytest.importorskip(module, reason="the extra 'driving' is not installed")

import torch  # noqa: E402
from dipole_export import cli, export_plans  # noqa: E402
from dipole_export.plan_graphs import PlanPolicy  # noqa: E402
from dipole_export.plan_text import ToldText  # noqa: E402
from dipole_export.plans import require_pictures  # noqa: E402
from dipole_runtime import GuidedPolicy  # noqa: E402
from dipole_runtime.manifest import MANIFEST, OmegaRange  # noqa: E402
from driving_agents import PICTURE, exported, seen  # noqa: E402

from dipole_sb3.driving import DPVLA  # noqa: E402
from dipole_sb3.driving.model.text import own_tokeniser, texts_of  # noqa: E402
from dipole_sb3.driving.scene import CAMERAS, COMMANDS, Observation  # noqa: E402

WITHIN = 1e-4
"""Metres and radians."""


@pytest.fixture(scope="module")
def agent() -> DPVLA:
    return exported()[0]


@pytest.fixture(scope="module")
def bundle() -> Path:
    return exported()[1]


@pytest.fixture(scope="module")
def policy(bundle: Path) -> GuidedPolicy:
    return GuidedPolicy.load(bundle)


def scenes(count: int, seed: int) -> list[Observation]:
    batch = seen(count, *PICTURE, seed=seed)
    return [Observation(*(np.asarray(value)[index] for value in vars(batch).values())) for index in range(count)]


@pytest.mark.parametrize("omega", [-1.0, 0.0, 0.5, 1.7, 3.0])
def test_the_bundle_plans_what_the_agent_plans(policy: GuidedPolicy, agent: DPVLA, omega: float) -> None:
    for scene in scenes(3, seed=7):
        expected = agent.predict(scene, omega)
        # What predict begins with is what the runtime calls its fixed noise.
        found = policy.act(vars(scene), omega, policy.deterministic_noise())
        assert np.abs(found.action - expected).max() <= WITHIN
        other = agent.predict(scene, omega - 0.5 if omega > 0 else omega + 0.5)
        assert np.abs(expected - other).max() > 100 * WITHIN, "ω turns nothing: whether it is right does not show"


def test_other_noise(policy: GuidedPolicy, agent: DPVLA) -> None:
    (scene,) = scenes(1, seed=8)
    noise = torch.randn((1, 1, 8, 4), generator=torch.Generator().manual_seed(3)).numpy().reshape(1, 32)
    assert np.abs(policy.act(vars(scene), 1.0, noise).action - agent.predict(scene, 1.0, seed=3)).max() <= WITHIN
    assert np.abs(policy.act(vars(scene), 1.0, noise).action - agent.predict(scene, 1.0)).max() > WITHIN


def test_every_input_counts(policy: GuidedPolicy) -> None:
    (scene,) = scenes(1, seed=9)
    noise = policy.deterministic_noise()
    plan = policy.act(vars(scene), 0.0, noise).action
    for name, value in {
        "cameras": scene.cameras[[1, 0, 2]],
        "history": scene.history + np.float32(0.5),
        "velocity": -scene.velocity,
        "acceleration": scene.acceleration + np.float32(1),
        "command": (scene.command + 1) % len(COMMANDS),
    }.items():
        assert not np.array_equal(policy.act({**vars(scene), name: value}, 0.0, noise).action, plan), name


def test_what_the_manifest_says(policy: GuidedPolicy, bundle: Path) -> None:
    manifest = policy.manifest
    plan = manifest.plan
    assert plan is not None
    assert (plan.cameras, plan.height, plan.width, plan.commands) == (CAMERAS, *PICTURE, COMMANDS)
    assert manifest.omega == OmegaRange(0.5, -1.0, 3.0)
    assert manifest.parity.action_error <= WITHIN
    assert sorted(manifest.provenance["action_error_by_omega"]) == ["-1", "0", "0.5", "1", "2", "3"]
    assert (manifest.provenance["algorithm"], manifest.provenance["method"]) == ("DPVLA", "dipole")
    assert manifest.action.names[:4] == ("x_0.5s", "y_0.5s", "yaw_0.5s", "x_1s")
    assert manifest.action.high[:3] == (25.0, 25.0, pytest.approx(np.pi))
    assert str(bundle.parent) not in json.dumps(dict(manifest.provenance)), "bundles are published"


@pytest.mark.parametrize("adapters", [("positive",), ("positive", "negative")], ids=len)
def test_the_solver_is_the_agents(agent: DPVLA, adapters: tuple[str, ...]) -> None:
    """Of agents of awr and dppo, too, which are one policy: ω turns nothing."""
    planner, random = agent.planner, torch.Generator().manual_seed(1)
    tokens = torch.randn((agent.configuration.tokens, 64), generator=random)
    noise, history = torch.randn((8, 4), generator=random), torch.randn((4, 3), generator=random)
    # With fewer, the agent's own division by α = 0.007 rounds to more than that.
    for steps in (5, 10):
        with torch.no_grad():
            found = PlanPolicy(planner, adapters, steps)(tokens, history, noise, torch.tensor([0.0, 2.0]))
            for plan, omega in zip(found, (0.0, 2.0), strict=True):
                one = planner.sample(tokens[None], history[None], noise[None, None], omega, adapters, steps)
                assert (plan - planner.poses(one)[0, 0]).abs().max() <= WITHIN
            assert torch.equal(found[0], found[1]) == (len(adapters) == 1)


class TestText:
    NUMBERS = ((-0.0, 0.05, 0.15, 0.25), (-0.04, -0.06, 99.9, -99.9), (0.95, 9.95, 9.949, -12.34), (7, 0, 0.449999, 3))

    def require_equal(self, tokenise: Any) -> None:
        told = ToldText(tokenise)
        for numbers in np.array(self.NUMBERS, np.float32):
            for command in range(len(COMMANDS)):
                row = Observation(*[np.zeros(0)] * 2, numbers[None, :2], numbers[None, 2:], np.array([command]))  # type: ignore[list-item]
                found = told(torch.tensor(command), torch.as_tensor(numbers[:2]), torch.as_tensor(numbers[2:]))
                assert found.tolist() == tokenise(texts_of(row))[0].tolist(), texts_of(row)

    def test_the_small_agents(self) -> None:
        self.require_equal(own_tokeniser(40))

    def test_pairs_of_bytes_as_in_a_checkpoint(self) -> None:
        from tokenizers import ByteLevelBPETokenizer

        pairs = ByteLevelBPETokenizer()
        texts = [f"turn left; speed {number / 10:.1f}, {-number / 7:.1f}; acceleration" for number in range(-300, 999)]
        pairs.train_from_iterator(texts, vocab_size=600, special_tokens=["<s>", "<pad>", "</s>"])
        assert len(pairs.encode(" 12").ids) == 1, "numbers are not joined: a table of digits would do"

        def tokenise(told: Any) -> Any:
            rows = [[0, *pairs.encode(text).ids, 2] for text in told]
            return np.array([row + [1] * (60 - len(row)) for row in rows])

        self.require_equal(tokenise)

    def test_one_whose_numbers_depend_on_their_neighbours(self) -> None:
        own = own_tokeniser(40)

        def tokenise(told: Any) -> Any:
            rows = own(told)
            # The first digit of the first number.
            rows[:, 5] += 30 * (rows.sum(axis=1) % 2)
            return rows

        with pytest.raises(ValueError, match="cannot be put into a graph"):
            ToldText(tokenise)

    def test_one_that_cuts(self) -> None:
        with pytest.raises(ValueError, match="texts of 20 tokens are cut"):
            ToldText(own_tokeniser(20))


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--precision", "int8"], "--precision is int8, expected fp32: plans are not exported in 8 bits"),
            (["--omega", "5"], "omega is 5 and omega_range -1 … 4"),
            (["--max-speed", "0"], "max_speed is 0.0, expected m/s above 0"),
        ],
    )
    def test_options(
        self, agent: DPVLA, options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        agent.save(tmp_path / "agent")
        assert cli.main(["export", str(tmp_path / "agent"), str(tmp_path / "b"), *options]) != 0
        assert words in capsys.readouterr().err
        assert not (tmp_path / "b").exists()

    def test_cars_options_for_others(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["export", str(tmp_path / "m.zip"), str(tmp_path / "b"), "--max-speed", "9"]) != 0
        assert "--max-speed is given, but" in capsys.readouterr().err

    def test_pictures_of_another_size(self, agent: DPVLA, tmp_path: Path) -> None:
        with pytest.raises(
            ValueError, match=r"cameras have shape \[2, 3, 48, 80, 3\], expected a batch of \[3, 64, 64"
        ):
            require_pictures(seen(2, *PICTURE), 64, 64)
        with pytest.raises(ValueError, match="expected a batch"):
            require_pictures(replace(seen(1), cameras=np.zeros((0, 3, 64, 64, 3), np.uint8)), 64, 64)

    def test_a_folder_of_something_else(self, agent: DPVLA, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(ValueError, match=r"notes\.txt"):
            export_plans(agent, tmp_path)
        assert not (tmp_path / MANIFEST).exists()
