"""Hydra's configuration tree, installed as the package dipole_sb3.configs."""
