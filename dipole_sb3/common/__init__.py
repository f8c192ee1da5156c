"""What every other folder stands on: checks, errors, observations, files, random state. It imports none of them."""
