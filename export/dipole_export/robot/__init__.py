"""What runs on the robot's side: programs that know :mod:`dipole_runtime` and nothing of training."""
