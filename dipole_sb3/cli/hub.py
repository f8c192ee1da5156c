"""``dipole hub``: publishes the model of a run on the Hugging Face hub."""

from __future__ import annotations

import argparse
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dipole_sb3.cli import pictures, run_folder
from dipole_sb3.cli.command_of_run import command_of
from dipole_sb3.cli.models import load_model
from dipole_sb3.cli.sweep import stem
from dipole_sb3.common.public_names import public_name
from dipole_sb3.evaluation.sweep import read_sweep_csv
from dipole_sb3.learning import hub
from dipole_sb3.learning.model_card import Story, versions_in, write_card
from dipole_sb3.learning.model_files import checksum_of_parameters
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm

_DESCRIPTION = "Shares models on the Hugging Face hub. Needs the extra `hub`; log in once by `hf auth login`."

_PUSH = """\
Publishes the finished model of a run: as JSON and safetensors, which cannot run anything where they are loaded,
with the table and pictures of its evaluation, its bundles, and a card that says what it reaches, what it learned
from and how to use it. All of it is one commit; the repository is made when it is not there, and the model that
was in it is replaced."""

_PUSH_EXAMPLES = """\
examples:
  dipole hub push runs/demo me/reacher
  dipole hub push runs/demo me/reacher --private --license mit

then, anywhere:
  DIPOLE.from_hub("me/reacher")"""

_SEEN = {
    "film.gif": "The same start at several settings",
    pictures.ARM: "The same targets at several settings",
    pictures.PATHS: "Paths to the same targets, by setting",
}
"""Pictures of a run that show the policy acting, the better first → what is seen."""


def add_parser(commands: Any) -> None:
    """Adds ``hub`` to the command's subparsers."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(
        "hub", help="share models on the Hugging Face hub", description=_DESCRIPTION, formatter_class=raw
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", title="actions")
    push = actions.add_parser(
        "push", help="publish a run's model", description=_PUSH, epilog=_PUSH_EXAMPLES, formatter_class=raw
    )
    push.set_defaults(run=run)
    push.add_argument("folder", metavar="RUN", type=Path, help="the folder of a run")
    push.add_argument("repo_id", metavar="REPO_ID", help="USER/NAME, or NAME among your own")
    push.add_argument("--private", action="store_true", default=None, help="where the repository is new: not public")
    push.add_argument("--revision", metavar="R", help="an existing branch (main)")
    push.add_argument("--license", metavar="L", help="the hub's name of a licence, e.g. mit (the card names none)")


def run(options: argparse.Namespace) -> int:
    """``dipole hub push``; failures raise."""
    library = hub.library()
    if not sys.stderr.isatty():
        library.utils.disable_progress_bars()
    folder: Path = options.folder
    config = run_folder.read_config(folder)
    path = folder / run_folder.MODEL
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no {run_folder.MODEL} in it; finish it by dipole train resume={folder}")
    model = load_model(path, "cpu")
    content = io.BytesIO()
    model.save(content, format="safe")
    files: dict[str, bytes | Path] = {hub.MODEL: content.getvalue(), **_results_in(folder, model)}
    bundles = _bundles_in(folder, model)
    for bundle in bundles:
        parts = [bundle] if bundle.is_file() else sorted(part for part in bundle.iterdir() if part.is_file())
        files |= {part.relative_to(folder).as_posix(): part for part in parts}
    story = _story(folder, config, model, files, [bundle.name for bundle in bundles], options.license)
    address = hub.push(
        options.repo_id,
        files,
        lambda full_id: write_card(model, full_id, story),
        revision=options.revision,
        private=options.private,
    )
    shown = [name for name in files if "/" not in name] + [f"{bundle.name}/" for bundle in bundles if bundle.is_dir()]
    print(f"Published: {', '.join([hub.CARD, *shown])}\n{address}")
    if not story.cells:
        print(f"The card has no returns, because {folder} has no evaluation; make one and push again:")
        print(f"  dipole evaluate model={folder} out={folder}")
    return 0


def _results_in(folder: Path, model: OfflineAlgorithm) -> dict[str, Path]:
    """The table of the run's evaluation and the pictures that the card shows."""
    name = stem(model.policy.knobs)
    acting = next((picture for picture in _SEEN if (folder / picture).is_file()), None)
    wanted = [f"{name}.csv", f"{name}.png", *([] if acting is None else [acting])]
    return {file: folder / file for file in wanted if (folder / file).is_file()}


def _bundles_in(folder: Path, model: OfflineAlgorithm) -> list[Path]:
    """Bundles in the folder, as files and as folders.

    :raises ValueError: one is no bundle, or of another model.
    """
    own = checksum_of_parameters(model.policy)
    found = [*sorted(folder.glob("*.dipole")), *(path.parent for path in sorted(folder.glob(f"*/{hub.MANIFEST}")))]
    for bundle in found:
        try:
            if bundle.is_file():
                with zipfile.ZipFile(bundle) as archive:
                    manifest = json.loads(archive.read(hub.MANIFEST))
            else:
                manifest = json.loads((bundle / hub.MANIFEST).read_bytes())
            timesteps = manifest["provenance"]["timesteps"]
            parameters = manifest["provenance"].get("parameters_sha256", own)  # of a bundle from before there was one
        except (zipfile.BadZipFile, LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"{bundle}: is no bundle, expected one of dipole export; remove it, or make it anew"
            ) from error
        if timesteps != model.num_timesteps:
            raise ValueError(
                f"{bundle}: is of a model after {timesteps} timesteps, but {folder / run_folder.MODEL} has "
                f"{model.num_timesteps}; export it again, or remove it"
            )
        if parameters != own:
            raise ValueError(
                f"{bundle}: has other parameters than {folder / run_folder.MODEL}; export it again, or remove it"
            )
    return found


def _story(
    folder: Path,
    config: DictConfig,
    model: OfflineAlgorithm,
    files: dict[str, bytes | Path],
    bundles: list[str],
    licence: str | None,
) -> Story:
    name = stem(model.policy.knobs)
    seen = {**_SEEN, f"{name}.png": "Return by setting, with 95 % intervals"}
    return Story(
        environment=config.task.env,
        cells=read_sweep_csv(folder / f"{name}.csv") if f"{name}.csv" in files else (),
        dataset=public_name(str(config.task.dataset)),
        data=run_folder.read_dataset_facts(folder),
        command=command_of(config),
        versions=_versions(folder / run_folder.MODEL),
        pictures={file: caption for file, caption in seen.items() if file in files},
        bundles=bundles,
        licence=licence,
    )


def _versions(model: Path) -> dict[str, str]:
    """Of the software that wrote the model; empty where its file does not tell."""
    with zipfile.ZipFile(model) as archive:
        return versions_in(archive.read("system_info.txt").decode()) if "system_info.txt" in archive.namelist() else {}
