"""Zero-shot tasks: how often the right answer is the likeliest.

Scored by lm-evaluation-harness. `tasks` finds them, `minimal_pairs` generates the built-in probe, `harness` runs them,
and `results` holds the outcome of every item, for paired comparisons.
"""
