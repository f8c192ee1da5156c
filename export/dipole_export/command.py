"""``dipole export``: exports a saved model as a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dipole_sb3 import OfflineReplayBuffer, load_dataset
from dipole_sb3.cli import run_folder
from dipole_sb3.cli.driving import AGENT, find_agent
from dipole_sb3.cli.models import load_model, model_path
from dipole_sb3.common.public_names import public_name, without_folders

if TYPE_CHECKING:
    from dipole_runtime.manifest import Manifest

MOST_ROWS_WITH_PICTURES = 1_000

_DESCRIPTION = """\
Writes a bundle: the policy as ONNX, with everything that a robot's program needs to act, and nothing of torch.
Before it is written, the runtime acts on 1,000 observations beside the model itself, at ω = −1 … 4 if its policy has
a greediness. A driving agent (the folder that DPVLA.save wrote) plans for 32 scenes."""

_EXAMPLES = """\
examples:
  dipole export runs/demo bundle                   a folder
  dipole export runs/demo robot.dipole             one file
  dipole export runs/demo bundle --precision int8 --dataset demo/reacher-tqc-10k
                                                   smaller and faster; says by how much actions differ
  dipole export runs/sees robot.dipole --picture 480 640
                                                   a policy on pictures, for a camera of 640 × 480 pixels
  dipole export planner car.dipole --picture 1080 1920
                                                   a driving agent, for cameras of 1920 × 1080 pixels

then, where torch is not needed:
  python -m dipole_runtime inspect bundle
  python -m dipole_runtime bench bundle"""


def add_parser(commands: Any) -> None:
    """Adds ``export`` to the command's subparsers."""
    parser = commands.add_parser(
        "export",
        help="everything a robot needs to act, without torch",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "model", metavar="MODEL", type=Path, help="a model's .zip file, the folder of a run, or that of a driving agent"
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a folder, or a file when it ends in .dipole")
    parser.add_argument("--precision", choices=["fp32", "int8"], default="fp32", help="of the weights (fp32)")
    parser.add_argument("--omega", type=float, metavar="X", help="default greediness, where there is one (the model's)")
    parser.add_argument("--omega-range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="allowed greediness (-1 4)")
    parser.add_argument(
        "--dataset", metavar="D", help="name or file: measure, and fit int8, on its observations (random ones)"
    )
    parser.add_argument(
        "--max-int8-error",
        type=float,
        default=0.05,
        metavar="X",
        help="refuse int8 beyond, of the action range (0.05; at most 0.2)",
    )
    parser.add_argument(
        "--picture", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of the cameras, in pixels (as trained)"
    )
    cars = parser.add_argument_group("driving agents")
    cars.add_argument("--max-speed", type=float, metavar="X", help="m/s: faster plans are refused on the car (60)")


def run(options: argparse.Namespace) -> int:
    """``dipole export``; failures raise."""
    folder = find_agent(options.model, (AGENT,))
    if folder is not None:
        options.model = folder
        return _run_plans(options)
    if options.max_speed is not None:
        raise ValueError(f"--max-speed is given, but {options.model} is no driving agent's folder")
    from dipole_export.exporter import export_bundle

    path = model_path(options.model)
    model: Any = load_model(path, "cpu")
    if options.omega is not None:
        if not hasattr(model, "omega"):
            algorithm = type(model).__name__
            raise ValueError(f"--omega is {options.omega:g}, expected none: {algorithm} acts without greediness")
        model.omega = options.omega
    manifest = export_bundle(
        model,
        options.bundle,
        options.precision,
        omega_range=None if options.omega_range is None else tuple(options.omega_range),
        picture=None if options.picture is None else tuple(options.picture),
        max_int8_error=options.max_int8_error,
        observations=None if options.dataset is None else flat_rows(load_dataset(options.dataset, device="cpu")),
        provenance=provenance_of_run(path),
    )
    print(
        f"{options.bundle}: {manifest.precision}, {_seen(manifest)} → action {manifest.action.size}, "
        f"{_turned(manifest)}, {_size(manifest.files.values())}\n{error_phrase(manifest)}"
    )
    return 0


def _run_plans(options: argparse.Namespace) -> int:
    if options.precision != "fp32":
        raise ValueError(f"--precision is {options.precision}, expected fp32: plans are not exported in 8 bits")
    from dipole_export.plans import export_plans
    from dipole_sb3.driving import DPVLA

    given = {name: getattr(options, name) for name in ("picture", "omega", "omega_range", "max_speed")}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    agent = DPVLA.load(options.model, device="cpu")
    seen = None if options.dataset is None else _scenes(options.dataset)
    manifest = export_plans(
        agent, options.bundle, observations=seen, **{name: value for name, value in given.items() if value is not None}
    )
    assert manifest.plan is not None
    assert manifest.omega is not None
    omega, plan = manifest.omega, manifest.plan
    listed = ", ".join(
        f"{error:.1g} at ω = {omega}" for omega, error in manifest.provenance["action_error_by_omega"].items()
    )
    print(
        f"{options.bundle}: {len(plan.cameras)} cameras of {plan.width} × {plan.height} pixels → plan of "
        f"{manifest.action.shape[0]} poses, ω {omega.low:g} … {omega.high:g} (default {omega.default:g}), "
        f"{_size(manifest.files.values())}\nLargest differences of plans from the agent's, in m and rad: {listed}"
    )
    return 0


def _scenes(name: str) -> Any:
    from dipole_export.plans import PARITY_SCENES
    from dipole_sb3.driving import load_scenes

    scenes = load_scenes(name)
    return scenes.observations(np.linspace(0, len(scenes) - 1, min(len(scenes), PARITY_SCENES)).astype(int).tolist())


def _seen(manifest: Manifest) -> str:
    pictures = [f"picture of {one.width} × {one.height} × {one.channels}" for one in manifest.pictures]
    size = manifest.observation.size
    return " and ".join([*pictures, *([f"observation {size}"] if size else [])])


def _turned(manifest: Manifest) -> str:
    guidance = manifest.guidance
    if guidance is None:
        return "deterministic"
    omega = guidance.omega
    return f"ω {omega.low:g} … {omega.high:g} (default {omega.default:g}), N = {guidance.num_candidates}"


def error_phrase(manifest: Manifest) -> str:
    """The largest differences between the bundle's and the model's actions, at every measured ω, as text."""
    if manifest.guidance is None:
        error = manifest.parity.action_error
        return f"Largest difference of {manifest.precision} actions from the model's, of their range: {error:.1g}"
    errors = manifest.provenance["action_error_by_omega"].items()
    listed = ", ".join(f"{error:.1g} at ω = {omega}" for omega, error in errors)
    return f"Largest differences of {manifest.precision} actions from the model's, of their range: {listed}"


def provenance_of_run(model: Path) -> dict[str, Any]:
    """Facts from the run's folder that the model does not contain: data set and seed; empty without a run.

    Bundles go to robots and are published, so files and folders have their names only.
    """
    folder = next((one for one in (model.parent, model.parent.parent) if (one / run_folder.CONFIG).is_file()), None)
    if folder is None:
        return {}
    config, facts = run_folder.read_config(folder), run_folder.read_dataset_facts(folder)
    told = {"source": public_name, "bundle": public_name, "command": without_folders}
    facts |= {key: tell(facts[key]) for key, tell in told.items() if isinstance(facts.get(key), str)}
    return {"dataset": {"name": public_name(str(config.task.dataset)), **facts}, "seed": config.seed}


def flat_rows(dataset: OfflineReplayBuffer) -> Any:
    """Every observation of a data set, without the axis of environments: [rows, *observation], by key for a Dict.

    Where there are pictures, which may not fit into memory, as many as are measured on, spread evenly.
    """
    from dipole_export.observed import picture_order

    size = dataset.size()
    chosen: Any = slice(size)
    if picture_order(dataset.observation_space) and size > MOST_ROWS_WITH_PICTURES:
        chosen = np.linspace(0, size - 1, MOST_ROWS_WITH_PICTURES).astype(int)

    def rows(array: np.ndarray) -> np.ndarray:
        found = array[chosen]
        return np.asarray(found.reshape(-1, *found.shape[2:]))

    observations = dataset.observations
    if isinstance(observations, dict):
        return {key: rows(array) for key, array in observations.items()}
    return rows(observations)


def _size(files: Any) -> str:
    return f"{sum(entry.size for entry in files) / 1e6:.1f} MB"
