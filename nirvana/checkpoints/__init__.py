"""Checkpoints on disk: what is written, and how it is read back without running code from it."""
