"""How any algorithm learns: Stable-Baselines3's contract, updates of one run or many, checkpoints, logs, profiles."""
