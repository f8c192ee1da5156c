"""Driving scenes in the layout of NAVSIM's data: a loader that runs nothing of what it reads, and scenes made here."""

from dipole_sb3.driving.scenes.generation import make_scenes
from dipole_sb3.driving.scenes.loading import Scene, Scenes, load_scenes

__all__ = ["Scene", "Scenes", "load_scenes", "make_scenes"]
