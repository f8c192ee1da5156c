"""All pictures; drawing needs the extra ``plots``."""

from dipole_sb3.plots.acting import choose_observation, plot_actions
from dipole_sb3.plots.curves import plot_curves, plot_settings
from dipole_sb3.plots.film import plot_film_strip, write_animation
from dipole_sb3.plots.reacher import plot_paths, write_arm_animation
from dipole_sb3.plots.results import plot_cells, plot_sweep, plot_weights, recorded_advantages

__all__ = [
    "choose_observation",
    "plot_actions",
    "plot_cells",
    "plot_curves",
    "plot_film_strip",
    "plot_paths",
    "plot_settings",
    "plot_sweep",
    "plot_weights",
    "recorded_advantages",
    "write_animation",
    "write_arm_animation",
]
