"""Words and numbers as pages show them."""

from __future__ import annotations

import math
import re
import time

_SPECIAL = re.compile(r"([\\`*_\[\]{}()<>#$:|~!&])")


def plain(text: object) -> str:
    """Foreign text, such as a name or a message, escaped for Markdown."""
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
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size:.0f} bytes"


def milliseconds(seconds: float) -> str:
    """E.g. "0.912 ms", "62.9 ms", "1,570 ms"."""
    thousandths = seconds * 1e3
    return f"{thousandths:,.0f} ms" if thousandths >= 1e3 else f"{thousandths:.3g} ms"


def short(value: float) -> str:
    """A score in three significant digits, e.g. "0.0123", "4.2e-06"."""
    return f"{value:.3g}"


def count(value: float, noun: str) -> str:
    """A whole number with its noun, e.g. "1,536 neurons", "1 KV group"."""
    return f"{value:,.0f} {noun}" + ("" if value == 1 else "s")


def plus_minus(value: float, error: float | None) -> str:
    """A number with its standard error, if any, to two significant digits of the error, e.g. "12.74 ± 0.31"."""
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite"
    if error is None or not math.isfinite(error):
        return f"{value:,.4g}" if value < 1e6 else short(value)
    if error == 0 or abs(value) >= 1e6:
        return f"{short(value)} ± {short(error)}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:,.{decimals}f} ± {error:,.{decimals}f}"
