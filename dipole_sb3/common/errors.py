"""Errors that users meet; each carries one sentence: what, where, found, expected."""


class DatasetError(ValueError):
    """Recorded data that is missing, malformed, or disagrees with the environment."""


def first_line(error: BaseException) -> str:
    """What went wrong, in one line: of the message, or the error's kind where there is none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
