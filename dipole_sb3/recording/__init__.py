"""Data sets made by playing agents: while they learn, or as they are."""
