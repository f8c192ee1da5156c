"""What a saved driving agent consists of, and how it becomes an agent again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dipole_sb3.common.version import VERSION
from dipole_sb3.driving.model import text
from dipole_sb3.driving.model.configuration import Configuration
from dipole_sb3.driving.training import checkpoint
from dipole_sb3.driving.training.interfaces import Scenes
from dipole_sb3.driving.training.job import Job
from dipole_sb3.learning.precision import Precision

Unfinished = tuple[str, dict[str, Any], dict[str, Any], dict[str, Tensor]]
"""Of a training: its kind, what was asked for, values and tensors of its state."""

_COUNTS = ("pretrained_epochs", "updates", "scored_plans", "method")
_TOKENISER = "tokeniser"
_ADAPTER = ".lora_"


def write(agent: Any, folder: Path, networks_file: str | None, job: Job | None = None) -> str:
    """Makes an agent, and where its training is, the content of a folder.

    :param networks_file: name that the frozen networks have in a folder already, since they cannot have changed;
        None: they may have.
    :param job: the training, between two pieces of work; None: it is over.
    :return: the name of the networks' file.
    """
    tensors = _tensors(agent.planner)
    state, values = job.state() if job is not None else ({}, {})
    if networks_file is None or not (folder / networks_file).is_file():
        networks = {name: tensor for name, tensor in tensors.items() if _ADAPTER not in name}
        networks_file = checkpoint.write_tensors(folder, "networks", networks)
    adapters = {name: tensor for name, tensor in tensors.items() if _ADAPTER in name}
    files = {
        "networks": networks_file,
        "adapters": checkpoint.write_tensors(folder, "adapters", adapters),
        "state": checkpoint.write_tensors(folder, "state", {"generator": agent.generator.get_state(), **state}),
    }
    if agent.tokeniser_folder is not None and not (folder / _TOKENISER).is_dir():
        _copy_tokeniser(agent.tokeniser_folder, folder)
    manifest = {
        "version": VERSION,
        "configuration": agent.configuration.as_dict(),
        "precision": agent.products,
        **{name: getattr(agent, name) for name in _COUNTS},
        "training": None if job is None else {"kind": job.kind, "arguments": job.arguments(), "values": values},
    }
    checkpoint.write_manifest(folder, files, manifest)
    return networks_file


def read(
    kind: type[Any],
    folder: Path,
    scenes: Scenes | None,
    device: torch.device | str,
    precision: Precision | None,
    tensorboard_log: str | Path | None,
    verbose: int,
) -> tuple[Any, Unfinished | None]:
    """The agent in a folder, and its training where that is not over.

    :param kind: class of the agent.
    """
    manifest = checkpoint.read_manifest(folder)
    try:
        configuration = Configuration(**manifest["configuration"])
        files, saved_precision, training = (manifest[name] for name in ("files", "precision", "training"))
        counts = {name: manifest[name] for name in _COUNTS}
        parts = [checkpoint.read_tensors(folder, files[part]) for part in ("networks", "adapters", "state")]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / checkpoint.MANIFEST}: it is damaged ({error}), or of another version") from error
    agent = kind(
        configuration,
        scenes,
        device=device,
        precision=saved_precision if precision is None else precision,
        tensorboard_log=tensorboard_log,
        verbose=verbose,
    )
    _fill(agent.planner, {**parts[0], **parts[1]}, folder)
    agent.generator.set_state(parts[2].pop("generator"))
    for name, value in counts.items():
        setattr(agent, name, value)
    if (folder / _TOKENISER).is_dir():
        agent.tokeniser_folder = folder / _TOKENISER
        agent.tokenise = text.tokeniser_in(folder / _TOKENISER, configuration.text_tokens)
    if training is None:
        return agent, None
    return agent, (training["kind"], training["arguments"], training["values"], parts[2])


def _tensors(planner: nn.Module) -> dict[str, Tensor]:
    """Of tensors that share their memory only the first, since safetensors refuses the others."""
    seen: set[int] = set()
    kept = {}
    for name, tensor in planner.state_dict().items():
        if tensor.data_ptr() not in seen:
            kept[name] = tensor
        seen.add(tensor.data_ptr())
    return kept


def _fill(planner: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    own = _tensors(planner)
    wrong = [name for name in own.keys() | tensors.keys() if name not in own or name not in tensors]
    wrong = wrong or [name for name, tensor in own.items() if tensor.shape != tensors[name].shape]
    if wrong:
        raise ValueError(f"{folder}: its tensors are not those of its configuration (first: {min(wrong)})")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def _copy_tokeniser(source: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory(dir=folder) as partial:
        AutoTokenizer.from_pretrained(source, local_files_only=True).save_pretrained(Path(partial) / _TOKENISER)
        os.rename(Path(partial) / _TOKENISER, folder / _TOKENISER)
