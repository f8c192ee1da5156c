"""Implicit diffusion Q-learning: IQL's values, a cloned diffusion policy, and the critics' choice of its samples."""
