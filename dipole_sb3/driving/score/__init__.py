"""NAVSIM's PDM score (v1.1): a plan is driven by a tracked, simulated car, and what that car does is scored."""

from dipole_sb3.driving.score.driving import STATES, driven
from dipole_sb3.driving.score.epdms import ExtendedScores, extended_scores
from dipole_sb3.driving.score.pdms import score_plans
from dipole_sb3.driving.score.pool import ScoringPool

__all__ = ["STATES", "ExtendedScores", "ScoringPool", "driven", "extended_scores", "score_plans"]
