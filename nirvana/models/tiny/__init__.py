"""Models of a few million bytes that come with the program, for demos and first steps.

They read bytes and were trained on English prose; `training.json` beside each records the training.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
NAMES = ("tiny-llama", "tiny-qwen3", "tiny-t5")
QUICK = NAMES[0]  # the first to try
