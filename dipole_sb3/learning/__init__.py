"""Learning, shared by all algorithms: SB3's API, updates of one or several runs, checkpoints, logs, profiles."""
