"""Flow Q-learning: a policy of one step, distilled from a cloned flow while the critics pull at it."""
