"""Trackio."""

from __future__ import annotations

import contextvars
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trackio

from dipole_sb3.tracking.tracker import Tracker


class TrackioWriter(Tracker):
    """Sends a run to Trackio: to its local store, or to a Space on the Hugging Face hub.

    :param run_folder: folder of the run.
    :param run_options: its options by dotted name.
    :param run_group: name that the seeds of one setting share.
    :param project: name of the project.
    :param group: None: ``run_group``.
    :param space_id: a Space, ``user/name``; None: the local store, in the folder TRACKIO_DIR.
    """

    def __init__(
        self,
        run_folder: Path,
        run_options: Mapping[str, Any],
        run_group: str,
        project: str = "dipole-sb3",
        group: str | None = None,
        space_id: str | None = None,
    ) -> None:
        super().__init__(run_folder, f"trackio/{project}")
        # Trackio finds a run again by its name, and folders of other projects may be called alike.
        name = self.known_id or f"{run_folder.name}-{secrets.token_hex(2)}"
        # init() ends the run of its context that is open: seeds that learn together have a context each.
        self.run = contextvars.Context().run(
            trackio.init,
            project=project,
            name=name,
            group=group or run_group,
            space_id=space_id,
            config=dict(run_options),
            resume="never" if self.known_id is None else "must",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self.keep_id(name)

    def send(self, values: Mapping[str, float], step: int) -> None:
        """Logs the numbers at their timestep."""
        self.run.log(dict(values), step=step)

    def end(self) -> None:
        """Waits until all is stored."""
        self.run.finish()
