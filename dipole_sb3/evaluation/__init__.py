"""Playing episodes with trained models: sweeps over what can be turned, in this process or in the background."""
