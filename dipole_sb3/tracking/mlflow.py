"""MLflow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from dipole_sb3.tracking.tracker import Tracker

_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}

_MOST_PARAMETERS = 100
"""MLflow takes no more at a time."""


class MlflowWriter(Tracker):
    """Sends a run to MLflow.

    :param run_folder: folder of the run.
    :param run_options: its options by dotted name.
    :param run_group: name that the seeds of one setting share, the tag ``group``.
    :param experiment: name of the experiment; made if it is not there.
    :param tracking_uri: e.g. ``sqlite:///mlflow.db`` or a server's; None: as MLFLOW_TRACKING_URI says.
    :raises ValueError: MLflow cannot be reached, or refuses to start.
    """

    def __init__(
        self,
        run_folder: Path,
        run_options: Mapping[str, Any],
        run_group: str,
        experiment: str = "dipole-sb3",
        tracking_uri: str | None = None,
    ) -> None:
        super().__init__(run_folder, f"mlflow/{experiment}")
        try:
            self._client = MlflowClient(tracking_uri=tracking_uri)
            self.run_id = self.known_id or self._begun(experiment, run_options, run_group)
            self._client.update_run(self.run_id, status="RUNNING")
        except MlflowException as error:
            raise ValueError(f"MLflow does not start: {' '.join(str(error).split())}") from error
        self.keep_id(self.run_id)

    def _begun(self, experiment: str, run_options: Mapping[str, Any], run_group: str) -> str:
        known = self._client.get_experiment_by_name(experiment)
        number = self._client.create_experiment(experiment) if known is None else known.experiment_id
        run = self._client.create_run(number, run_name=str(self.run_folder), tags={"group": run_group})
        parameters = [Param(name, str(value)) for name, value in run_options.items()]
        for start in range(0, len(parameters), _MOST_PARAMETERS):
            self._client.log_batch(run.info.run_id, params=parameters[start : start + _MOST_PARAMETERS])
        return str(run.info.run_id)

    def send(self, values: Mapping[str, float], step: int) -> None:
        """Logs the numbers at their timestep."""
        now = int(1000 * time.time())
        self._client.log_batch(self.run_id, metrics=[Metric(*each, now, step) for each in values.items()])

    def end(self) -> None:
        """Says that the run is over, and how it ended."""
        self._client.set_terminated(self.run_id, _STATUS[self.outcome])
