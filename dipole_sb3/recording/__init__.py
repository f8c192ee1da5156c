"""Data sets recorded from agents: during their learning, or from trained agents."""
