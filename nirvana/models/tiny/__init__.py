"""Models of a few million bytes that come with the program, for demos and first steps.

They read bytes and were trained on English prose; `training.json` beside each records the training.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
NAMES = ("tiny-llama", "tiny-qwen3", "tiny-t5")
QUICK = NAMES[0]  # the first to try
# Where pruning costs a tenth or more of the perplexity, and a minute of recovery gives about half of it back. The tiny
# T5's embeddings and cross-attention leave less to remove.
SPARSITY = {"tiny-llama": 0.7, "tiny-qwen3": 0.7, "tiny-t5": 0.5}
