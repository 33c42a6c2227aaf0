"""Names of the ways to quantise, for pages and command lines, which load no torch."""

from __future__ import annotations

SCHEMES = {"int8": "8-bit integers", "int4": "4-bit NormalFloat"}
