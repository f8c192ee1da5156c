"""``dipole demo``: the main job, with pictures: from recorded data to a robot arm driven by a bundle, without torch."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import MISSING, DictConfig

from dipole_export.command import error_phrase, flat_rows, provenance_of_run
from dipole_export.robot.drive import CANNOT_DRAW, CannotDrawError
from dipole_sb3.cli import driving, driving_demo, hydra_command, pictures, run_folder, sweep, texts, train, training
from dipole_sb3.cli.configuration import config_folder
from dipole_sb3.cli.dispatch import HydraCommand
from dipole_sb3.cli.environments import task_env
from dipole_sb3.cli.models import algorithm_of
from dipole_sb3.cli.options import TrainOptions, check_options
from dipole_sb3.cli.runs import Run, claim_folders
from dipole_sb3.common import renderers
from dipole_sb3.datasets import make_env
from dipole_sb3.datasets.environments import environment_facts
from dipole_sb3.evaluation.sweep import (
    SweepResult,
    aligned_table,
    format_sweep_table,
    return_cell,
    success_cell,
    summary_row,
    write_sweep_csv,
)

if TYPE_CHECKING:
    from dipole_runtime.manifest import Manifest

    from dipole_export.exporter import Precision
    from dipole_sb3 import OfflineReplayBuffer
    from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm

BUNDLES: dict[Precision, str] = {"fp32": "bundle", "int8": "bundle-int8"}
"""Precision → folder of the bundle, in the run's folder."""

PAGE = "page"
"""Folder of the bundle's page, in the run's folder."""

_DESCRIPTION = """\
The main job on a CPU: trains on 30,000 transitions of a scripted arm of MuJoCo's Reacher,
evaluates ω = −1 … 4, exports the policy, drives the arm from the exported bundle where torch cannot be
imported, and leaves model, bundles, figures, pictures and a page for the browser in runs/demo/. Needs the
extra `demo`. With a task of configs/demo/ it does the same there, at the sizes of that file."""


def _examples() -> str:
    return """\
It takes the options of `dipole train`.

examples:
  dipole demo
  dipole demo task=ogbench/cube-single-play        a robot that places a cube: data made, 25 minutes on two cores
  dipole demo task=camera-reacher                  an arm that sees its target through a camera
  dipole demo seed=1 run_dir=runs/demo-seed1
  dipole demo algo.beta=4 offline_steps=20000"""


def run(arguments: list[str]) -> int:
    """``dipole demo``."""
    if driving.is_asked_for(arguments):
        return driving_demo.run(arguments)
    return hydra_command.run("demo", demo, arguments)


COMMAND = HydraCommand(
    run, texts.CommandText("the main job in minutes, with pictures", _DESCRIPTION, _examples), needs_options=False
)


@dataclass
class DemoOptions(TrainOptions):
    """Options of demo.yaml."""

    made_episodes: int = MISSING
    driven_episodes: int | None = MISSING
    film: list[float] | None = MISSING


@dataclass(frozen=True)
class Driven:
    """Results of a bundle in the environment.

    :param result: returns and successes over ω and N, on the first episodes of the model's own evaluation.
    :param latencies: N → the latency of every action, in seconds.
    """

    result: SweepResult
    latencies: dict[float, np.ndarray]


def demo(config: DictConfig, folder: Path) -> None:
    """Trains, evaluates, draws, exports and drives; then prints the tables and the paths of the results.

    :param config: as composed from demo.yaml.
    :param folder: folder of the run.
    """
    check_options(config, DemoOptions)
    if config.runs != 1:
        raise ValueError(f"runs is {config.runs}, expected 1: the demo trains one; dipole train takes several")
    require_demonstrable(config)
    runs = [Run(config, folder)]
    train.require_startable(runs)
    with ExitStack() as opened:
        claim_folders(runs, opened)
        _demo(config, runs)


def _demo(config: DictConfig, runs: Sequence[Run]) -> None:
    folder = runs[0].folder
    if config.made_episodes:
        make_data(config)
    (trained,) = training.train(runs)
    model: Any = trained.model
    dataset = trained.dataset
    result = None
    with training.closing_loggers([trained]):
        if config.episodes:
            (result,) = sweep.run([model], task_env(config.task), config, [folder], dataset.metadata)
    drawn = [folder / f"{sweep.stem(result.knobs)}.png"] if config.pictures and result is not None else []
    if config.pictures:
        if _is_arm(config):
            drawn += pictures.draw_arm(model, config, folder, config.film or [])
        drawn += pictures.draw_actions(model, dataset, folder)
        drawn += pictures.draw_training(model, dataset, folder, config.offline_steps)
    manifests = export(model, dataset, folder)
    # A page has a slider for every number that is observed.
    page = None if manifests["fp32"].pictures else page_of(folder)
    if result is not None:
        print(f"\n{format_sweep_table(result)}")
        _print_reference(dataset.metadata)
        driven = {precision: drive(folder / name, config, result) for precision, name in BUNDLES.items()}
        for precision, name in BUNDLES.items():
            write_sweep_csv(driven[precision].result, folder / f"{name}.csv")
        print(f"\n{format_bundle_table(result, driven)}")
    if config.pictures and not _is_arm(config):
        drawn += film(folder, config)
    print()
    for manifest in manifests.values():
        print(error_phrase(manifest))
    print(f"\nThis run is in {folder}/, its bundles in {' and '.join(BUNDLES.values())}")
    if page is not None:
        print(f"The policy in a browser, ω on a slider: open {page}")
    if drawn:
        print(f"Its pictures: {', '.join(path.name for path in drawn)}")


def require_demonstrable(config: DictConfig) -> None:
    """Refuses what the demo would train and could not show.

    :raises ValueError: an algorithm without ω and N, or a task for whose pictures nothing is known.
    """
    algorithm = algorithm_of(config)
    if {knob.option for knob in algorithm.knobs()} != {"omegas", "candidates"}:
        raise ValueError(
            f"algo is {algorithm.__name__.lower()}, expected one whose ω and N the demo can turn: dipole; dipole train "
            "takes any"
        )
    if config.film is None and not _is_arm(config):
        own = ", ".join(file.stem for file in sorted((config_folder() / "demo").rglob("*.yaml")))
        raise ValueError(
            f"task.env is {config.task.env}, expected Reacher's arm, which the demo draws, or a task with its own "
            f"demo: {own}; dipole train takes any"
        )


def _is_arm(config: DictConfig) -> bool:
    """Whether the task is Reacher's, whose arm is drawn; others are rendered by MuJoCo."""
    return bool(config.task.env.startswith("Reacher"))


def make_data(config: DictConfig) -> None:
    """Makes the task's data set, if it is not there."""
    progress = config.progress_bar is not False
    if not config.task.dataset.startswith("ogbench/"):
        from dipole_export import camera_data

        camera_data.make(Path(config.task.dataset), config.made_episodes, progress)
        return
    from dipole_sb3.datasets.ogbench.generation import make_dataset

    make_dataset(
        config.task.dataset,
        episodes=config.made_episodes,
        processes=config.processes,
        dataset_dir=config.task.dataset_dir,
        progress=progress,
    )


def export(model: OfflineAlgorithm, dataset: OfflineReplayBuffer, folder: Path) -> dict[Precision, Manifest]:
    """Writes both bundles; returns their manifests by precision. Errors are measured on the data's observations."""
    from dipole_runtime.tolerances import LARGEST_INT8_ERROR

    from dipole_export.exporter import export_bundles

    return export_bundles(
        model,
        {precision: folder / name for precision, name in BUNDLES.items()},
        # The largest there is: errors and returns are printed, so the reader can decide.
        max_int8_error=LARGEST_INT8_ERROR,
        observations=flat_rows(dataset),
        provenance=provenance_of_run(folder / run_folder.MODEL),
    )


def page_of(folder: Path) -> Path:
    """Writes the page in which the single-precision bundle acts in a browser; returns its file."""
    from dipole_runtime import read_bundle
    from dipole_runtime.page import write_page

    return write_page(read_bundle(folder / BUNDLES["fp32"]), folder / PAGE)


def drive(bundle: Path, config: DictConfig, model: SweepResult) -> Driven:
    """What the bundle reaches on the first episodes of the model's own evaluation, in a process without torch.

    :raises ValueError: the process failed; the message contains its last line of output.
    """
    omegas, counts = model.values("omega"), model.values("num_candidates")
    episodes = min(config.driven_episodes or config.episodes, config.episodes)
    told = _robot(bundle, config, omegas, counts, episodes, {})
    returns, successes = (np.asarray(told[name]).reshape(len(model.rows), -1) for name in ("returns", "successes"))
    latencies = {count: np.concatenate(row) for count, row in zip(counts, told["latencies_s"], strict=True)}
    ended = None if model.successes is None else successes.astype(bool)
    return Driven(_like(model, returns, ended), latencies)


def film(folder: Path, config: DictConfig) -> list[Path]:
    """Films the bundle at several ω from the same start; says in one sentence where nothing can be drawn.

    :return: the strip and the animation.
    """
    frames_file = folder / "film.npz"
    options = {"--film": str(frames_file)}
    tried: list[str] = []
    for renderer in renderers.worth_trying():
        try:
            told = _robot(folder / BUNDLES["fp32"], config, config.film, [1], config.episodes or 1, options, renderer)
            break
        except CannotDrawError as error:
            tried.append(f"{renderer}: {error}")
    else:
        print(f"\nNo film: MuJoCo cannot draw here ({'; '.join(tried)}); on Debian, apt install libosmesa6")
        return []
    with np.load(frames_file) as archive:
        frames = archive["frames"]
    frames_file.unlink()
    ended = [
        f"ω = {omega:g}{_ending(end)}".replace("-", "−") for omega, end in zip(config.film, told["ends"], strict=True)
    ]
    seconds = told["every"] * told["ends"][0]["seconds_of_a_step"]
    strip, animation = folder / "film.png", folder / "film.gif"
    from dipole_sb3 import plots

    plots.plot_film_strip(frames, ended, seconds * np.arange(1, frames.shape[1] + 1), strip)
    plots.write_animation(frames, ended, seconds, animation)
    print(f"\nFilmed: the start of episode {told['episode'] + 1} of {config.episodes}, N = 1, {', '.join(ended)}")
    return [strip, animation]


def _ending(end: Mapping[str, Any]) -> str:
    """How an episode ended, as the end of a title."""
    if end["success"] is None:
        return ""
    return f": done in {end['seconds']:.1f} s" if end["success"] else ": not done"


@functools.cache
def _environment_options(name: str) -> tuple[str, ...]:
    """How robot/drive.py, which cannot import this package, makes the same environment."""
    env = make_env(name)
    facts = environment_facts(env.spec)
    env.close()
    module, named, _ = ("ogbench", ":", "") if name.startswith("ogbench/") else name.partition(":")
    return (
        "--env",
        f"{module if named else ''}{named}{facts['env_id']}",
        "--env-kwargs",
        json.dumps(facts.get("env_kwargs", {})),
    )


def _success_options(task: Mapping[str, Any]) -> tuple[str, ...]:
    """How it tells success, where the environment does not."""
    success = task.get("success")
    if success is None:
        return ()
    # argparse takes -1e-05 for an option.
    return "--success", success["info"], np.format_float_positional(success["least"], trim="0")


def _robot(
    bundle: Path,
    config: DictConfig,
    omegas: Sequence[float],
    counts: Sequence[float],
    episodes: int,
    options: Mapping[str, str],
    renderer: str | None = None,
) -> dict[str, Any]:
    """The answer of robot/drive.py.

    :raises CannotDrawError: there is no such renderer here; the message is its last line of output.
    :raises ValueError: the process failed; the message contains its last line of output.
    """
    program = Path(__file__).parent / "robot" / "drive.py"
    numbers = {"--omegas": omegas, "--candidates": counts}
    command = [sys.executable, str(program), str(bundle)]
    command += [*_environment_options(config.task.env), *_success_options(config.task)]
    command += [part for name, values in numbers.items() for part in (name, *map(str, values))]
    command += ["--episodes", str(episodes), "--seed", str(config.eval_seed)]
    command += [part for item in options.items() for part in item]
    if renderer is None:
        renderer = os.environ[renderers.VARIABLE] if config.task.get("draws") else "disable"
    environment = {**os.environ, renderers.VARIABLE: renderer}
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    last = (finished.stderr.strip() or "it said nothing").splitlines()[-1]
    if finished.returncode == CANNOT_DRAW:
        raise CannotDrawError(last)
    if finished.returncode:
        raise ValueError(f"{program.name} failed on {bundle}: {last}")
    # Environments may print, too.
    told: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return told


def format_bundle_table(model: SweepResult, driven: Mapping[Precision, Driven]) -> str:
    """A table of what the model reaches in PyTorch and its bundles in ONNX Runtime, and the bundles' latency.

    Success rates where the task has them, else returns; all on the episodes that the bundles played.
    """
    counts = model.values("num_candidates")
    some = next(iter(driven.values())).result
    episodes = some.returns.shape[1]
    in_torch = first_episodes(model, episodes)
    what, cell = ("Return", return_cell) if model.successes is None else ("Success", success_cell)
    header = ["ω", *(f"{name} N={count}" for count in counts for name in ("PyTorch", *driven))]
    lines = [
        [
            f"{omega:g}",
            *(
                cell(result.row(omega=omega, num_candidates=count))
                for count in counts
                for result in (in_torch, *(one.result for one in driven.values()))
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
    of = "" if episodes == model.returns.shape[1] else f" (the first {episodes} of {model.returns.shape[1]} episodes)"
    title = f"{what} from the model in PyTorch and from its bundles without it{of}; latency of an action from a bundle"
    return f"{title}\n{aligned_table(header, lines)}"


def first_episodes(result: SweepResult, episodes: int) -> SweepResult:
    """The same table over its first episodes alone."""
    successes = None if result.successes is None else result.successes[:, :episodes]
    return _like(result, result.returns[:, :episodes], successes)


def _like(table: SweepResult, returns: np.ndarray, successes: np.ndarray | None) -> SweepResult:
    """A table of the same cells with other results, both of shape [rows, episodes]."""
    ended = [[None] * returns.shape[1]] * len(returns) if successes is None else successes.tolist()
    rows = tuple(summary_row(row.setting, *cell) for row, *cell in zip(table.rows, returns, ended, strict=True))
    return replace(table, rows=rows, returns=returns, successes=successes)


def _milliseconds(driven: Driven, count: float, share: float) -> float:
    return float(np.percentile(driven.latencies[count], share) * 1e3)


def _print_reference(facts: dict[str, float]) -> None:
    if {"data_return_mean", "agent_return_mean"} <= set(facts):
        print(
            f"\nMean return of the data: {facts['data_return_mean']:.2f}; "
            f"of the agent that recorded it, in the end: {facts['agent_return_mean']:.2f}"
        )
