"""The algorithms, one folder each: algorithm.py (the class), policies.py (networks, acting), losses.py (one update)."""
