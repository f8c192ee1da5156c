"""Plays episodes with trained models: sweeps over knob values, in this process or in the background."""
