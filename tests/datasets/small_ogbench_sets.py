"""The small OGBench sets that the tests of this folder share."""

SMALL_SETS = {
    "cube-double-play": (3, 40),
    "scene-play": (2, 40),
    "puzzle-3x3-play": (2, 40),
    "pointmaze-medium-navigate": (10, 300),
}
"""Training episodes and steps per episode of each set."""
