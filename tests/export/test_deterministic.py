"""Deterministic policies: what leaves the runtime is what ``model.predict`` gives, and there is nothing to turn."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deterministic_models import one_action_model, one_action_model_of
from dipole_export import export_bundle, exporter, graphs
from dipole_export.deterministic import ExportedDeterministic
from dipole_export.exporter import Precision, export_bundles
from dipole_export.pair import ExportedPair
from dipole_export.robot import drive
from dipole_runtime import GuidedPolicy, GuidedPolicyError
from dipole_runtime.bundle import read_bundle
from dipole_runtime.manifest import CRITIC, DETERMINISTIC, MANIFEST, VECTORS
from dipole_runtime.reference import ValuedPolicy
from dipole_runtime.tolerances import LARGEST_INT8_ERROR
from gymnasium import spaces
from models import DICT, UNEVEN_ACTIONS, model_of, observations_of, unbounded

from dipole_sb3 import IQL, IQLPolicy


def require_parity(model: IQL, bundle: Path, tolerance: float = 1e-4) -> None:
    """The runtime's actions beside predict's, in units of the action range."""
    policy = GuidedPolicy.load(bundle)
    space = model.action_space
    assert isinstance(space, spaces.Box)
    normalize = model.get_vec_normalize_env()
    distinct = set()
    for observation in observations_of(model, 12):
        answer = policy.act(observation)
        seen = observation if normalize is None else normalize.normalize_obs(observation)
        expected, _ = model.predict(seen, deterministic=True)
        assert answer.action.shape == space.shape
        assert np.max(np.abs(answer.action - expected) / (space.high - space.low)) <= tolerance
        assert space.contains(answer.action.astype(space.dtype))
        distinct.add(answer.action.tobytes())
    assert len(distinct) > 2, "the observation changes nothing: the comparison above shows nothing"


@pytest.mark.parametrize(
    "name",
    [
        "vector",
        "bounded_float64",
        "matrix_and_matrix_actions",
        "dict",
        "discrete_and_other_critics",
        "multi_discrete_and_activation_class",
        "multi_binary_and_tanh",
        "own_extractor",
        "exorl_networks",
        "no_hidden_layers",
    ],
)
def test_the_runtime_acts_as_the_model_does(name: str, tmp_path: Path) -> None:
    model = one_action_model_of(name)
    manifest = export_bundle(model, tmp_path / "bundle")
    assert manifest.parity.action_error <= 1e-5
    require_parity(model, tmp_path / "bundle")


@pytest.mark.parametrize(
    ("space", "normalize"),
    [
        (spaces.Box(-2.0, 5.0, (3,), np.float64), {"clip_obs": 0.8}),
        (unbounded(4), {"clip_obs": np.inf}),
        (DICT, {"norm_obs_keys": ["arm"]}),
    ],
    ids=["clipped", "never_clipped", "one_key"],
)
def test_normalisation_is_inside(space: spaces.Space[Any], normalize: dict[str, Any], tmp_path: Path) -> None:
    model = one_action_model(space, UNEVEN_ACTIONS, normalize=normalize)
    export_bundle(model, tmp_path / "bundle")
    require_parity(model, tmp_path / "bundle")


def test_actions_are_clipped_and_valued_where_they_are(tmp_path: Path) -> None:
    """Far outside of the bounds, the action is the bound, and q is that of the bound."""
    model = one_action_model(unbounded(4), UNEVEN_ACTIONS)
    with torch.no_grad():
        model.policy.actor.head.mlp.output.bias.add_(50.0)
    export_bundle(model, tmp_path / "bundle")
    answer = GuidedPolicy.load(tmp_path / "bundle").act(np.zeros(4))
    np.testing.assert_allclose(answer.action, UNEVEN_ACTIONS.high, rtol=1e-6)
    critic = model.policy.critic
    with torch.no_grad():
        values = critic.head(critic.features(torch.zeros(1, 4)), torch.ones(1, 3))
    np.testing.assert_allclose(answer.q, values.amin(0), atol=1e-4)


def test_the_bundle_has_nothing_of_a_pair(tmp_path: Path) -> None:
    model = one_action_model(unbounded(4), UNEVEN_ACTIONS)
    manifest = export_bundle(model, tmp_path / "bundle", action_names=["steer", "throttle", "brake"])
    assert sorted(path.name for path in (tmp_path / "bundle").iterdir()) == sorted(
        [MANIFEST, DETERMINISTIC, CRITIC, VECTORS]
    )
    assert manifest == GuidedPolicy.load(tmp_path / "bundle").manifest
    assert (manifest.policy, manifest.format_version, manifest.guidance) == ("deterministic", 2, None)
    assert manifest.provenance["algorithm"] == "IQL"
    assert manifest.provenance["hyperparameters"]["net_arch"] == [24, 16]
    assert "action_error_by_omega" not in manifest.provenance
    assert manifest.action.names == ("steer", "throttle", "brake")
    assert len(read_bundle(tmp_path / "bundle").vectors().observations) == 8


def test_the_same_model_gives_the_same_bytes_and_both_paths_agree(tmp_path: Path) -> None:
    model = one_action_model(unbounded(4), UNEVEN_ACTIONS, {"net_arch": [96, 96]})
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    once, again = (
        export_bundles(
            model, {each: tmp_path / f"{each}{ending}" for each in precisions}, max_int8_error=LARGEST_INT8_ERROR
        )
        for ending in ("", ".dipole")
    )
    assert again == once
    for precision in precisions:
        bundle, policy = read_bundle(tmp_path / f"{precision}.dipole"), GuidedPolicy.load(tmp_path / precision)
        assert bundle.manifest.checksum == policy.hash
        reference = ValuedPolicy.of(bundle)
        for row in np.random.default_rng(0).standard_normal((20, 4), np.float32):
            answer, (actions, q) = policy.act(row), reference.act(row[None])
            np.testing.assert_allclose(answer.action, actions[0], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(answer.q, q, rtol=1e-3, atol=1e-3)


def test_int8_is_smaller_and_says_by_how_much_it_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = one_action_model(unbounded(4), UNEVEN_ACTIONS, {"net_arch": [96, 96, 96]})
    paths: dict[Precision, Path] = {"fp32": tmp_path / "fp32", "int8": tmp_path / "int8"}
    exact, short = export_bundles(model, paths, max_int8_error=LARGEST_INT8_ERROR).values()
    networks = {name: (tmp_path / "fp32" / name).read_bytes() for name in (DETERMINISTIC, CRITIC)}
    monkeypatch.setattr(ExportedDeterministic, "networks", lambda _: networks)
    with pytest.raises(ValueError, match="differ from the model's by") as caught:
        export_bundle(model, tmp_path / "refused", "int8", max_int8_error=short.parity.action_error / 2)
    assert short.files[DETERMINISTIC].size < 0.85 * exact.files[DETERMINISTIC].size  # the critics stay float
    assert short.files[CRITIC] == exact.files[CRITIC]
    assert exact.parity.action_error < 1e-6 < short.parity.action_error < short.parity.action_tolerance
    require_parity(model, tmp_path / "int8", short.parity.action_tolerance)
    assert "precision='fp32', or accept more" in str(caught.value)
    assert "ω" not in str(caught.value)
    assert "omega" not in str(caught.value)
    small = one_action_model(unbounded(4), UNEVEN_ACTIONS)
    with pytest.raises(ValueError, match="no hidden layer has 64 × 64 weights"):
        export_bundle(small, tmp_path / "refused", "int8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fp32", "int8"]


def test_a_range_of_omega_is_refused(tmp_path: Path) -> None:
    model = one_action_model(unbounded(4), UNEVEN_ACTIONS)
    with pytest.raises(ValueError, match=r"omega_range is .*, expected none: IQL acts without greediness"):
        export_bundle(model, tmp_path / "bundle", omega_range=(-1.0, 4.0))
    assert list(tmp_path.iterdir()) == []


def test_a_policy_that_is_not_its_form_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its predict squashes actions, which the form does not know of."""

    def squashed(self: IQLPolicy, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return torch.tanh(self.actor.head(self.actor.features(observation)))

    monkeypatch.setattr(IQLPolicy, "_predict", squashed)
    with pytest.raises(ValueError, match="not written, because the fp32 bundle's actions differ from the model's"):
        export_bundle(one_action_model(unbounded(4), UNEVEN_ACTIONS), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_values_another_action_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the critics saw actions before they are clipped."""

    def wrong(self: Any, observation: torch.Tensor) -> Any:
        scaled = self.actor(self.first(observation))
        return self.critic.scale.unscale(scaled), self.critic.minimum(observation, scaled).squeeze(-1)

    monkeypatch.setattr(graphs.DeterministicPolicy, "forward", wrong)
    with pytest.raises(ValueError, match="not written, because the fp32 bundle's Q-values differ"):
        export_bundle(one_action_model(unbounded(4), UNEVEN_ACTIONS), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_form_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Mixture:
        parts: int

    monkeypatch.setattr(IQLPolicy, "acting_form", lambda self: Mixture(5))
    with pytest.raises(ValueError, match="IQL acts as a Mixture, expected one of the forms that bundles hold"):
        export_bundle(one_action_model(unbounded(4), UNEVEN_ACTIONS), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_one_form_replaces_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same folder: nothing of the former is left."""
    pair, one_action = model_of("no_hidden_layers"), one_action_model_of("no_hidden_layers")
    networks = exporter.exported_form(pair).networks()
    monkeypatch.setattr(ExportedPair, "networks", lambda _: networks)
    for model, form in ((pair, "pair"), (one_action, "deterministic"), (pair, "pair")):
        export_bundle(model, tmp_path / "bundle")
        assert GuidedPolicy.load(tmp_path / "bundle").manifest.policy == form


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from dipole_export.cli import main

    model = one_action_model_of("vector")
    saved = tmp_path / "model.zip"
    model.save(saved)
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(saved), "robot.dipole"]) == 0
    printed = capsys.readouterr().out
    assert "robot.dipole: fp32, observation 4 → action 2, deterministic, 0.0 MB\n" in printed
    assert "Largest difference of fp32 actions from the model's, of their range: " in printed
    assert "ω" not in printed
    refused = ((["--omega", "2"], "--omega is 2"), (["--omega-range", "0", "1"], "omega_range is (0.0, 1.0)"))
    for option, words in refused:
        assert main(["export", str(saved), "refused", *option]) == 1
        error = capsys.readouterr().err
        assert f"{words}, expected none: IQL acts without greediness" in error
        assert len(error.splitlines()) == 1
    assert not hasattr(model, "omega")
    with pytest.raises(GuidedPolicyError):
        GuidedPolicy.load("refused")


def test_it_drives_without_torch(tmp_path: Path) -> None:
    """The program that the demo drives bundles by; of ω and N there is none to give."""
    export_bundle(one_action_model(unbounded(10), spaces.Box(-1.0, 1.0, (2,))), tmp_path / "bundle")
    program = [sys.executable, drive.__file__, str(tmp_path / "bundle"), "--env", "Reacher-v5", "--episodes", "1"]
    finished = subprocess.run(program, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    told = json.loads(finished.stdout)
    assert np.shape(told["returns"]) == (1, 1, 1)
    assert np.shape(told["latencies_s"]) == (1, 1, 50)
    refused = subprocess.run([*program, "--omegas", "0"], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "omega is 0.0, expected none" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
