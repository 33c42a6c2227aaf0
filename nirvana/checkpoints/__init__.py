"""Checkpoints on disk: what is written, and how it is read back without running code from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nirvana.checkpoints.sizes import FORMATS, export_sizes

if TYPE_CHECKING:
    from nirvana.checkpoints.exporting import export

__all__ = ["FORMATS", "export", "export_sizes"]


def __getattr__(name: str) -> object:
    """Load `export`, which needs torch, when it is first used (PEP 562)."""
    if name != "export":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nirvana.checkpoints.exporting import export

    return export
