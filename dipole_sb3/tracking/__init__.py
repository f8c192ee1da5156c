"""Entries for ``loggers:`` and ``callbacks:``: experiment trackers, and pruning by Optuna."""
