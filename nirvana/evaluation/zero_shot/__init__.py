"""Zero-shot tasks: how often a model finds the right answer more likely than the wrong ones.

Scored by lm-evaluation-harness. `tasks` finds them, `minimal_pairs` writes the built-in probe, `harness` runs them, and
`results` holds what came out, item by item, so that two models can be compared on the same items.
"""
