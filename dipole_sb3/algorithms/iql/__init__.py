"""Implicit Q-learning: values by expectile regression, a deterministic policy by weighted regression."""
