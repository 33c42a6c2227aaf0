"""Checkpoints on disk: formats, writing, and verification."""
