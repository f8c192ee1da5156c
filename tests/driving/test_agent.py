"""The agent as users meet it: pre-train, fine-tune, plan, save, load, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_scenes import NearnessScorer, SmallScenes, smallest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Digits, Punctuation, Sequence, Whitespace
from transformers import Florence2ForConditionalGeneration, PreTrainedTokenizerFast

from dipole_sb3.driving import DPVLA
from dipole_sb3.driving.model.adapters import ADAPTERS, parameters_of
from dipole_sb3.driving.model.encoder import florence_config
from dipole_sb3.driving.model.florence_files import florence_in
from dipole_sb3.driving.scene import Observation

SCENES = SmallScenes(24)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agents") / "pretrained"
    agent = DPVLA(smallest(), SCENES, seed=1, device="cpu")
    agent.pretrain(200, batch_size=24, learning_rate=1e-2, save_path=folder)
    return folder


@pytest.fixture
def agent(pretrained: Path) -> DPVLA:
    return DPVLA.load(pretrained, SCENES, device="cpu")


def score(agent: DPVLA, omega: float | None) -> float:
    plans = agent.predict(SCENES.observations(range(24)), omega, num_plans=20)
    return float(NearnessScorer().score_plans([scene.surroundings for scene in SCENES.scenes], plans).pdms.mean())


def weights(agent: DPVLA) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in agent.planner.state_dict().items()}


def test_imitation_comes_near_the_recorded_plans(agent: DPVLA) -> None:
    plans = agent.predict(SCENES.observations(range(24)))
    experts = np.stack([scene.expert for scene in SCENES.scenes])
    # Recorded plans of one observation differ by 12 % from their mean; plans of all, by half of it.
    errors = np.abs(plans[..., 0] - experts[..., 0]).mean(axis=0)
    assert (errors < 0.25 * experts[..., 0].mean(axis=0)).all()
    assert np.abs(plans[..., 1:]).max() < 0.5


def test_fine_tuning_raises_the_score_and_the_more_the_larger_omega(agent: DPVLA) -> None:
    before, scorer = score(agent, 0.0), NearnessScorer()
    agent.finetune(108, group_size=6, batch_size=24, learning_rate=1e-3, rollout_omega=0.0, scorer=scorer)
    negative, positive, greedy = (score(agent, omega) for omega in (-1.0, 0.0, 1.0))
    assert negative < positive < greedy
    assert greedy > before + 0.05
    assert (agent.method, agent.takes_omega) == ("dipole", True)
    # Twelve rollouts of 24 scenes, nine updates on each.
    assert agent.scored_plans == 12 * 24 * 6
    assert scorer.calls == 12


@pytest.mark.parametrize("method", ["awr", "dppo"])
def test_methods_of_one_policy(agent: DPVLA, method: Any) -> None:
    before, frozen = score(agent, None), weights(agent)
    agent.finetune(54, method=method, group_size=6, batch_size=24, learning_rate=1e-3, scorer=NearnessScorer())
    assert score(agent, None) > before
    assert agent.scored_plans == 6 * 24 * 6
    changed = {name for name, tensor in weights(agent).items() if not torch.equal(tensor, frozen[name])}
    assert changed == {f"decoder.{name}" for name in parameters_of(agent.planner.decoder, ("positive",))}
    with pytest.raises(ValueError, match=f"omega is 1.0, but {method} trains one policy, which takes none"):
        agent.predict(SCENES[0].observation, 1.0)


def test_only_the_adapters_are_fine_tuned(agent: DPVLA) -> None:
    frozen = weights(agent)
    agent.finetune(2, group_size=3, scorer=NearnessScorer())
    changed = {name for name, tensor in weights(agent).items() if not torch.equal(tensor, frozen[name])}
    assert changed == {f"decoder.{name}" for name in parameters_of(agent.planner.decoder, ADAPTERS)}


def test_plans(agent: DPVLA) -> None:
    one = agent.predict(SCENES[3].observation)
    assert (one.shape, one.dtype) == ((8, 3), np.float32)
    assert np.array_equal(one, agent.predict(SCENES[3].observation))
    assert not np.allclose(one, agent.predict(SCENES[3].observation, seed=1))
    several = agent.predict(SCENES[3].observation, num_plans=5)
    assert several.shape == (5, 8, 3)
    assert len(np.unique(several[:, -1, 0])) == 5
    batch = agent.predict(SCENES.observations([2, 3]), num_plans=5)
    assert batch.shape == (2, 5, 8, 3)
    np.testing.assert_allclose(batch[1], several, atol=1e-4)
    generator = torch.Generator().manual_seed(0)
    assert np.array_equal(one, agent.predict(SCENES[3].observation, generator=generator))
    assert not np.allclose(one, agent.predict(SCENES[3].observation, generator=generator))


def test_saved_and_loaded(agent: DPVLA, tmp_path: Path) -> None:
    agent.finetune(2, group_size=3, scorer=NearnessScorer())
    agent.save(tmp_path / "planner")
    loaded = DPVLA.load(tmp_path / "planner", device="cpu")
    observation = SCENES.observations(range(4))
    assert np.array_equal(loaded.predict(observation, 2.0), agent.predict(observation, 2.0))
    assert (loaded.method, loaded.scored_plans, loaded.updates) == ("dipole", 72, 202)
    files = {path.suffix for path in (tmp_path / "planner").iterdir()}
    assert files == {".safetensors", ".json"}
    with pytest.raises(ValueError, match="the agent has no scenes to learn from"):
        loaded.finetune(1, scorer=NearnessScorer())
    # Saved again, to the same place: what is no longer part of it goes, and nothing of anybody else.
    for name in ("model.safetensors", ".mine.partial", ".adapters-0123456789abcdef.safetensors.x1.partial"):
        (tmp_path / "planner" / name).touch()
    agent.finetune(1, group_size=3, scorer=NearnessScorer())
    agent.save(tmp_path / "planner")
    found = sorted(path.name.split("-")[0] for path in (tmp_path / "planner").iterdir())
    assert found == [".mine.partial", "adapters", "agent.json", "model.safetensors", "networks", "state"]


def test_damaged_folders(agent: DPVLA, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"found no agent\.json"):
        DPVLA.load(tmp_path)
    agent.save(tmp_path)
    networks = next(tmp_path.glob("networks-*.safetensors"))
    content = networks.read_bytes()
    networks.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"networks-.*: it is damaged; found another checksum"):
        DPVLA.load(tmp_path)
    networks.unlink()
    with pytest.raises(ValueError, match=r"networks-.*: it cannot be read"):
        DPVLA.load(tmp_path)
    (tmp_path / "agent.json").write_text("{")
    with pytest.raises(ValueError, match=r"agent.json: it is damaged"):
        DPVLA.load(tmp_path)


@pytest.mark.filterwarnings("ignore:precision is 'bf16'")
@pytest.mark.parametrize("method", ["dipole", "awr", "dppo"])
def test_products_in_bfloat16(agent: DPVLA, pretrained: Path, method: Any) -> None:
    narrow = DPVLA.load(pretrained, SCENES, device="cpu", precision="bf16")
    observation = SCENES.observations(range(4))
    wide, narrowed = agent.predict(observation), narrow.predict(observation)
    assert narrowed.dtype == np.float32
    assert 0 < np.abs(narrowed - wide)[..., 0].max() < 0.1 * wide[..., 0].max()
    narrow.finetune(2, method=method, group_size=3, scorer=NearnessScorer())
    assert np.isfinite(narrow.predict(observation)).all()
    assert all(tensor.dtype == torch.float32 for tensor in narrow.planner.state_dict().values())


def test_seeds() -> None:
    def trained(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(np.random.randint(1000))  # nobody's global generator matters
        return weights(DPVLA(smallest(), SCENES, seed=seed, device="cpu").pretrain(2))

    first, again, other = trained(0), trained(0), trained(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_the_log(agent: DPVLA, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent.tensorboard_log, agent.verbose = tmp_path, 1
    agent.finetune(12, group_size=3, scorer=NearnessScorer(), log_interval=5, progress_bar=True)
    shown = capsys.readouterr()
    assert "scored_plans" in shown.out
    assert "12/12" in shown.err
    accumulator = EventAccumulator(str(next(tmp_path.iterdir())))
    accumulator.Reload()
    tags = set(accumulator.Tags()["scalars"])
    parts = ("no_collision", "drivable_area", "progress", "time_to_collision", "comfort", "pdms")
    assert tags >= {f"rollout/{part}" for part in parts}
    assert tags >= {f"train/{sign}_{what}" for sign in ("positive", "negative") for what in ("loss", "weight")}
    assert "train/gradient_norm" in tags
    # In every group advantages are balanced, and σ(−A) = 1 − σ(A).
    both = [accumulator.Scalars(f"train/{sign}_weight")[0].value for sign in ("positive", "negative")]
    assert sum(both) == pytest.approx(1.0, abs=1e-5)


def test_navsim_agents_interface(agent: DPVLA) -> None:
    observation = SCENES[1].observation
    statuses = [
        SimpleNamespace(
            ego_pose=pose.astype(np.float64),
            ego_velocity=observation.velocity,
            ego_acceleration=observation.acceleration,
            driving_command=np.eye(4, dtype=int)[int(observation.command)],
        )
        for pose in observation.history
    ]
    pictures = dict(zip(("cam_l0", "cam_f0", "cam_r0"), observation.cameras, strict=True))
    cameras = SimpleNamespace(**{name: SimpleNamespace(image=picture) for name, picture in pictures.items()})
    agent_input = SimpleNamespace(ego_statuses=statuses, cameras=[None, None, None, cameras])
    assert np.array_equal(agent.compute_trajectory(agent_input), agent.predict(observation))
    cameras.cam_l0.image = None
    with pytest.raises(ValueError, match="no picture of the camera CAM_L0"):
        agent.compute_trajectory(agent_input)


def broken(**changes: Any) -> Observation:
    return replace(SCENES[0].observation, **changes)


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (broken(cameras=np.zeros((2, 32, 32, 3), np.uint8)), r"cameras holds 2 pictures, expected 3: CAM_L0"),
        (broken(cameras=np.zeros((3, 48, 64), np.uint8)), r"cameras has shape \[3, 48, 64\], expected"),
        (broken(cameras=np.zeros((3, 32, 32, 3), np.float32)), r"cameras has type float32, expected uint8"),
        (broken(history=np.zeros((3, 3), np.float32)), r"history has shape \[3, 3\], expected \[4, 3\]"),
        (broken(velocity=np.array([np.nan, 0], np.float32)), r"velocity holds a value that is not finite"),
        (broken(acceleration=np.array([0, np.inf], np.float32)), r"acceleration holds a value that is not finite"),
        (broken(command=np.asarray(4)), r"command is 4, expected whole numbers from 0 to 3"),
    ],
)
def test_observations_that_are_refused(agent: DPVLA, observation: Observation, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        agent.predict(observation)


@pytest.mark.parametrize("omega", [-1.5, np.nan, np.inf])
def test_omegas_that_are_refused(agent: DPVLA, omega: float) -> None:
    with pytest.raises(ValueError, match=r"omega is .*, expected a number of at least -1"):
        agent.predict(SCENES[0].observation, omega)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps is 0, expected a whole number of at least 1"),
        ({"beta": 0.0}, "beta is 0.0, expected a number above 0"),
        ({"k": np.nan}, "k is nan, expected a number"),
        ({"group_size": 1}, "group_size is 1, expected a whole number of at least 2"),
        ({"rollout_omega": -2.0}, "rollout_omega is -2.0, expected a number of at least -1"),
        ({"method": "ppo"}, "method is 'ppo', expected one of dipole, awr, dppo"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0, expected a number above 0"),
    ],
)
def test_arguments_that_are_refused(agent: DPVLA, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        agent.finetune(**{"steps": 1, "scorer": NearnessScorer(), **arguments})


def test_what_must_come_first(agent: DPVLA) -> None:
    with pytest.raises(ValueError, match=r"not pre-trained.*call pretrain\(\) first"):
        DPVLA(smallest(), SCENES).finetune(1, scorer=NearnessScorer())
    agent.finetune(1, scorer=NearnessScorer())
    with pytest.raises(ValueError, match="fine-tuned by dipole, found method='awr'"):
        agent.finetune(1, method="awr", scorer=NearnessScorer())
    with pytest.raises(ValueError, match="fine-tuned by dipole, and its adapters belong to the decoder"):
        agent.pretrain(1)
    with pytest.raises(ValueError, match="scenes is empty"):
        DPVLA(smallest(), SmallScenes(0))


def test_scores_that_do_not_differ_teach_nothing(agent: DPVLA) -> None:
    class Indifferent(NearnessScorer):
        def score_plans(self, surroundings: Any, plans: np.ndarray) -> Any:
            return super().score_plans(surroundings, np.zeros_like(plans))

    with pytest.raises(ValueError, match="all plans of a scene score alike"):
        agent.finetune(1, group_size=3, scorer=Indifferent())


def test_rollouts_in_vain_are_repeated(agent: DPVLA) -> None:
    class IndifferentAtFirst(NearnessScorer):
        scored = 0

        def score_plans(self, surroundings: Any, plans: np.ndarray) -> Any:
            self.scored += len(plans)
            return super().score_plans(surroundings, plans if self.scored > 2 * len(SCENES) else np.zeros_like(plans))

    scorer = IndifferentAtFirst()
    agent.finetune(1, group_size=3, batch_size=4, scorer=scorer)
    assert scorer.scored == 3 * len(SCENES)
    assert agent.scored_plans == 3 * 3 * len(SCENES)


def test_importing_driving_is_cheap() -> None:
    program = "import sys, dipole_sb3.driving; print(sorted({'transformers', 'peft', 'accelerate'} & set(sys.modules)))"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


def test_the_extra_that_is_missing() -> None:
    program = (
        "import sys; sys.modules['peft'] = None\n"
        "import dipole_sb3.driving\n"
        "try: dipole_sb3.driving.DPVLA\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    expected = "DPVLA needs the package peft, which is not installed: pip install 'dipole-sb3[driving]'"
    assert finished.stdout.strip() == expected


@pytest.fixture(scope="module")
def florence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Florence-2 with a tokeniser beside it, as transformers saves both."""
    folder = tmp_path_factory.mktemp("florence")
    torch.manual_seed(3)
    Florence2ForConditionalGeneration(florence_config(smallest())).save_pretrained(folder)
    words = ["<s>", "<pad>", "</s>", "<unk>", *"0123456789.,;-", "turn", "go", "speed", "acceleration", "straight"]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Sequence([Whitespace(), Punctuation(), Digits(individual_digits=True)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>").save_pretrained(folder)
    return folder


def test_an_encoder_from_a_folder_is_saved_with_its_tokeniser(florence: Path, tmp_path: Path) -> None:
    agent = DPVLA(smallest(), SCENES, florence=florence, device="cpu")
    embedded = agent.planner.encoder.florence.get_input_embeddings().weight
    torch.testing.assert_close(embedded, florence_in(florence, smallest())[0].get_input_embeddings().weight)
    ids = agent.tokenise(["go straight; speed 3.0", "go straight"])
    assert ids.shape == (2, 40)
    assert (ids[1, 2:] == 1).all()
    agent.pretrain(1).save(tmp_path / "planner")
    loaded = DPVLA.load(tmp_path / "planner", device="cpu")
    assert np.array_equal(loaded.tokenise(["go straight; speed 3.0", "go straight"]), ids)
    assert np.array_equal(loaded.predict(SCENES[0].observation), agent.predict(SCENES[0].observation))
    # Again from where it was loaded, which is also where it is saved to.
    loaded.save(tmp_path / "planner")
    loaded.save(tmp_path / "elsewhere")
    again = DPVLA.load(tmp_path / "elsewhere", device="cpu")
    assert np.array_equal(again.predict(SCENES[0].observation), agent.predict(SCENES[0].observation))


def test_an_encoder_without_a_tokeniser(florence: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((florence / name).read_bytes())
    with pytest.raises(ValueError, match=r"found no tokenizer\.json, expected the tokeniser"):
        DPVLA(smallest(), SCENES, florence=tmp_path)
