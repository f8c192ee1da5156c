"""The version of this package, which saved files name."""

from importlib.metadata import version

VERSION = version("dipole-sb3")
