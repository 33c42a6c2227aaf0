"""The subcommands: one class each. They import torch and the engine only in `run`."""
