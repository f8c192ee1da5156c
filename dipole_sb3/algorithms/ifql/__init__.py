"""Implicit flow Q-learning: values by expectile regression, a cloned flow, and the critics' choice of its samples."""
