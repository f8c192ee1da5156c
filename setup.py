"""The text of the package's page; everything else is in pyproject.toml.

It is the README, in which links and pictures that only a checkout has beside it become the names of their files.
"""

import re
from pathlib import Path

from setuptools import setup


def page(readme: str) -> str:
    named = re.sub(r"!?\[([^]]*)\]\((?!https?:)([^)#]+)[^)]*\)", lambda link: name(*link.groups()), readme)
    return named + "\nThe files named here (`docs/`, `examples/`, …) are in the source distribution.\n"


def name(text: str, file: str) -> str:
    return f"`{file}`" if file.startswith(text) else f"{text}: `{file}`"


setup(
    long_description=page((Path(__file__).parent / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
)
