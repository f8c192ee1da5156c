"""Programs for the robot's side: they use :mod:`dipole_runtime` only, without any code for training."""
