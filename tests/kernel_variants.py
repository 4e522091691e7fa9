"""All kernels as they are launched on a GPU, one list a family."""

from importlib import import_module
from pathlib import Path

from variants.variant import Variant

__all__ = ["VARIANTS"]

_FAMILIES = sorted(path.stem for path in (Path(__file__).parent / "variants").glob("*.py"))
VARIANTS: dict[str, Variant] = {}
for _family in _FAMILIES:
    VARIANTS |= getattr(import_module(f"variants.{_family}"), "VARIANTS", {})
