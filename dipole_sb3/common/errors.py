"""Errors that users meet; each carries one sentence: what, where, found, expected."""


class DatasetError(ValueError):
    """Recorded data that is missing, malformed, or disagrees with the environment."""
