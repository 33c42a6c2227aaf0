"""Experiments: a small sweep each, with an observation that a function of the measured rows confirms or refutes."""
