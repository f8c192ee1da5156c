"""Flow advantage-weighted actor-critic: a flow cloned with exponential weights."""
