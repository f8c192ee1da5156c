"""``dipole train task=driving/…`` and ``dipole evaluate`` of what it leaves: agents that plan how a car drives on."""

from __future__ import annotations

import math
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from dipole_sb3.cli import claim, hydra_command, pictures, run_folder
from dipole_sb3.cli.configuration import dotted
from dipole_sb3.cli.interrupt import StopOnSignal, ends_with_status, exit_status
from dipole_sb3.cli.resuming import require_not_replaced, require_same
from dipole_sb3.common.checks import require_whole_number
from dipole_sb3.driving.training.checkpoint import MANIFEST

if TYPE_CHECKING:
    from dipole_sb3.driving import DPVLA
    from dipole_sb3.driving.evaluation import Evaluated
    from dipole_sb3.driving.training.interfaces import Scenes, Scorer

PREFIX = "task=driving/"
IMITATION, AGENT = "imitation", "agent"
"""Folders of the agents in that of a run: pre-trained, and fine-tuned."""
SWEEP, PLANS = "pdms_sweep", "plans.png"
NAMES = {"dipole": "DIPOLE", "awr": "AWR", "dppo": "DPPO", None: "imitation"}
"""Of a method in tables."""
METHODS = tuple(method for method in NAMES if method is not None)


def is_asked_for(arguments: Sequence[str]) -> bool:
    """Whether a command line of ``dipole train`` or ``dipole demo`` is about driving."""
    folders = [argument.removeprefix("resume=") for argument in arguments if argument.startswith("resume=")]
    return any(argument.startswith(PREFIX) for argument in arguments) or any(map(is_run, map(Path, folders)))


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run of a driving agent."""
    file = folder / run_folder.CONFIG
    return file.is_file() and "finetune" in run_folder.read_config(folder)


def is_model(path: Path) -> bool:
    """Whether a path is that of a driving agent, or of a run of one."""
    return (path / MANIFEST).is_file() or is_run(path)


def train_command(arguments: list[str]) -> int:
    """``dipole train`` for driving; one run, or one after the other with ``-m``."""
    resumed = [argument.removeprefix("resume=") for argument in arguments if argument.startswith("resume=")]
    others = [argument for argument in arguments if not argument.startswith("resume=")]
    if resumed and resumed != ["auto"]:
        if others or len(resumed) > 1:
            raise ValueError(f"{others[0] if others else resumed[1]}: a driving run goes on as it was begun, alone")
        train(run_folder.read_config(Path(resumed[0])), Path(resumed[0]), go_on=True)
        return 0

    def job(config: DictConfig, folder: Path) -> None:
        require_not_replaced(bool(resumed) and config.replace)
        check(config)
        train(config, folder, go_on=bool(resumed), named=hydra_command.folder_was_named())

    return hydra_command.run("driving", job, of_group(others), called="train")


def of_group(arguments: Sequence[str]) -> list[str]:
    """The command line with ``task=driving/NAME`` as Hydra's choice in the folder ``driving``."""
    return [
        f"driving={argument.removeprefix('task=').replace('driving/', '')}" if argument.startswith(PREFIX) else argument
        for argument in arguments
    ]


def check(config: DictConfig) -> None:
    """Refuses wrong options before hours of work.

    :raises FileNotFoundError: there is no agent in ``imitation``.
    :raises ValueError: the message names the option, its value and what was expected.
    """
    from dipole_sb3.driving.training.fine_tuning import FineTuningArguments
    from dipole_sb3.driving.training.imitation import ImitationArguments

    pictures.require_matplotlib(config)
    if config.finetune.method not in (*METHODS, None):
        raise ValueError(f"finetune.method is {config.finetune.method!r}, expected null or one of {', '.join(METHODS)}")
    check_omegas(config.omegas)
    for name in ("num_plans", "log_interval", "save_freq"):
        require_whole_number(name, config[name], 1)
    if config.processes is not None:
        require_whole_number("processes", config.processes, 1)
    _check_group("pretrain", config.pretrain, ImitationArguments)
    if config.finetune.method is not None:
        _check_group("finetune", config.finetune, FineTuningArguments)
    if config.imitation is not None:
        _require_imitation(config)
    elif config.task.train == config.task.test:
        raise ValueError(
            f"task.train and task.test are both {config.task.test}: pre-training would learn the recorded plans of the "
            "scenes that it is scored on; give imitation=FOLDER of an agent that is pre-trained on others"
        )


def _require_imitation(config: DictConfig) -> None:
    """Fine-tuning begins with imitation, which is also the row beside which its scores are read."""
    from dipole_sb3.driving.training import checkpoint

    folder = agent_folder(Path(config.imitation), (IMITATION, AGENT))
    method = checkpoint.read_manifest(folder).get("method")
    if method is not None and config.finetune.method is not None:
        raise ValueError(
            f"imitation is {config.imitation}, an agent that is fine-tuned by {method} already; expected one that is "
            f"pre-trained alone, such as the folder {IMITATION} of a run"
        )


def _check_group(name: str, options: DictConfig, arguments: Callable[..., Any]) -> None:
    try:
        arguments(**{str(option): value for option, value in options.items()})
    except ValueError as error:
        raise ValueError(f"{name}.{error}") from error


def check_omegas(omegas: Any) -> None:
    """
    :raises ValueError: these are no values of ω.
    """
    numbers = omegas if isinstance(omegas, ListConfig) else []
    good = [
        isinstance(omega, int | float) and not isinstance(omega, bool) and math.isfinite(omega) and omega >= -1
        for omega in numbers
    ]
    if not good or not all(good):
        raise ValueError(f"omegas is {omegas}, expected a list of numbers of at least -1, e.g. omegas=[-1,0,1]")


def train(config: DictConfig, folder: Path, *, go_on: bool = False, named: bool = True) -> None:
    """Pre-trains, fine-tunes, evaluates on held-out scenes; each as far as it is not done.

    :param go_on: whether there may be a run in the folder, which goes on.
    :param named: whether somebody gave the folder's name.
    """
    from dipole_sb3.driving import load_scenes
    from dipole_sb3.driving.score import ScoringPool

    task = config.task
    scenes, held_out = (
        load_scenes(task.scenes, split, dataset_dir=task.dataset_dir, limit=task.limit)
        for split in (task.train, task.test)
    )
    with ExitStack() as opened:
        folder = claimed_folder(config, folder, opened, go_on, named)
        run_folder.write_config(folder, config)
        opened.enter_context(ends_with_status())
        scorer = opened.enter_context(ScoringPool(config.processes))
        try:
            imitation = pretrained(config, folder, scenes)
            agent = finetuned(config, folder / AGENT, imitation, scenes, scorer)
        except KeyboardInterrupt:
            print(
                f"\nGo on from the last checkpoint with\n  dipole train {shlex.join([f'resume={folder}'])}", flush=True
            )
            raise
        report([*baselines(imitation, agent, held_out, scorer, config)], agent, held_out, scorer, config, folder)
    print(f"\nThe run is in\n  {folder}/")


def claimed_folder(config: DictConfig, folder: Path, opened: ExitStack, go_on: bool, named: bool) -> Path:
    """The run's folder, which nobody else writes until ``opened`` is closed; see :func:`train`."""
    if not named and not go_on and not config.replace:
        folder = claim.claim_free(folder, opened, run_folder.is_used)
        config.run_dir = str(folder)
        return folder
    if go_on and not named:
        raise ValueError("resume=auto needs the same folder at every start; expected run_dir=FOLDER")
    new = not go_on and not config.replace
    if new:
        run_folder.require_unused(folder)  # nothing of a run that is refused is touched
    opened.enter_context(claim.claimed(folder, "wait for it, stop it, or give another run_dir"))
    if new:
        run_folder.require_unused(folder)  # it may have ended just before the claim
    elif not go_on:
        if config.imitation is not None and Path(config.imitation).resolve().is_relative_to(folder.resolve()):
            raise ValueError(
                f"imitation is {config.imitation}, which replace=true would remove with {folder}; give another run_dir"
            )
        for old in (IMITATION, AGENT, *METHODS):  # those of a demo are named after their method
            shutil.rmtree(folder / old, ignore_errors=True)
        for old in (f"{SWEEP}.csv", f"{SWEEP}.png", PLANS):
            (folder / old).unlink(missing_ok=True)
    elif run_folder.is_used(folder):
        _require_same_options(folder, config)
    return folder


def _require_same_options(folder: Path, config: DictConfig) -> None:
    """Refuses to go on with other options, which the agents of the folder would not have learned with.

    :raises ValueError: the message names the option.
    """
    require_same(folder, _fixed_options(config), _fixed_options(run_folder.read_config(folder)))


def _fixed_options(config: DictConfig) -> dict[str, Any]:
    options: Any = OmegaConf.to_container(config, resolve=True)
    learned = {name: options.get(name) for name in ("task", "agent", "imitation", "pretrain", "finetune", "seed")}
    return {name: value for name, value in dotted(learned) if name not in ("agent.device", "agent.verbose")}


def pretrained(config: DictConfig, folder: Path, scenes: Scenes) -> DPVLA:
    """The agent after imitation: taken from elsewhere, or pre-trained, or its pre-training ended."""
    from dipole_sb3.driving import DPVLA

    options = {"device": config.agent.device, "tensorboard_log": folder, "verbose": config.agent.verbose}
    if config.imitation is not None:
        return DPVLA.load(agent_folder(Path(config.imitation), (IMITATION, AGENT)), scenes, **options)
    own = folder / IMITATION
    if (own / MANIFEST).is_file():
        with _course(config, folder) as course:
            return DPVLA.resume(own, scenes, **options, **course)
    agent = DPVLA(
        config.agent.configuration,
        scenes,
        florence=config.agent.florence,
        seed=config.seed,
        precision=config.agent.precision,
        **options,
    )
    with _course(config, folder) as course:
        return agent.pretrain(**config.pretrain, save_path=own, **course)


def finetuned(config: DictConfig, own: Path, imitation: DPVLA, scenes: Scenes, scorer: Scorer) -> DPVLA:
    """The agent after fine-tuning, begun or ended; imitation itself where there is none.

    :param own: folder of the agent.
    """
    from dipole_sb3.driving import DPVLA

    if config.finetune.method is None:
        return imitation
    options = {"device": config.agent.device, "tensorboard_log": own.parent, "verbose": config.agent.verbose}
    if (own / MANIFEST).is_file():
        with _course(config, own.parent) as course:
            return DPVLA.resume(own, scenes, scorer=scorer, **options, **course)
    source = agent_folder(Path(config.imitation), (IMITATION,)) if config.imitation else own.parent / IMITATION
    agent = DPVLA.load(source, scenes, **options)
    with _course(config, own.parent) as course:
        return agent.finetune(**config.finetune, scorer=scorer, save_path=own, **course)


@contextmanager
def _course(config: DictConfig, folder: Path) -> Iterator[dict[str, Any]]:
    """Options of a training that Ctrl-C, SIGTERM and SIGUSR1 stop between two updates.

    :raises SystemExit: one did; the training is saved.
    """
    from dipole_sb3.driving.training.loop import TrainingStopped

    shown = sys.stdout.isatty() if config.progress_bar is None else config.progress_bar
    stopped = "Stopped"
    with StopOnSignal() as signals:
        try:
            yield {
                "progress_bar": shown,
                "log_interval": config.log_interval,
                "save_freq": config.save_freq,
                "stop": lambda: signals.stopped_by is not None,
            }
        except TrainingStopped as error:
            stopped = f"{error}; saved"
    if signals.stopped_by is not None:
        print(f"\n{stopped}\nGo on with\n  dipole train {shlex.quote(f'resume={folder}')}", flush=True)
        raise SystemExit(exit_status(signals.stopped_by))


def baselines(imitation: DPVLA, agent: DPVLA, scenes: Scenes, scorer: Scorer, config: DictConfig) -> list[Evaluated]:
    """Rows beside which an agent is read: where the cars really went, and imitation."""
    from dipole_sb3.driving.evaluation import Evaluated, score_agent, score_experts

    rows = [Evaluated("recorded", None, score_experts(scenes, scorer))]
    if agent is not imitation:
        # Before fine-tuning the pair is one policy, so that ω changes nothing.
        scores = score_agent(imitation, scenes, scorer, 0.0, num_plans=config.num_plans, seed=config.eval_seed)
        rows.append(Evaluated(NAMES[None], None, scores))
    return rows


def report(
    others: Sequence[Evaluated], agent: DPVLA, scenes: Scenes, scorer: Scorer, config: DictConfig, folder: Path
) -> None:
    """Evaluates an agent over ω, prints the table, and writes it and its picture."""
    from dipole_sb3.driving import evaluation
    from dipole_sb3.plots import driving as plots

    omegas = [float(omega) for omega in config.omegas] if agent.method is not None else [0.0]
    rows = evaluation.sweep(
        agent, scenes, scorer, omegas, policy=NAMES[agent.method], num_plans=config.num_plans, seed=config.eval_seed
    )
    evaluation.write_table([*others, *rows], folder / f"{SWEEP}.csv")
    print(f"\n{evaluation.text([*others, *rows])}")
    if config.pictures and len(rows) > 1:
        plots.plot_sweep(rows, folder / f"{SWEEP}.png", others)


def evaluate_command(arguments: list[str]) -> int:
    """``dipole evaluate model=FOLDER`` for a driving agent."""
    return hydra_command.run("driving_evaluation", evaluate, arguments, called="evaluate")


def evaluate(config: DictConfig, _: Path) -> None:
    """Prints the table over ω and writes it, with its picture, to a new folder beside the agent, or to ``out``."""
    from dipole_sb3.driving import DPVLA, load_scenes
    from dipole_sb3.driving.score import ScoringPool

    pictures.require_matplotlib(config)
    check_omegas(config.omegas)
    model = Path(config.model)
    run = model if is_run(model) else model.parent
    task = run_folder.read_config(run).task if is_run(run) else OmegaConf.create({"scenes": None, "dataset_dir": None})
    name, where = config.scenes or task.scenes, config.dataset_dir or task.dataset_dir
    if name is None:
        raise ValueError(f"{model}: no {run_folder.CONFIG} beside it names scenes; give scenes=NAME or FOLDER")
    scenes = load_scenes(name, config.split, dataset_dir=where, limit=config.limit)
    agent = DPVLA.load(agent_folder(model, (AGENT, IMITATION)), device=config.device)
    folder = Path(config.out) if config.out else run_folder.new_evaluation(run)
    with ScoringPool(config.processes) as scorer:
        report(baselines(agent, agent, scenes, scorer, config), agent, scenes, scorer, config, folder)
    print(f"\nThe table is in {folder / f'{SWEEP}.csv'}")


def find_agent(path: Path, parts: Sequence[str]) -> Path | None:
    """As :func:`agent_folder`; None: there is no agent."""
    return next((folder for folder in (path, *(path / part for part in parts)) if (folder / MANIFEST).is_file()), None)


def agent_folder(path: Path, parts: Sequence[str]) -> Path:
    """The folder of an agent: the path itself, or the first of these parts that a run has.

    :raises FileNotFoundError: there is no agent.
    """
    folder = find_agent(path, parts)
    if folder is not None:
        return folder
    raise FileNotFoundError(
        f"{path}: no driving agent in it ({MANIFEST}); expected the folder of a run, or of an agent"
    )
