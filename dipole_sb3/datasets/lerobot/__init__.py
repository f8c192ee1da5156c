"""LeRobot's data sets, v2.1 and v3.0: parquet files of frames, read and written without LeRobot."""

from dipole_sb3.datasets.lerobot.exporting import export
from dipole_sb3.datasets.lerobot.layout import is_one
from dipole_sb3.datasets.lerobot.loading import load, read

__all__ = ["export", "is_one", "load", "read"]
