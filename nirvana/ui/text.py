"""Words and numbers as pages show them."""

from __future__ import annotations

import re
import time

_SPECIAL = re.compile(r"([\\`*_\[\]{}()<>#$:|~!&])")


def plain(text: object) -> str:
    """Text that came from elsewhere, such as a name or a message, so that Markdown shows it letter by letter."""
    return _SPECIAL.sub(r"\\\1", str(text)).replace("\n", " ")


def duration(seconds: float) -> str:
    """E.g. "0.4 s", "12 s", "3 min 05 s", "1 h 20 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def moment(epoch: float) -> str:
    """A time in words, e.g. "2026-05-04 16:20", in the server's time zone."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(epoch))


def millions(parameters: float) -> str:
    """A parameter count, e.g. "134.5 M", "8.03 B"."""
    return f"{parameters / 1e9:,.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:,.1f} M"


def megabytes(size: float) -> str:
    """A size in bytes in words, decimal units, e.g. "538 MB", "16.1 GB"."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size:.0f} bytes"
