"""``dipole data record``: records an agent, during its training or once trained, as a data set."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

_DESCRIPTION = """\
Records an agent of Stable-Baselines3, sb3-contrib or this package.

With --model, what a trained one does: as it is, with noise, or now and then at random. Observations and
rewards are the environment's own; a model that was trained in VecNormalize needs its statistics.

Without --model, every transition while an agent learns the environment from scratch, from its first random
steps to its last good ones (crossq, ddpg, sac, td3, tqc; on the CPU, at its library's defaults).

Where the data come from is kept with them: versions, options, checksums, returns with 95 % intervals; in
FILE.json beside FILE.npz, and in the metadata of a folder."""

_EXAMPLES = """\
examples:
  dipole data record --algo sac --model sac.zip --env Hopper-v5 --steps 100000 --out hopper
  dipole data record --algo ppo --model ppo.zip --vec-normalize stats.pkl --env Hopper-v5 --out hopper
  dipole data record --algo td3 --model td3.zip --env Reacher-v5 --noise 0.1 --n-envs 8 --out reacher
  dipole data record --algo dipole --model runs/demo --omega 2 --env Reacher-v5 --out reacher.npz

the demo's data (about two minutes):
  dipole data record --algo tqc --env Reacher-v5 --steps 10000 --seed 0 --out reacher-tqc-10k.npz"""

_DEFAULT_ENV = "Reacher-v5"
_OF_LEARNING: dict[str, Any] = {"net_arch": [128, 128]}
_OF_MODELS: dict[str, Any] = {
    "deterministic": False,
    "epsilon": 0.0,
    "n_envs": 1,
    "vec_normalize": None,
    "omega": None,
}
"""Options that are only valid with ``--model``, and their defaults; ``_OF_LEARNING`` has those without it."""


def add_parser(actions: Any) -> None:
    """Adds ``record`` to the actions of ``data``."""
    parser = actions.add_parser(
        "record",
        help="record an agent, trained or while it learns",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--algo",
        default="tqc",
        help="a2c, ars, crossq, ddpg, dipole, ppo, ppo_lstm, sac, td3, tqc (default) or trpo",
    )
    parser.add_argument(
        "--model", metavar="M", type=Path, help="a trained model's .zip file (of dipole also a run's folder)"
    )
    parser.add_argument("--env", metavar="ID", help=f"Gymnasium id, or ogbench/NAME (without --model: {_DEFAULT_ENV})")
    parser.add_argument("--steps", type=int, default=10_000, metavar="N", help="transitions (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of agent and environment (default: 0)")
    parser.add_argument("--out", required=True, metavar="FILE", help="an .npz file, or a folder for data of any size")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it is there")
    parser.add_argument(
        "--noise",
        type=float,
        nargs="+",
        default=[0.0],
        metavar="X",
        help="standard deviation of noise on the actions, in their units: one, or one for each (default: 0)",
    )
    trained = parser.add_argument_group("with --model")
    trained.add_argument("--deterministic", action="store_true", help="the most likely action instead of a drawn one")
    trained.add_argument(
        "--epsilon", type=float, default=0.0, metavar="P", help="share of uniformly random actions (default: 0)"
    )
    trained.add_argument("--n-envs", type=int, default=1, metavar="K", help="environments at a time (default: 1)")
    trained.add_argument(
        "--vec-normalize",
        metavar="F",
        type=Path,
        help="statistics saved by VecNormalize; a pickle, which can execute code: only from whom you trust",
    )
    trained.add_argument("--omega", type=float, metavar="W", help="greediness ω of dipole (default: the model's)")
    learning = parser.add_argument_group("without --model")
    learning.add_argument(
        "--net-arch",
        type=int,
        nargs="+",
        default=_OF_LEARNING["net_arch"],
        metavar="W",
        help="hidden widths (default: 128 128)",
    )


def run(options: argparse.Namespace) -> int:
    """``dipole data record``; failures raise."""
    from dipole_sb3.recording import recording_files

    learning = options.model is None
    for name, default in (_OF_MODELS if learning else _OF_LEARNING).items():
        if getattr(options, name) != default:
            found, expected = ("no --model", "one") if learning else ("--model", "none")
            raise ValueError(f"--{name.replace('_', '-')}: found {found}, expected {expected} beside this option")
    if options.env is None and not learning:
        raise ValueError("--env is missing; expected the id of the environment to record the model in")
    if Path(options.out).suffix:
        recording_files.require_output(options.out)
    return _record_learning(options) if learning else _record_model(options)


def _record_learning(options: argparse.Namespace) -> int:
    from dipole_sb3.common import checks
    from dipole_sb3.datasets import make_env, storage
    from dipole_sb3.recording import recording_files, training

    def record() -> recording_files.Recording:
        return training.record_training(
            options.algo,
            env_id,
            options.steps,
            options.seed,
            options.net_arch,
            noise=_noise(options),
            progress=True,
        )

    env_id, command = options.env or _DEFAULT_ENV, command_line(options)
    if Path(options.out).suffix:
        recording = record()
        recording_files.write_recording(recording, options.out, command)
    else:
        with make_env(env_id) as env:
            seen, acted = env.observation_space, env.action_space
        writer = storage.DatasetWriter(options.out, seen, checks.require_box_actions(acted), {}, options.overwrite)
        with writer:  # refuses an existing folder before minutes of training
            recording = record()
            writer.append(recording.arrays)
            writer.metadata.update(recording.provenance, command=shlex.join(command))
    facts = recording.provenance
    print(
        f"{options.out}: {facts['steps']} transitions, {_returns(facts)}; the final agent "
        f"reaches {facts['agent_return_mean']:.2f} [{facts['agent_return_low']:.2f}, {facts['agent_return_high']:.2f}]"
    )
    return _told_where(options.out)


def _record_model(options: argparse.Namespace) -> int:
    from dipole_sb3.cli.models import model_path
    from dipole_sb3.recording.agents import load_agent
    from dipole_sb3.recording.rollouts import record_dataset

    path = model_path(options.model)
    model: Any = load_agent(options.algo, path)
    facts = {
        "algorithm": options.algo,
        "model": str(path),
        "model_sha256": _sha256(path),
        "command": shlex.join(command_line(options)),
    }
    if options.algo == "dipole":
        model.omega = model.omega if options.omega is None else options.omega
        facts["omega"] = model.omega
    elif options.omega is not None:
        raise ValueError(f"--omega is greediness of dipole; found --algo {options.algo}")
    with ExitStack() as stack:
        env, n_envs = options.env, options.n_envs
        if options.vec_normalize is not None:
            env, n_envs = stack.enter_context(_normalized(options)), 1
            facts["vec_normalize_sha256"] = _sha256(options.vec_normalize)
        buffer = record_dataset(
            model,
            env,
            options.steps,
            options.out,
            deterministic=options.deterministic,
            noise=_noise(options),
            epsilon=options.epsilon,
            n_envs=n_envs,
            seed=options.seed,
            metadata=facts,
            overwrite=options.overwrite,
            device="cpu",
            progress=True,
        )
    found = buffer.metadata
    print(f"{options.out}: {options.steps} transitions, {_returns(found)}")
    return _told_where(options.out)


def _returns(facts: dict[str, Any]) -> str:
    count = facts["data_episodes"]
    if count == 0:
        return "no whole episode"
    if count == 1:
        return f"return of the whole episode {facts['data_return_mean']:.2f}"
    return (
        f"mean return {facts['data_return_mean']:.2f} "
        f"[{facts['data_return_low']:.2f}, {facts['data_return_high']:.2f}] of {count} whole episodes"
    )


def _told_where(out: str) -> int:
    from dipole_sb3.buffers import stored_arrays

    path = Path(out)
    print(f"{path.with_suffix('.json') if path.suffix else path / stored_arrays.DESCRIPTION}: where they come from")
    return 0


def _noise(options: argparse.Namespace) -> float | list[float]:
    noise: list[float] = options.noise
    return noise[0] if len(noise) == 1 else noise


@contextmanager
def _normalized(options: argparse.Namespace) -> Iterator[Any]:
    """The environments, wrapped in the VecNormalize saved in a file; SB3 reads it as a pickle."""
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    from dipole_sb3.common.trust import require_trust
    from dipole_sb3.datasets import make_env

    path = options.vec_normalize
    require_trust(path, "loading a VecNormalize")
    with closing(DummyVecEnv([lambda: make_env(options.env)] * options.n_envs)) as venv:
        try:
            normalized = VecNormalize.load(str(path), venv)
        except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError) as error:
            raise ValueError(
                f"{path}: holds no VecNormalize ({error}); expected a file written by its save()"
            ) from error
        except AssertionError as error:
            raise ValueError(f"{path}: its statistics are of other observations than those of {options.env}") from error
        yield normalized


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def command_line(options: argparse.Namespace) -> list[str]:
    """The command line, rebuilt from the options; defaults are left out, except those that the data depend on most."""
    words = ["dipole", "data", "record", "--algo", options.algo]
    if options.model is not None:
        words += ["--model", str(options.model)]
    words += ["--env", options.env or _DEFAULT_ENV, "--steps", str(options.steps), "--seed", str(options.seed)]
    for name, default in {**_OF_LEARNING, **_OF_MODELS, "noise": [0.0], "overwrite": False}.items():
        value = getattr(options, name)
        if value == default:
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words += map(str, value if isinstance(value, list) else [value])
    return [*words, "--out", options.out]
