"""Models to the hub and back, by the real client: whole, in one commit, and nothing that can run."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import huggingface_hub.constants
import numpy as np
import pytest
import torch
from hostile_models import write_hostile_model
from local_hub import TOKEN, LocalHub, Repository
from recordings import Arrays

from dipole_sb3 import CFGRL, DIPOLE, FAWAC, FQL, IDQL, IFQL, IQL, ReBRAC, load_dataset
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm


def small(data: Any, algorithm: type[OfflineAlgorithm] = DIPOLE, **arguments: Any) -> Any:
    return algorithm("MlpPolicy", dataset=data, policy_kwargs={"net_arch": [4]}, device="cpu", seed=0, **arguments)


def safe(model: Any) -> bytes:
    file = io.BytesIO()
    model.save(file, format="safe")
    return file.getvalue()


@pytest.mark.parametrize("algorithm", [DIPOLE, IQL, ReBRAC, IDQL, IFQL, FAWAC, FQL, CFGRL])
def test_there_and_back(local_hub: LocalHub, reacher_data: Arrays, algorithm: type[OfflineAlgorithm]) -> None:
    model = small(reacher_data, algorithm)
    address = model.push_to_hub("me/model")
    commits = local_hub.repositories["me/model"].branches["main"]
    assert address == f"{local_hub.address}/me/model/commit/{commits[-1][0]}"
    assert len(commits) == 2, "the one that made the repository, and one with everything"
    assert sorted(commits[-1][1]) == [".gitattributes", "README.md", "model.zip"]
    loaded = algorithm.from_hub("me/model", device="cpu")
    assert type(loaded) is algorithm
    for name, value in model.policy.state_dict().items():
        assert torch.equal(loaded.policy.state_dict()[name], value), name


def test_what_load_takes_from_hub_takes(local_hub: LocalHub, reacher_data: Arrays) -> None:
    """And it goes on learning."""
    small(reacher_data).push_to_hub("model")
    loaded = DIPOLE.from_hub("me/model", gymnasium.make("Reacher-v5"), dataset=reacher_data, omega=3.0)
    assert loaded.omega == 3.0
    assert loaded.get_env() is not None
    assert loaded.learn(2).num_timesteps == 2
    action, _ = loaded.predict(np.zeros(10, np.float32))
    assert action.shape == (2,)


def test_a_pickle_is_refused_before_it_runs(local_hub: LocalHub, reacher_data: Arrays, tmp_path: Path) -> None:
    path, ran = tmp_path / "hostile.zip", tmp_path / "ran"
    write_hostile_model(small(reacher_data), path, ran)
    local_hub.add("them/model", {"model.zip": path.read_bytes()})
    with pytest.raises(ValueError, match=r"^them/model: its model.zip is no safe model, and loading it could run code"):
        DIPOLE.from_hub("them/model")
    assert not ran.exists()
    DIPOLE.load(path)
    assert ran.exists(), "else this would show nothing"


def test_no_caller_can_make_it_trust(local_hub: LocalHub, reacher_data: Arrays) -> None:
    small(reacher_data).push_to_hub("me/model")
    with pytest.raises(TypeError, match="multiple values for keyword argument 'trust'"):
        DIPOLE.from_hub("me/model", trust=True)


def test_revisions(local_hub: LocalHub, reacher_data: Arrays) -> None:
    first, second, third = (small(reacher_data, gamma=gamma) for gamma in (0.5, 0.6, 0.7))
    pinned = first.push_to_hub("me/model").rpartition("/")[2]
    second.push_to_hub("me/model")
    local_hub.commit("me/model", "wide", {})
    third.push_to_hub("me/model", revision="wide")
    found = [DIPOLE.from_hub("me/model", revision=revision).gamma for revision in (None, "main", pinned, "wide")]
    assert found == [0.6, 0.6, 0.5, 0.7]


def test_a_model_is_downloaded_once(local_hub: LocalHub, reacher_data: Arrays) -> None:
    small(reacher_data).push_to_hub("me/model")
    for _ in range(2):
        DIPOLE.from_hub("me/model")
    assert local_hub.requests.count(("GET", "/me/model/resolve/main/model.zip")) == 1


def test_private_models(local_hub: LocalHub, reacher_data: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    small(reacher_data).push_to_hub("me/model", private=True, token=TOKEN)
    assert local_hub.repositories["me/model"].private
    with pytest.raises(FileNotFoundError, match="me/model: the hub has no such repository, or does not show it; if it"):
        DIPOLE.from_hub("me/model")
    assert DIPOLE.from_hub("me/model", token=TOKEN)


def test_a_public_model_needs_no_token(
    local_hub: LocalHub, reacher_data: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(reacher_data).push_to_hub("me/model")
    monkeypatch.delenv("HF_TOKEN")
    assert DIPOLE.from_hub("me/model")


@pytest.mark.parametrize(
    ("repo_id", "revision", "kind", "message"),
    [
        ("them/nothing", None, FileNotFoundError, r"them/nothing: the hub has no such repository"),
        ("them/empty", None, FileNotFoundError, r"them/empty: has no model.zip, expected a repository that push_to"),
        ("them/empty", "v2", FileNotFoundError, r"them/empty: has no revision v2, expected a branch, tag or commit"),
        ("them/gated", None, PermissionError, r"them/gated: this repository is gated; ask for access on its page"),
        ("them/iql", None, ValueError, r"holds a model of IQL, expected one of DIPOLE"),
        ("a model", None, ValueError, r"repo_id is 'a model', expected NAME or USER/NAME"),
        ("a/b/c", None, ValueError, r"repo_id is 'a/b/c', expected NAME or USER/NAME"),
    ],
)
def test_what_cannot_be_loaded(
    local_hub: LocalHub, reacher_data: Arrays, repo_id: str, revision: str | None, kind: type[Exception], message: str
) -> None:
    local_hub.add("them/empty", {"README.md": b"soon"})
    local_hub.add("them/gated", {"model.zip": b"?"}, gated=True)
    local_hub.add("them/iql", {"model.zip": safe(small(reacher_data, IQL))})
    with pytest.raises(kind, match=message) as error:
        DIPOLE.from_hub(repo_id, revision=revision)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fails", "status", "kind", "message"),
    [
        (("POST", "/commit/"), 500, OSError, r"me/model: the hub refused \(500: .*\); nothing was committed"),
        (("PUT", "/lfs/"), 400, OSError, r"me/model: the hub cannot be used \(.*out of order\)"),
        (("POST", "/preupload/"), 403, PermissionError, r"me/model: the hub does not permit this \(out of order\)"),
        (("POST", "/repos/create"), 400, OSError, r"me/model: the hub refused \(400: .*out of order\); nothing was"),
    ],
)
def test_a_failing_push_leaves_the_earlier_model(
    local_hub: LocalHub,
    reacher_data: Arrays,
    fails: tuple[str, str],
    status: int,
    kind: type[Exception],
    message: str,
) -> None:
    small(reacher_data).push_to_hub("me/model")
    before = list(local_hub.repositories["me/model"].branches["main"])
    local_hub.fail[fails] = status
    with pytest.raises(kind, match=message) as error:
        small(reacher_data, gamma=0.5).push_to_hub("me/model")
    assert isinstance(error.value, OSError)
    assert "\n" not in str(error.value)
    assert local_hub.repositories["me/model"].branches["main"] == before


def test_nothing_is_sent_of_what_a_safe_file_cannot_hold(local_hub: LocalHub, reacher_data: Arrays) -> None:
    with pytest.raises(ValueError, match="learning_rate is a function"):
        small(reacher_data, learning_rate=lambda progress: 1e-3 * progress).push_to_hub("me/model")
    assert local_hub.requests == []


def test_who_may_not_push(local_hub: LocalHub, reacher_data: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PermissionError, match=r"them/model: .*don't have the rights.*; log in by `hf auth login`"):
        small(reacher_data).push_to_hub("them/model")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PermissionError, match=r"me/model: .*log in by `hf auth login`, or give a token"):
        small(reacher_data).push_to_hub("me/model")
    assert local_hub.repositories == {}


def test_a_licence_that_the_hub_does_not_know(local_hub: LocalHub, reacher_data: Arrays) -> None:
    with pytest.raises(ValueError, match=r'me/model: Invalid metadata in README.md. - "license" must be one of'):
        small(reacher_data).push_to_hub("me/model", license="mine")
    assert len(local_hub.repositories["me/model"].branches["main"]) == 1


def test_a_push_replaces_all_of_the_earlier_model_and_nothing_else(local_hub: LocalHub, reacher_data: Arrays) -> None:
    old = ("omega_sweep.csv", "omega_sweep.png", "film.gif", "robot.dipole", "arm/manifest.json", "arm/policy.onnx")
    theirs = ("notes.md", "figures/omega_sweep.png", ".gitattributes", "logs/model.zip")
    theirs += ("page/index.html", "page/manifest.json")
    local_hub.repositories["me/model"] = Repository()
    local_hub.commit("me/model", "main", dict.fromkeys((*old, *theirs), b"old"))
    small(reacher_data).push_to_hub("me/model")
    assert sorted(local_hub.files("me/model")) == sorted([*theirs, "README.md", "model.zip"])
    assert len(local_hub.repositories["me/model"].branches["main"]) == 2


def test_a_hub_that_is_not_there(local_hub: LocalHub, reacher_data: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = "http://127.0.0.1:9"
    monkeypatch.setattr(time, "sleep", lambda _: None)  # the client tries for 23 seconds
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", nowhere)
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere + "/{repo_id}/resolve/{revision}/{filename}"
    )
    with pytest.raises(ConnectionError, match="me/model: the hub cannot be used") as error:
        small(reacher_data).push_to_hub("me/model")
    assert "\n" not in str(error.value)
    with pytest.raises(ConnectionError, match="me/model: not in the cache, and the hub cannot be reached") as error:
        DIPOLE.from_hub("me/model")
    assert "\n" not in str(error.value)


def test_without_the_extra(reacher_data: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for use in (small(reacher_data).push_to_hub, DIPOLE.from_hub):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'dipole-sb3\[hub\]'"):
            use("me/model")


def test_a_model_without_data_has_a_card_too(local_hub: LocalHub, reacher_data: Arrays) -> None:
    small(reacher_data).push_to_hub("me/model")
    DIPOLE.from_hub("me/model").push_to_hub("me/again")
    card = local_hub.files("me/again")["README.md"].decode()
    assert "# DIPOLE\n" in card
    assert "What it learned from" not in card


def test_the_card_tells_the_data(local_hub: LocalHub) -> None:
    small(load_dataset("demo/reacher-tqc-10k")).push_to_hub("me/model")
    card = local_hub.files("me/model")["README.md"].decode()
    assert "# DIPOLE on Reacher-v5\n" in card
    assert "| transitions | 10,000 |" in card
    assert "demo/reacher-tqc-10k" in card
