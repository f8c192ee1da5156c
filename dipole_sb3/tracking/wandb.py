"""Weights & Biases."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import wandb

from dipole_sb3.tracking.tracker import Tracker


class WandbWriter(Tracker):
    """Sends a run to Weights & Biases; its files lie in the run's folder.

    :param run_folder: folder of the run.
    :param run_config: its configuration.
    :param run_group: name that the seeds of one setting share.
    :param project: name of the project.
    :param entity: user or team; None: yours.
    :param group: None: ``run_group``.
    :param tags: of the run.
    :param mode: ``"online"``, ``"offline"`` (for ``wandb sync``) or ``"disabled"``; None: as WANDB_MODE says.
    :raises ValueError: W&B refuses to start, e.g. because nobody has logged in.
    """

    def __init__(
        self,
        run_folder: Path,
        run_config: Mapping[str, Any],
        run_group: str,
        project: str = "dipole-sb3",
        entity: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
    ) -> None:
        super().__init__(run_folder, f"wandb/{project}")
        identifier = self.known_id or secrets.token_hex(4)
        try:
            self.run = wandb.init(
                project=project,
                entity=entity,
                group=group or run_group,
                tags=tags,
                mode=mode,
                id=identifier,
                resume="allow",
                name=str(run_folder),
                config=dict(run_config),
                dir=str(run_folder.resolve()),  # its service keeps the directory in which it was started
                reinit="create_new",  # seeds that learn together have a run each
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.Error as error:
            raise ValueError(f"Weights & Biases does not start: {error}; mode=offline needs no account") from error
        self.keep_id(identifier)

    def send(self, values: Mapping[str, float], step: int) -> None:
        """Logs the numbers at their timestep."""
        self.run.log(dict(values), step=step)

    def write_result(self, values: Mapping[str, float], step: int) -> None:
        """Writes the evaluation into the run's summary, where W&B's tables of runs show it."""
        self.try_to(lambda: self.run.summary.update(dict(values)))

    def end(self) -> None:
        """Sends what is left; W&B calls a run that was stopped and may go on "preempted"."""
        if self.outcome == "stopped":
            self.run.mark_preempting()
        self.run.finish(exit_code=int(self.outcome != "finished"))
