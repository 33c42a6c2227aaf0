"""The tasks: one module each. They import torch and the engine only in `perform`."""
