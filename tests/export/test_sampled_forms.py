"""Bundles of policies that sample in another form than DIPOLE's pair: one flow, one step, a condition, diffusion."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dipole_export import export_bundle
from dipole_export.exporter import Precision, export_bundles
from dipole_runtime import GuidedPolicy, GuidedPolicyError
from dipole_runtime.bundle import read_bundle
from dipole_runtime.inspection import describe
from dipole_runtime.manifest import CRITIC, GUIDED, MANIFEST, NEGATIVE, POSITIVE, PREDICTOR, VECTORS, OmegaRange
from dipole_runtime.tolerances import LARGEST_INT8_ERROR
from gymnasium import spaces

import dipole_sb3
from dipole_sb3 import CFGRL, DIPOLE, FAWAC, FQL, IDQL, IFQL, IQL, OfflineReplayBuffer, ReBRAC
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm

OBSERVATION, ACTION = 5, spaces.Box(np.array([-2.0, 0.0]), np.array([1.0, 3.0]), dtype=np.float32)
SAMPLED = (IFQL, FAWAC, FQL, CFGRL, IDQL)
EXORL = {"norm_order": "before", "actor_layer_norm": 1, "actor_output_init": "lecun", "time_features": 16}
EXORL |= {"time_frequencies": (3.0, 10_000.0), "activation_fn": "mish"}


def make(algorithm: type[Any], width: int = 16, updates: int = 20, **arguments: Any) -> Any:
    random = np.random.default_rng(0)
    seen = random.normal(size=(201, OBSERVATION)).astype(np.float32)
    data = {
        "observations": seen[:-1],
        "actions": random.uniform(ACTION.low, ACTION.high, (200, 2)).astype(np.float32),
        "rewards": random.normal(size=200).astype(np.float32),
        "next_observations": seen[1:],
        "terminals": np.zeros(200, np.float32),
    }
    if algorithm not in (IDQL, ReBRAC):
        arguments = {"flow_steps": 3, **arguments}  # tracing takes a second for ten
    of_policy = {"net_arch": [width, width], **arguments.pop("policy_kwargs", {})}
    dataset = OfflineReplayBuffer.from_arrays(data, action_space=ACTION, device="cpu")
    model = algorithm("MlpPolicy", dataset=dataset, policy_kwargs=of_policy, seed=0, device="cpu", learning_rate=1e-2,
                      **arguments)  # fmt: skip
    return model.learn(updates)


def acted(model: Any, observation: np.ndarray, noise: np.ndarray, **setting: Any) -> np.ndarray:
    """What the model's policy does with this noise, in the robot's units."""
    policy = model.policy
    policy.set_training_mode(False)
    seen = torch.as_tensor(observation)[None]
    with torch.no_grad():
        scaled = policy.act(
            policy,
            lambda name: getattr(policy, name).features(seen),
            torch.as_tensor(noise),
            **policy.setting(**setting),
        )
    return policy.in_units(scaled.numpy())[0]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[type[Any]], tuple[Any, Path]]:
    """A trained model of an algorithm and its bundle, which nobody changes."""

    @functools.cache
    def model_and_bundle(algorithm: type[Any]) -> tuple[Any, Path]:
        model = make(algorithm, **({"actor_tau": 0.1} if algorithm is IDQL else {"flow_steps": 4}))
        folder = tmp_path_factory.mktemp("exported")
        model.save(folder / "model")
        bundle = folder / "bundle"
        export_bundle(algorithm.load(folder / "model", device="cpu"), bundle)
        return model, bundle

    return model_and_bundle


def test_every_algorithm_has_a_test_of_its_bundles() -> None:
    """The pair in test_parity.py, policies of one action in test_deterministic.py and below, the others here."""
    of_package = {each for each in vars(dipole_sb3).values() if isinstance(each, type)}
    algorithms = {each for each in of_package if issubclass(each, OfflineAlgorithm)}
    assert algorithms == {DIPOLE, IQL, ReBRAC, *SAMPLED}


@pytest.mark.parametrize("algorithm", SAMPLED)
def test_a_bundle_acts_as_the_model_does_with_the_same_noise(
    algorithm: type[Any], exported: Callable[[type[Any]], tuple[Any, Path]]
) -> None:
    model, bundle = exported(algorithm)
    policy, random = GuidedPolicy.load(bundle), np.random.default_rng(1)
    width = policy.manifest.noise_size
    assert width == (10 if algorithm is IDQL else 2)
    settings: list[tuple[dict[str, Any], dict[str, Any], int]] = [({}, {}, 1)]
    if algorithm is CFGRL:
        settings = [({"guidance": w}, {"omega": w - 1}, 1) for w in (0.0, 1.0, 1.5, 3.0)]
    elif algorithm is not FQL:
        settings = [({"num_candidates": count}, {}, count) for count in (1, 4)]
    for observation in random.normal(size=(5, OBSERVATION)).astype(np.float32):
        for of_model, of_bundle, count in settings:
            noise = random.normal(size=(count, width)).astype(np.float32)
            found = policy.act(observation, noise=noise, **of_bundle)
            np.testing.assert_allclose(found.action, acted(model, observation, noise, **of_model), atol=2e-4)
            assert found.q.shape == (count,)


@pytest.mark.parametrize("algorithm", [IFQL, FAWAC, FQL])
def test_a_policy_of_one_field_has_nothing_to_turn_but_candidates(
    algorithm: type[Any], exported: Callable[[type[Any]], tuple[Any, Path]], tmp_path: Path
) -> None:
    model, bundle = exported(algorithm)
    policy = GuidedPolicy.load(bundle)
    manifest = policy.manifest
    assert manifest.omega == OmegaRange(0.0, 0.0, 0.0)
    assert manifest.guidance is not None
    assert manifest.guidance.flow_steps == (1 if algorithm is FQL else 4)
    assert manifest.guidance.num_candidates == getattr(model, "num_candidates", 1)
    files = read_bundle(bundle).files
    assert files[POSITIVE] == files[NEGATIVE]
    with pytest.raises(GuidedPolicyError, match=r"omega is 1\.0, expected 0\.0 to 0\.0"):
        policy.act(np.zeros(OBSERVATION), omega=1.0)
    with pytest.raises(ValueError, match=rf"expected none: {algorithm.__name__} acts without greediness"):
        export_bundle(model, tmp_path / "other", omega_range=(0.0, 1.0))
    assert not (tmp_path / "other").exists()


def test_the_weight_of_cfgrl_is_an_omega_one_less(tmp_path: Path) -> None:
    model = make(CFGRL, guidance=2.5)
    manifest = export_bundle(model, tmp_path / "bundle", omega_range=(-1.0, 2.0))
    assert manifest.omega == OmegaRange(1.5, -1.0, 2.0)
    knob = manifest.provenance["knob"]
    assert (knob["name"], knob["more_than_omega"]) == ("guidance", 1.0)
    assert (knob["default"], knob["low"], knob["high"]) == (2.5, 0.0, 3.0)
    assert knob["meaning"].startswith("0: a clone of all data, 1: ")
    told = describe(read_bundle(tmp_path / "bundle"))
    assert "knob         guidance weight w, omega + 1.0: 2.5 by default, 0.0 to 3.0 (0: a clone" in told
    with pytest.raises(ValueError, match=r"guidance 2\.5, an omega of 1\.5, is not in omega_range 0 … 1"):
        export_bundle(model, tmp_path / "other", omega_range=(0.0, 1.0))
    with pytest.raises(ValueError, match="omega_range"):
        export_bundle(model, tmp_path / "other", omega_range=(-2.0, 2.0))


@pytest.mark.parametrize("algorithm", [FQL, CFGRL, IDQL])
def test_int8(algorithm: type[Any], tmp_path: Path) -> None:
    # Each denoising step enlarges the rounding of those before: one block keeps it small.
    of_policy = {"policy_kwargs": {"net_arch": {"pi": [96], "qf": [96, 96]}}} if algorithm is IDQL else {}
    model = make(algorithm, width=96, updates=2, **of_policy)
    paths: dict[Precision, Path] = {"fp32": tmp_path / "fp32", "int8": tmp_path / "int8"}
    whole, short = export_bundles(model, paths, max_int8_error=LARGEST_INT8_ERROR).values()
    assert 0 < short.parity.action_error < LARGEST_INT8_ERROR
    name = whole.network_files[0]
    assert short.files[name].size < 0.85 * whole.files[name].size
    GuidedPolicy.load(tmp_path / "int8").act(np.zeros(OBSERVATION))


@pytest.mark.parametrize("algorithm", [DIPOLE, CFGRL])
def test_networks_of_the_published_exorl_runs(algorithm: type[Any], tmp_path: Path) -> None:
    model = make(algorithm, flow_steps=4, policy_kwargs=EXORL)
    export_bundle(model, tmp_path / "bundle")
    policy, random = GuidedPolicy.load(tmp_path / "bundle"), np.random.default_rng(1)
    for observation in random.normal(size=(5, OBSERVATION)).astype(np.float32):
        noise = random.normal(size=(1, 2)).astype(np.float32)
        one = {} if algorithm is CFGRL else {"num_candidates": 1}
        found = policy.act(observation, noise=noise).action
        np.testing.assert_allclose(found, acted(model, observation, noise, **one), atol=5e-4)


def test_a_tanh_ends_rebracs_graph(tmp_path: Path) -> None:
    model = make(ReBRAC, actor_bc_coef=0.0, updates=60)
    export_bundle(model, tmp_path / "bundle")
    policy = GuidedPolicy.load(tmp_path / "bundle")
    for observation in 3 * np.random.default_rng(1).normal(size=(5, OBSERVATION)).astype(np.float32):
        np.testing.assert_allclose(policy.act(observation).action, model.predict(observation)[0], atol=2e-4)


def test_diffusion_has_its_own_manifest(tmp_path: Path) -> None:
    model = make(IDQL, updates=1, diffusion_steps=3)
    manifest = export_bundle(model, tmp_path / "bundle")
    assert (manifest.policy, manifest.format_version) == ("diffusion", 3)
    guidance = manifest.guidance
    assert guidance is not None
    assert (guidance.flow_steps, guidance.num_candidates, guidance.omega) == (3, 32, OmegaRange(0.0, 0.0, 0.0))
    # exp(−0.1/3 − ½·9.9·(2t − 1)/9), t = 1, 2, 3
    assert guidance.betas == pytest.approx([1 - np.exp(-0.1 / 3 - 0.55 * odd) for odd in (1, 3, 5)])
    written = json.loads((tmp_path / "bundle" / MANIFEST).read_bytes())
    assert not {"omega", "flow_steps"} & set(written)
    files = read_bundle(tmp_path / "bundle").files
    assert sorted(files) == sorted([GUIDED, PREDICTOR, CRITIC, VECTORS])
    told = describe(read_bundle(tmp_path / "bundle"))
    assert "policy       diffusion\ndenoising    3 steps, 32 candidates\nparity" in told
    policy = GuidedPolicy.load(tmp_path / "bundle")
    assert policy.deterministic_noise(2).shape == (2, 6)
    with pytest.raises(GuidedPolicyError, match=r"noise has shape \(1, 2\), expected \(1, 6\)"):
        policy.act(np.zeros(OBSERVATION), noise=np.zeros((1, 2)))
    with pytest.raises(GuidedPolicyError, match=r"omega is 1\.0, expected 0\.0 to 0\.0"):
        policy.act(np.zeros(OBSERVATION), omega=1.0)
    with pytest.raises(ValueError, match="expected none: IDQL acts without greediness"):
        export_bundle(model, tmp_path / "other", omega_range=(0.0, 1.0))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("steps", "blocks"), [(1, 1), (2, 0)])
def test_diffusion_in_few_steps_and_without_blocks(steps: int, blocks: int, tmp_path: Path) -> None:
    model = make(IDQL, diffusion_steps=steps, policy_kwargs={"net_arch": {"pi": [16] * blocks, "qf": [16]}})
    export_bundle(model, tmp_path / "bundle")
    policy, observation = GuidedPolicy.load(tmp_path / "bundle"), np.ones(OBSERVATION, np.float32)
    found = policy.act(observation, noise=policy.deterministic_noise()).action
    np.testing.assert_allclose(found, model.predict(observation, deterministic=True)[0], atol=2e-4)
