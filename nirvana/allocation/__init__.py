"""Sparsity allocation between layers and between attention and MLP. One file a rule; pure NumPy."""
