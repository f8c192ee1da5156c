"""Turns errors into one sentence for the user."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence

import gymnasium
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from dipole_sb3.cli.configuration import driving_option_names, option_names, task_names

USER_ERRORS: tuple[type[Exception], ...] = (
    HydraException,
    OmegaConfBaseException,
    ValueError,
    OSError,
    ImportError,
    gymnasium.error.Error,
)
"""Errors caused by the command line, the data or the machine: one sentence helps more than a traceback."""

_EXTRAS = {
    "sb3_contrib": "record",
    "mujoco": "record",
    "minari": "minari",
    "ogbench": "ogbench",
    "dm_control": "exorl",
    "h5py": "hdf5",
    "pyarrow": "lerobot",
    "fsspec": "remote",
    "aiohttp": "remote",
    "gcsfs": "remote",
    "huggingface_hub": "remote",
    "s3fs": "remote",
    "highway-env": "driving",
    "shapely": "driving",
    "matplotlib": "plots",
    "rliable": "benchmark",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
    "dipole_runtime": "export",
    "dipole_policy": "bags",
    "ray": "ray",
    "rosbags": "bags",
    "highway_env": "driving",
    "accelerate": "driving",
    "peft": "driving",
    "transformers": "driving",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "trackio": "trackio",
    "optuna": "optuna",
}
"""Package → the extra of the distribution that installs it."""

_full_trace_wanted = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")


def full_trace_wanted() -> bool:
    """Whether the user asked for tracebacks with Hydra's environment variable HYDRA_FULL_ERROR."""
    return _full_trace_wanted


def was_interrupted(error: BaseException) -> bool:
    """Whether Ctrl-C caused the error: interrupted code, e.g. torch.save, can raise another error in its cleanup."""
    while not isinstance(error, KeyboardInterrupt):
        if error.__context__ is None:
            return False
        error = error.__context__
    return True


def sentence(error: Exception, arguments: Sequence[str] = ()) -> str:
    """The error on one line, with the nearest known names if a name was wrong.

    :param arguments: the command line; its ``algo=`` decides which algorithm's options are known.
    """
    if isinstance(error, MissingConfigException) and str(error.missing_cfg_file or "").startswith("task/"):
        name = str(error.missing_cfg_file).removeprefix("task/")
        near = difflib.get_close_matches(name, task_names(), n=3, cutoff=0.5)
        return f"there is no task={name}; {_listed(near) or 'known are ' + ', '.join(task_names())}"
    text = str(error)
    if match := re.search(r"Could not override '([^']+)'|Key '([^']+)' is not in struct", text):
        name = match[1] or match[2]
        near = [option for option in _near_options(name, arguments) if option != name]
        return f"there is no option {name} here; {_listed(near) or '`dipole COMMAND --help` lists them'}"
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return f"the option {match[1]} is missing; give {match[1]}=VALUE"
    if isinstance(error, OmegaConfBaseException) and error.full_key and error.msg:
        return f"{error.full_key}: {error.msg.splitlines()[0]}"
    if isinstance(error, MissingConfigException) and error.options:
        return f"there is no {error.missing_cfg_file}; known are {', '.join(error.options)}"
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return " ".join(text.split("\n")[0].split())
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        extra = _EXTRAS[error.name]
        return f"the package {error.name} is not installed; it comes with pip install 'dipole-sb3[{extra}]'"
    return " ".join(text.split()) or type(error).__name__


def _listed(near: list[str]) -> str:
    return f"nearest: {', '.join(near)}" if near else ""


def _near_options(name: str, arguments: Sequence[str]) -> list[str]:
    """Options with a similar last part: both ``beta`` and ``algo.bta`` find ``algo.beta``."""
    last = name.rsplit(".", 1)[-1]
    chosen = [argument.removeprefix("algo=") for argument in arguments if argument.startswith("algo=")]
    if any(argument.startswith(("task=driving/", "driving=")) for argument in arguments):
        options = driving_option_names()
    else:
        options = option_names(chosen[-1] if chosen else None)
    by_last = {option: option.rsplit(".", 1)[-1] for option in options}
    close = set(difflib.get_close_matches(last, by_last.values(), n=3, cutoff=0.7))
    return [option for option, end in by_last.items() if end in close][:3]
