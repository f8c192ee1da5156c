"""Exports a trained model as a bundle that runs without torch: ``export_bundle(model, path)``.

A driving agent's: ``export_plans(agent, path)``, which needs the extra ``driving``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dipole_export.exporter import export_bundle
    from dipole_export.plans import export_plans

__all__ = ["export_bundle", "export_plans"]


def __getattr__(name: str) -> Any:
    # Imported only on demand: `dipole train` also starts from this package and must not need ONNX.
    if name == "export_bundle":
        from dipole_export.exporter import export_bundle

        return export_bundle
    if name == "export_plans":
        from dipole_export.plans import export_plans

        return export_plans
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
