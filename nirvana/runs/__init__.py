"""Runs: a recipe, the results of its steps, and the jobs that compute them."""
