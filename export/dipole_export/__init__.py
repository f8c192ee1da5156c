"""Exports a trained model as a bundle that runs without torch: ``export_bundle(model, path)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dipole_export.exporter import export_bundle

__all__ = ["export_bundle"]


def __getattr__(name: str) -> Any:
    # Imported only on demand: `dipole train` also starts from this package and must not need ONNX.
    if name == "export_bundle":
        from dipole_export.exporter import export_bundle

        return export_bundle
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
