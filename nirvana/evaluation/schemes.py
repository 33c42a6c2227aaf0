"""Names of quantisation schemes, without torch, for pages and the command line."""

from __future__ import annotations

SCHEMES = {"int8": "8-bit integers", "int4": "4-bit NormalFloat"}
