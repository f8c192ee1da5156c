"""The card of a model on the Hugging Face hub: what it is, what it reaches, what it learned from, how to use it."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium
from stable_baselines3.common.utils import get_system_info

from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common.public_names import public_name, without_folders
from dipole_sb3.common.version import VERSION
from dipole_sb3.learning import hub
from dipole_sb3.learning.knobs import Knob

_LIBRARIES = {
    "Python": "Python",
    "Stable-Baselines3": "stable-baselines3",
    "PyTorch": "torch",
    "Gymnasium": "gymnasium",
    "Numpy": "numpy",
}
"""SB3's names for what a model depends on → the packages' own."""

_FACTS = {
    "transitions": "transitions",
    "data_episodes": "episodes",
    "data_return_mean": "mean return of an episode",
    "algorithm": "recording agent",
    "agent_return_mean": "mean return of the recording agent, in the end",
    "command": "made by",
    "date": "made on",
    "checksum": "checksum (SHA-256 over the transitions)",
}
"""What a card tells about data, of all that their file says: no paths, nor whatever else may stand there."""


class Cell(Protocol):
    """A row of an evaluation: :class:`~dipole_sb3.evaluation.sweep.SweepRow`."""

    @property
    def setting(self) -> Mapping[str, float]: ...
    @property
    def episodes(self) -> int: ...
    @property
    def return_mean(self) -> float: ...
    @property
    def return_low(self) -> float: ...
    @property
    def return_high(self) -> float: ...
    @property
    def success_mean(self) -> float | None: ...
    @property
    def success_low(self) -> float | None: ...
    @property
    def success_high(self) -> float | None: ...


class Evaluation(Protocol):
    """What :func:`~dipole_sb3.evaluate_sweep` returns."""

    @property
    def rows(self) -> Sequence[Cell]: ...


@dataclass(frozen=True)
class Story:
    """What a card tells beside the model itself. Nothing of it has to be known.

    :param environment: name of the environment in which it was evaluated.
    :param cells: its evaluation.
    :param dataset: name of the data.
    :param data: facts about the data, as ``dataset.json`` of a run has them.
    :param command: what made the model.
    :param versions: of the software that made it; empty: that which runs now.
    :param pictures: path in the repository → what is seen.
    :param bundles: paths of bundles in the repository.
    :param licence: the hub's identifier of a licence, such as ``"mit"``.
    """

    environment: str | None = None
    cells: Sequence[Cell] = ()
    dataset: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    command: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, str] = field(default_factory=dict)
    bundles: Sequence[str] = ()
    licence: str | None = None


def data_facts(dataset: OfflineReplayBuffer) -> dict[str, Any]:
    """What is known about data: their provenance, their number and their checksum."""
    return {**dataset.metadata, "transitions": dataset.n_transitions, "checksum": dataset.checksum}


def story_of(model: Any, evaluation: Evaluation | None, licence: str | None) -> Story:
    """What is known about a model without the folder of a run."""
    cells = () if evaluation is None else evaluation.rows
    if not isinstance(model.dataset, OfflineReplayBuffer):
        return Story(cells=cells, licence=licence)
    facts = data_facts(model.dataset)
    return Story(facts.get("env_id"), cells, public_name(model.dataset.source), facts, licence=licence)


def versions_in(system_info: str) -> dict[str, str]:
    """Package → version, from the text that SB3 puts into its models."""
    found = dict(line[2:].split(": ", 1) for line in system_info.splitlines() if line.startswith("- ") and ": " in line)
    return {package: found[name] for name, package in _LIBRARIES.items() if name in found}


def write_card(model: Any, repo_id: str, story: Story) -> str:
    """The text of the README.md: metadata that the hub reads, then Markdown.

    :param model: a trained model.
    :param repo_id: ``USER/NAME``.
    """
    sections = [
        _introduction(model, story),
        _results(model, story),
        _use(model, repo_id, story),
        _data(story),
        _training(model, story),
    ]
    return f"---\n{_metadata(model, repo_id, story)}\n---\n\n" + "\n\n".join(filter(None, sections)) + "\n"


def _metadata(model: Any, repo_id: str, story: Story) -> str:
    """The YAML at the head of the card."""
    cards, algorithm = hub.library().repocard_data, type(model).__name__
    results = []
    if story.environment is not None:
        own = _own_setting(model)
        # The hub's lists show the first one: what predict() does unless it is told otherwise.
        for cell in sorted(story.cells, key=lambda cell: cell.setting != own):
            of = {
                "task_type": "reinforcement-learning",
                "task_name": "reinforcement-learning",
                "dataset_type": story.environment,
                "dataset_name": story.environment,
            }
            for kind, name, values in _metrics(cell):
                title = ", ".join([name, *(_equation(model, *item) for item in cell.setting.items())])
                results.append(
                    cards.EvalResult(
                        **of,
                        metric_type=kind,
                        metric_name=title,
                        metric_value=_rounded(values[0]),
                        metric_args=_metric_arguments(model, cell, values),
                    )
                )
    tags = [
        "reinforcement-learning",
        "deep-reinforcement-learning",
        "offline-reinforcement-learning",
        "stable-baselines3",
        "dipole-sb3",
        algorithm.lower(),
        *([] if story.environment is None else [story.environment]),
    ]
    data = cards.ModelCardData(
        library_name="dipole-sb3",
        pipeline_tag="reinforcement-learning",
        license=story.licence,
        tags=tags,
        model_name=repo_id.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml())


def _metrics(cell: Cell) -> list[tuple[str, str, tuple[float, float, float]]]:
    """(The hub's kind of metric, its name, (mean, low, high)) of a cell; success first."""
    found = [("mean_reward", "return", (cell.return_mean, cell.return_low, cell.return_high))]
    if cell.success_mean is not None and cell.success_low is not None and cell.success_high is not None:
        found.insert(0, ("success_rate", "success", (cell.success_mean, cell.success_low, cell.success_high)))
    return found


def _metric_arguments(model: Any, cell: Cell, values: tuple[float, float, float]) -> dict[str, Any]:
    setting = {knob.name: knob.checked(cell.setting[knob.name]) for knob in model.policy.knobs}
    known = {} if math.isnan(values[1]) else {"interval_95": [_rounded(values[1]), _rounded(values[2])]}
    return {**setting, "episodes": cell.episodes, **known}


def _rounded(value: float) -> float:
    return round(float(value), 4)


def _introduction(model: Any, story: Story) -> str:
    algorithm = type(model).__name__
    first, *others = (inspect.getdoc(type(model)) or "").split("\n\n")
    paper = re.search(r"arXiv (\d{4}\.\d{5})", first)
    cited = f" ([arXiv {paper[1]}](https://arxiv.org/abs/{paper[1]}))" if paper else ""
    how = f" {' '.join(others[0].split())}" if others and paper else ""
    lines = [
        f"# {algorithm}{f' on {story.environment}' if story.environment else ''}",
        f"A policy of {algorithm}{cited}, learned from recorded data with dipole-sb3.{how}",
    ]
    return "\n\n".join([*lines, *(f"![{seen}]({path})" for path, seen in story.pictures.items())])


def _results(model: Any, story: Story) -> str:
    knobs: Sequence[Knob] = model.policy.knobs
    meanings = [f"- **{knob.symbol}**, `model.{knob.name}`: {_meaning(model, knob)}." for knob in knobs]
    if not story.cells:
        return "\n\n".join(["## What can be turned", "\n".join(meanings)]) if meanings else ""
    parts = ["## What it reaches"]
    kinds = [name for _, name, _ in _metrics(story.cells[0])]
    for index, kind in enumerate(kinds):
        title = "Success rate" if kind == "success" else "Return of an episode"
        parts += [
            f"{title}, with its 95 % interval; the same {story.cells[0].episodes} starts in every cell:",
            _table(model, story.cells, index),
        ]
    if any(cell.setting == _own_setting(model) for cell in story.cells) and knobs:
        parts.append("In bold: the model's own setting, with which it acts unless it is turned.")
    return "\n\n".join([*parts, *(["\n".join(meanings)] if meanings else [])])


def _table(model: Any, cells: Sequence[Cell], metric: int) -> str:
    """The first knob's values down, the combinations of the others across."""
    lines: dict[str, list[str]] = {}
    across: dict[str, None] = {}
    own = _own_setting(model)
    for cell in cells:
        first, *others = cell.setting.items() or [("", 0.0)]
        kind, _, values = _metrics(cell)[metric]
        text = _with_interval(values, percent=kind == "success_rate")
        down = _number(first[1]) if first[0] else ""
        lines.setdefault(down, [down]).append(f"**{text}**" if own and cell.setting == own else text)
        across[", ".join(_equation(model, *item) for item in others) or "mean"] = None
    symbol = _symbol(model, next(iter(cells[0].setting), ""))
    rows = [[symbol, *across], ["--:"] * (1 + len(across)), *lines.values()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _with_interval(values: tuple[float, float, float], percent: bool) -> str:
    mean, low, high = (f"{100 * value:.0f}" if percent else _number(value, ".2f") for value in values)
    mean += " %" if percent else ""
    return mean if math.isnan(values[1]) else f"{mean} [{low}, {high}]"


def _use(model: Any, repo_id: str, story: Story) -> str:
    algorithm, knobs = type(model).__name__, model.policy.knobs
    lines = [f"from dipole_sb3 import {algorithm}"]
    if story.environment is not None:
        lines.append("from dipole_sb3.datasets import make_env")
    lines += ["", f'model = {algorithm}.from_hub("{repo_id}")    # JSON and safetensors: nothing in it can run']
    if knobs:
        own = getattr(model, knobs[0].name)
        lines.append(f"model.{knobs[0].name} = {own}    # {knobs[0].title}: turn it at any time, nothing is trained")
    if story.environment is None:
        lines.append("action, _ = model.predict(observation)")
    else:
        lines += [
            "",
            f'env = make_env("{story.environment}")',
            "observation, _ = env.reset()",
            "done = False",
            "while not done:",
            "    action, _ = model.predict(observation)",
            "    observation, reward, terminated, truncated, _ = env.step(action)",
            "    done = terminated or truncated",
        ]
    parts = [
        "## How to use it",
        f'```bash\npip install "dipole-sb3[{",".join(["hub", *_extras_of(story.environment)])}]"\n```',
        "```python\n" + "\n".join(lines) + "\n```",
    ]
    if story.bundles:
        bundle = story.bundles[0]
        included = bundle if bundle.endswith(".dipole") else f'--include "{bundle}/*"'
        turned = f", {knobs[0].name}={getattr(model, knobs[0].name)}" if knobs and knobs[0].name == "omega" else ""
        parts += [
            "On a robot, without torch, from the exported bundle:",
            f"```bash\npip install dipole-runtime\nhf download {repo_id} {included} --local-dir .\n```",
            "```python\nfrom dipole_runtime import GuidedPolicy\n\n"
            f'policy = GuidedPolicy.load("{bundle}")\n'
            f"decision = policy.act(observation{turned})    # raw observation in, actuator units out\n```",
        ]
    return "\n\n".join(parts)


def _extras_of(environment: str | None) -> list[str]:
    """The extras of this package that an environment needs."""
    known = gymnasium.registry.get(environment or "")
    if known is not None and "mujoco" in str(known.entry_point):
        return ["record"]
    return [name for name in ("ogbench", "exorl") if (environment or "").startswith(f"{name}/")]


def _data(story: Story) -> str:
    facts = {"name": story.dataset, **{label: story.data.get(key) for key, label in _FACTS.items()}}
    known = {label: value for label, value in facts.items() if isinstance(value, str | int | float)}
    return f"## What it learned from\n\n{_pairs(known)}" if known else ""


def _training(model: Any, story: Story) -> str:
    rate = model.learning_rate
    numbers = {
        "updates": model._n_updates,
        **({} if model.num_timesteps == model._n_updates else {"timesteps": model.num_timesteps}),
        **model.hyperparameters(),
        **({"learning_rate": rate} if isinstance(rate, int | float) else {}),
        **{name: getattr(model, name) for name in model.arguments_of_policy},
        "net_arch": model.policy.net_arch,
        "seed": model.seed,
    }
    versions = story.versions or versions_in(get_system_info(print_info=False)[1])
    software = ", ".join(f"{name} {version}" for name, version in {"dipole-sb3": VERSION, **versions}.items())
    made = [] if story.command is None else [f"```bash\n{without_folders(story.command)}\n```"]
    return "\n\n".join(["## How it was made", *made, _pairs(numbers), f"With {software}."])


def _pairs(values: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {_cell_text(value)} |" for name, value in values.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _cell_text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        text = without_folders(" ".join(str(value).split())).replace("|", r"\|")
        return f"`{text}`" if isinstance(value, str) else text
    return f"{value:,}" if isinstance(value, int) else _number(value)


def _own_setting(model: Any) -> dict[str, float]:
    return {knob.name: getattr(model, knob.name) for knob in model.policy.knobs}


def _meaning(model: Any, knob: Knob) -> str:
    """What the knob's property says about it."""
    said = (inspect.getdoc(getattr(type(model), knob.name, None)) or knob.title).replace("``", "`")
    return said[0].lower() + said[1:]


def _symbol(model: Any, name: str) -> str:
    return next((knob.symbol for knob in model.policy.knobs if knob.name == name), name)


def _equation(model: Any, name: str, value: float) -> str:
    return f"{_symbol(model, name)} = {_number(value)}"


def _number(value: float, form: str = "g") -> str:
    return f"{value:{form}}".replace("-", "−")
