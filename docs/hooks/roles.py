"""Turns the roles in docstrings, such as :class:`~dipole_sb3.DIPOLE`, into links of the site; loaded by Griffe."""

from __future__ import annotations

import logging
import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`(?P<short>~?)(?P<name>[\w.]+)`")
_LOG = logging.getLogger("mkdocs.plugins.dipole_roles")


class Roles(griffe.Extension):
    """Names that exist become links, where the site has them; names that do not exist fail a strict build."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: Any) -> None:
        """After a package has been read."""
        if pkg.path != "stable_baselines3":
            _convert(pkg, loader)


def _convert(obj: griffe.Object, loader: griffe.GriffeLoader) -> None:
    if obj.docstring is not None:
        obj.docstring.value = _ROLE.sub(lambda role: _link(role, obj, loader), obj.docstring.value)
    for member in obj.members.values():
        if isinstance(member, griffe.Object):
            _convert(member, loader)


def _link(role: re.Match[str], obj: griffe.Object, loader: griffe.GriffeLoader) -> str:
    name = role["name"]
    shown = name.rpartition(".")[2] if role["short"] else name
    target = _target(name, obj, loader)
    if target is None:
        _LOG.warning("%s: its docstring names %s, which does not exist", obj.path, name)
    return f'<autoref identifier="{target or name}" optional><code>{shown}</code></autoref>'


def _target(name: str, obj: griffe.Object, loader: griffe.GriffeLoader) -> str | None:
    """Where the name leads, as seen from the object; None: nowhere."""
    scope: griffe.Object | None = obj
    while scope is not None:
        try:
            return str(scope[name].canonical_path)
        except KeyError:
            scope = scope.parent
        except griffe.AliasResolutionError as unread:  # something imported from a package that is not read here
            return str(unread.alias.target_path)
    package = name.partition(".")[0]
    if package in loader.modules_collection:
        try:
            return str(loader.modules_collection[name].canonical_path)
        except KeyError:
            return None
    # Packages are read one after the other: what another one has cannot be told here.
    return name if package.islower() and ("." in name or "_" in name) else None
