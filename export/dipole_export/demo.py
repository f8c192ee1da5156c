"""``dipole demo``: the main job, with pictures: from recorded data to a robot arm driven by a bundle, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig

from dipole_export.command import error_phrase, flat_rows, provenance_of_run
from dipole_sb3.cli import hydra_command, pictures, run_folder, sweep, texts, train
from dipole_sb3.cli.dispatch import HydraCommand
from dipole_sb3.cli.options import TrainOptions, check_options
from dipole_sb3.cli.runs import Run
from dipole_sb3.common.intervals import mean_interval
from dipole_sb3.evaluation.sweep import (
    SweepResult,
    SweepRow,
    aligned_table,
    format_sweep_table,
    return_cell,
    write_sweep_csv,
)

if TYPE_CHECKING:
    from dipole_runtime.manifest import Manifest

    from dipole_export.exporter import Precision
    from dipole_sb3 import OfflineReplayBuffer
    from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm

BUNDLES: dict[Precision, str] = {"fp32": "bundle", "int8": "bundle-int8"}
"""Precision → folder of the bundle, in the run's folder."""

_DESCRIPTION = """\
The main job on a CPU: trains on 10,000 transitions of an agent that was learning MuJoCo's Reacher,
evaluates ω = −1 … 4, exports the policy, drives the arm from the exported bundle where torch cannot be
imported, and leaves model, bundles, figures and pictures in runs/demo/. Needs the extra `demo`."""


def _examples() -> str:
    return """\
It takes the options of `dipole train`.

examples:
  dipole demo
  dipole demo seed=1 run_dir=runs/demo-seed1
  dipole demo algo.beta=4 offline_steps=20000"""


def run(arguments: list[str]) -> int:
    """``dipole demo``."""
    return hydra_command.run("demo", demo, arguments)


COMMAND = HydraCommand(run, texts.CommandText("the main job in minutes, with pictures", _DESCRIPTION, _examples))


@dataclass(frozen=True)
class Driven:
    """Results of a bundle in the environment.

    :param result: returns over ω and N, on the same episodes as the model's own evaluation.
    :param latencies: N → the latency of every action, in seconds.
    """

    result: SweepResult
    latencies: dict[float, np.ndarray]


def demo(config: DictConfig, folder: Path) -> None:
    """Trains, evaluates, draws, exports and drives; then prints the tables and the paths of the results.

    :param config: as composed from demo.yaml.
    :param folder: folder of the run.
    """
    check_options(config, TrainOptions)
    if config.runs != 1:
        raise ValueError(f"runs is {config.runs}, expected 1: the demo trains one; dipole train takes several")
    runs = [Run(config, folder)]
    train.require_startable(runs)
    (trained,) = train.train(runs)
    model: Any = trained.model
    dataset = trained.dataset
    result = None
    if config.episodes:
        (result,) = sweep.run([model], config.task.env, config, [folder], dataset.metadata)
    drawn = [folder / f"{sweep.stem(result.knobs)}.png"] if config.pictures and result is not None else []
    if config.pictures:
        drawn += pictures.draw_acting(model, dataset, config, folder)
        drawn += pictures.draw_training(model, dataset, folder, config.offline_steps)
    manifests = export(model, dataset, folder)
    if result is not None:
        print(f"\n{format_sweep_table(result)}")
        _print_reference(dataset.metadata)
        driven = {precision: drive(folder / name, config, result) for precision, name in BUNDLES.items()}
        for precision, name in BUNDLES.items():
            write_sweep_csv(driven[precision].result, folder / f"{name}.csv")
        print(f"\n{format_bundle_table(result, driven)}")
    print()
    for manifest in manifests.values():
        print(error_phrase(manifest))
    print(f"\nThis run is in {folder}/, its bundles in {' and '.join(BUNDLES.values())}")
    if drawn:
        print(f"Its pictures: {', '.join(path.name for path in drawn)}")


def export(model: OfflineAlgorithm, dataset: OfflineReplayBuffer, folder: Path) -> dict[Precision, Manifest]:
    """Writes both bundles; returns their manifests by precision. Errors are measured on the data's observations."""
    from dipole_export.exporter import export_bundle

    provenance = provenance_of_run(folder / run_folder.MODEL)
    return {
        precision: export_bundle(
            model,
            folder / name,
            precision,
            # Errors and returns are printed, so the reader can decide whether int8 is good enough.
            max_int8_error=1.0,
            observations=flat_rows(dataset),
            provenance=provenance,
        )
        for precision, name in BUNDLES.items()
    }


def drive(bundle: Path, config: DictConfig, model: SweepResult) -> Driven:
    """The bundle's returns on the episodes of the model's own evaluation, in a process without torch.

    :raises ValueError: the process failed; the message contains its last line of output.
    """
    program = Path(__file__).parent / "robot" / "drive.py"
    omegas, counts = model.values("omega"), model.values("num_candidates")
    numbers = {"--omegas": omegas, "--candidates": counts}
    command = [sys.executable, str(program), str(bundle), "--env", config.task.env]
    command += [part for name, values in numbers.items() for part in (name, *map(str, values))]
    command += ["--episodes", str(config.episodes), "--seed", str(config.eval_seed)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        last = (finished.stderr.strip() or "it said nothing").splitlines()[-1]
        raise ValueError(f"{program.name} failed on {bundle}: {last}")
    told = json.loads(finished.stdout)
    returns = np.asarray(told["returns"])
    flat = returns.reshape(len(model.rows), -1)
    rows = tuple(
        SweepRow(row.setting, len(episodes), *mean_interval(episodes.tolist()))
        for row, episodes in zip(model.rows, flat, strict=True)
    )
    latencies = {count: np.concatenate(row) for count, row in zip(counts, told["latencies_s"], strict=True)}
    return Driven(SweepResult(model.knobs, rows, flat, None, config.eval_seed), latencies)


def format_bundle_table(model: SweepResult, driven: Mapping[Precision, Driven]) -> str:
    """A table of the returns of the model in PyTorch and of its bundles in ONNX Runtime, and the bundles' latency."""
    counts = model.values("num_candidates")
    header = ["ω", *(f"{name} N={count}" for count in counts for name in ("PyTorch", *driven))]
    lines = [
        [
            f"{omega:g}",
            *(
                return_cell(result.row(omega=omega, num_candidates=count))
                for count in counts
                for result in (model, *(one.result for one in driven.values()))
            ),
        ]
        for omega in model.values("omega")
    ]
    for name, share in (("p50", 50), ("p99", 99)):
        latencies = [
            text
            for count in counts
            for text in ("", *(f"{_milliseconds(one, count, share):.2f} ms" for one in driven.values()))
        ]
        lines.append([name, *latencies])
    title = "Return from the model in PyTorch and from its bundles without it; latency of an action from a bundle"
    return f"{title}\n{aligned_table(header, lines)}"


def _milliseconds(driven: Driven, count: float, share: float) -> float:
    return float(np.percentile(driven.latencies[count], share) * 1e3)


def _print_reference(facts: dict[str, float]) -> None:
    if {"data_return_mean", "agent_return_mean"} <= set(facts):
        print(
            f"\nMean return of the data: {facts['data_return_mean']:.2f}; "
            f"of the agent that recorded it, in the end: {facts['agent_return_mean']:.2f}"
        )
