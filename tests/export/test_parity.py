"""What leaves the runtime is what ``model.predict`` gives for the same observation, noise and ω."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dipole_export import export_bundle
from dipole_export.exporter import Precision, export_bundles
from dipole_runtime import GuidedPolicy
from dipole_runtime.bundle import read_bundle
from dipole_runtime.reference import TwoNetworkPolicy
from dipole_runtime.tolerances import LARGEST_INT8_ERROR
from gymnasium import spaces
from models import (
    DICT,
    MODELS,
    UNEVEN_ACTIONS,
    make_model,
    model_of,
    observations_of,
    predict_with,
    unbounded,
)

from dipole_sb3 import DIPOLE

PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
OMEGAS = (-1.0, -0.3, 0.0, 0.5, 1.0, 2.0, 4.0)


def require_parity(model: DIPOLE, bundle: Path, monkeypatch: Any, tolerance: float = 1e-4, candidates: int = 3) -> None:
    """The runtime's action beside predict's, in units of the action range, at several observations and ω."""
    policy = GuidedPolicy.load(bundle)
    assert isinstance(model.action_space, spaces.Box)
    width = model.action_space.high - model.action_space.low
    random = np.random.default_rng(2)
    size = int(np.prod(model.action_space.shape))
    distinct = set()
    for observation in observations_of(model, 4):
        noise = random.standard_normal((candidates, size)).astype(np.float32)
        for omega in OMEGAS:
            answer = policy.act(observation, omega=omega, noise=noise)
            expected = predict_with(model, observation, noise, omega, monkeypatch)
            assert answer.action.shape == model.action_space.shape
            assert np.max(np.abs(answer.action - expected) / width) <= tolerance
            assert model.action_space.contains(answer.action.astype(model.action_space.dtype))
            distinct.add(answer.action.tobytes())
    assert len(distinct) > 4, "ω and the observation change nothing: the comparison above shows nothing"


BY_ONE_ACTION = {"vector", "multi_discrete_and_activation_class", "multi_binary_and_tanh"}
"""What a policy of one action, whose graphs are half as many, shows as well in test_deterministic.py: how observations
and activations are exported, which forms of policy have in common."""


@pytest.mark.parametrize("name", [name for name in MODELS if name not in BY_ONE_ACTION])
def test_the_runtime_acts_as_the_model_does(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(name)
    manifest = export_bundle(model, tmp_path / "bundle")
    assert manifest.parity.action_error <= 1e-4
    require_parity(model, tmp_path / "bundle", monkeypatch)
    # Bounds are rounded inwards: in single precision, 0.7 is smaller and 0.1 larger than in double.
    assert isinstance(model.action_space, spaces.Box)
    assert (np.asarray(manifest.action.low) >= model.action_space.low.reshape(-1)).all()
    assert (np.asarray(manifest.action.high) <= model.action_space.high.reshape(-1)).all()
    # And its deterministic noise is that of predict.
    policy = GuidedPolicy.load(tmp_path / "bundle")
    width = model.action_space.high - model.action_space.low
    for observation in observations_of(model, 3):
        expected, _ = model.predict(observation, deterministic=True)
        action = policy.act(observation, noise=policy.deterministic_noise()).action
        assert np.max(np.abs(action - expected) / width) <= 1e-4


@pytest.mark.parametrize(
    ("space", "normalize"),
    [
        (unbounded(4), {"norm_obs": False}),
        (DICT, {"norm_obs_keys": ["speed", "arm"]}),
    ],
    ids=["rewards_only", "dict"],
)
def test_normalisation_is_inside(
    space: spaces.Space[Any], normalize: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also that of a saved model, which it learned with; other ways of normalising in test_deterministic.py."""
    model = make_model(space, UNEVEN_ACTIONS, normalize=normalize)
    model.save(tmp_path / "model")
    export_bundle(DIPOLE.load(tmp_path / "model", device="cpu"), tmp_path / "bundle")
    require_parity(model, tmp_path / "bundle", monkeypatch)


def test_observations_far_from_zero_lose_nothing_to_single_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions on a map: their mean is worth many thousand standard deviations."""
    far = spaces.Box(np.float32(40_000.0), np.float32(40_001.0), (3,), np.float32)
    model = make_model(far, UNEVEN_ACTIONS, normalize={})
    export_bundle(model, tmp_path / "bundle")
    require_parity(model, tmp_path / "bundle", monkeypatch)


def test_the_two_networks_are_the_fused_graph(tmp_path: Path) -> None:
    model = make_model(unbounded(4), UNEVEN_ACTIONS, {"net_arch": [96, 96]})
    paths = {precision: tmp_path / precision for precision in PRECISIONS}
    manifests = export_bundles(model, paths, max_int8_error=LARGEST_INT8_ERROR)
    for precision, manifest in manifests.items():
        bundle = read_bundle(tmp_path / precision)
        policy, reference = GuidedPolicy.load(tmp_path / precision), TwoNetworkPolicy(bundle)
        random = np.random.default_rng(0)
        width = np.asarray(manifest.action.high) - np.asarray(manifest.action.low)
        for _ in range(20):
            observation, noise = random.standard_normal(4, np.float32), random.standard_normal((5, 3), np.float32)
            answers = policy.sweep(observation, OMEGAS, noise=noise)
            candidates = reference.candidates(observation, noise, np.asarray(OMEGAS, np.float32))
            for answer, row in zip(answers, candidates, strict=True):
                difference = np.abs(answer.action - row[answer.chosen]) / width
                assert np.max(difference) <= 2 * manifest.parity.action_tolerance


@pytest.mark.all_observations
def test_a_trained_model_over_a_thousand_observations(
    tmp_path: Path, reacher_data: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest's error is measured; here by predict itself, over the data and every ω of the evaluation."""
    observations = reacher_data["observations"]
    model = DIPOLE(
        "MlpPolicy", "Reacher-v5", dataset=reacher_data, policy_kwargs={"net_arch": [96, 96]}, seed=0, device="cpu"
    ).learn(50)
    paths = {precision: tmp_path / precision for precision in PRECISIONS}
    manifests = export_bundles(model, paths, observations=observations)
    policies = {precision: GuidedPolicy.load(tmp_path / precision) for precision in PRECISIONS}
    random, worst = np.random.default_rng(0), dict.fromkeys(PRECISIONS, 0.0)
    for observation in observations[:170]:
        noise = random.standard_normal((1, 2)).astype(np.float32)
        for omega in (-1.0, 0.0, 0.5, 1.0, 2.0, 4.0):
            expected = predict_with(model, observation, noise, omega, monkeypatch)
            for precision, policy in policies.items():
                found = policy.act(observation, omega=omega, noise=noise).action
                worst[precision] = max(worst[precision], float(np.abs(found - expected).max()) / 2)
    for precision, manifest in manifests.items():
        assert worst[precision] <= manifest.parity.action_tolerance
        assert manifest.parity.action_error <= (1e-4 if precision == "fp32" else 0.05)
    assert worst["int8"] > 1e-5, "8 bits that differ in nothing are not 8 bits"
